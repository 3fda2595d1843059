"""The residual network of models/ for drawn images: simulated ciphertexts say of them what ONNX Runtime says."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import run_onnxruntime

import glyphc

MODELS = Path(__file__).resolve().parents[1] / "models"
RING = 16384


@pytest.mark.slow
def test_classes_of_drawn_images_are_those_of_the_float_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(MODELS))
    draw_all = importlib.import_module("shapes").draw_all
    model, (x, classes) = onnx.load(MODELS / "shapes-resnet.onnx"), draw_all(16, 99)
    program = glyphc.compile(model, draw_all(64, 98)[0], batch=1, strategy="glyph", tolerance=5.0, insecure_ring=RING)
    layouts = [n.type.layout for n in program.graph if n.op.mnemonic == "bootstrap"]
    assert all(layout is not None and layout.image is not None for layout in layouts)
    (wanted,) = run_onnxruntime(model, x).values()
    found = np.asarray(program.run(x.astype(np.float64), "simulate"))
    # a class may change where two are nearly as likely
    assert np.mean(found.argmax(axis=1) == wanted.argmax(axis=1)) > 0.8
    assert np.mean(wanted.argmax(axis=1) == classes) > 0.7
    assert np.abs(found - wanted).mean() < 0.1 * np.ptp(wanted)
