"""Keys of the engine ``kernels`` in files: both roles on files, a checkpoint, and what is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glyphc.backends.kernels import selftest
from glyphc.errors import ArtifactError, GlyphcError, ParameterError
from glyphc.exchange.key_checks import check_keys
from glyphc.exchange.server import Evaluator
from glyphc.progress import Silent
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import KEY_PART, KeysHeader
from tests.roles import Setting, compiled, make_setting, samples


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """With encrypted weights, so that all kinds of parts are there."""
    return make_setting(tmp_path_factory.mktemp("kernels"), compiled(encrypt_weights="fc1.weight"), "kernels")


class Stopped(Exception):  # noqa: N818
    pass


class Stopping(Silent):
    """Ends an evaluation after some instructions."""

    def __init__(self, instructions: int) -> None:
        self._left = instructions

    def advance(self, amount: float, what: str = "") -> None:
        self._left -= 1
        if self._left < 0:
            raise Stopped


def test_a_round_trip_that_is_taken_up_again(setting: Setting, tmp_path: Path) -> None:
    x = samples(5)  # two passes
    setting.account.encrypt(x, tmp_path / "in")
    count = len(setting.half.schedule.instructions)
    with Evaluator(setting.half, setting.keys) as evaluator:
        files = tmp_path / "in", tmp_path / "out", tmp_path / "checkpoint"
        for instructions in (count // 2, count + 3):
            with pytest.raises(Stopped):
                evaluator.evaluate(*files, reporter=Stopping(instructions), checkpoint_seconds=0.0)
        report = evaluator.evaluate(*files, flooding_bits=0)
        assert report.resumed > count
        again = evaluator.evaluate(tmp_path / "in", tmp_path / "hidden", flooding_bits=1)
        assert again.resumed == 0
    clear, simulated = (np.asarray(setting.program.run(x, mode=m)) for m in ("clear", "simulate"))
    deviation = np.sqrt(np.mean((simulated - clear) ** 2))
    for name in ("out", "hidden"):
        (logits,) = setting.account.decrypt(tmp_path / name).values()
        assert np.sqrt(np.mean((logits - clear) ** 2)) < 2 * deviation + 1e-3 * np.ptp(clear)


def test_keys_serve_one_engine(setting: Setting, tmp_path: Path) -> None:
    assert check_keys(setting.keys, setting.half, engine="kernels") == setting.account.secret.key
    with pytest.raises(ArtifactError, match="keys for the engine 'kernels', not for 'openfhe'; leave --engine out"):
        check_keys(setting.keys, setting.half, engine="openfhe")
    with Reader(setting.keys, KeysHeader) as reader:
        header, names = reader.header, list(reader.parts)
    assert all(KEY_PART.fullmatch(name) for name in names)
    for changes, message in (
        ({"engine": "abacus"}, "the engine 'abacus', which this glyphc reads none of"),
        ({"shape": "0" * 64}, "in another form than this glyphc's"),
        ({"engine": "openfhe"}, "in another form than this glyphc's"),
    ):
        changed = tmp_path / "changed"
        with Writer(changed, replace(header, **changes)):
            pass
        with pytest.raises(ArtifactError, match=message):
            check_keys(changed, setting.half)
        changed.unlink()


def test_residues_beyond_their_primes_are_refused(setting: Setting, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    with Reader(setting.keys, KeysHeader) as reader, Writer(changed, reader.header) as writer:
        for name in reader.parts:
            data = reader.read(name)
            writer.add(name, b"\xff" * len(data) if name == "kernels/dense" else data)
    with pytest.raises(ArtifactError, match="a residue is not below its modulus"):
        Evaluator(setting.half, changed)


def test_engines_without_key_files(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(GlyphcError, match="'simulate' has no keys in files"):
        make_setting(tmp_path / "other", setting.program, "simulate")


def test_a_machine_without_the_instructions(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "problem", lambda: "no fused multiply-add")
    with pytest.raises(ParameterError, match="no fused multiply-add; these keys are for the engine 'kernels' alone"):
        Evaluator(setting.half, setting.keys)


def test_keys_larger_than_the_memory_limit_are_not_read(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLYPHC_MEMORY_LIMIT", "1MB")
    with pytest.raises(GlyphcError, match="a set of evaluation keys of this program needs about"):
        Evaluator(setting.half, setting.keys)
