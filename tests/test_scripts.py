"""Every script under benchmarks/ and models/ runs: on small rings, few samples, few epochs, so figures mean nothing."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from image_networks import SHAPE, strided

from glyphc.analysis import cost_file
from glyphc.analysis.cost import CostModel
from glyphc.passes.pipeline import DEFAULT

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS, MODELS = ROOT / "benchmarks", ROOT / "models"
# Samples of each class that model scripts are given.
FEW = 12


def benchmark(*command: object) -> str:
    """A script's standard output."""
    run = subprocess.run(
        [sys.executable, *map(str, command)], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def slowly(*names: str) -> list[Any]:
    """Parameters of a test that are for the slow run alone."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


# -- benchmarks --


@pytest.mark.slow
def test_the_sweep() -> None:
    output = benchmark("sweep.py", "--ring", 2048, "--only", "16:2+2:3:13")
    row = output.splitlines()[-1]
    assert row.startswith("| 16 | 2+2 | 3 | 13 |")
    assert "refused" not in row


@pytest.mark.slow
def test_all_functions(tmp_path: Path) -> None:
    page = tmp_path / "functions.md"
    benchmark("functions.py", "--ring", 2048, "--degree", 27, "--output", page)
    assert page.read_text().count("| relu |") == 1
    assert "security insecure" in page.read_text()


def test_a_network() -> None:
    output = benchmark("-c", "import run, json; print(json.dumps(run.measure('breast-cancer-mlp', 16, 2048).security))")
    assert json.loads(output.splitlines()[-1]) == "insecure"


@pytest.mark.slow
def test_images(tmp_path: Path) -> None:
    (tmp_path / "network.onnx").write_bytes(strided().SerializeToString())
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (24, *SHAPE), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(24) % 3)
    pipeline = DEFAULT.replace("assign-layout", "assign-layout{images=always}")
    options = ("--batch", 8, "--calibration", 32, "--tolerance", 20, "--ring", 1024, "--passes", pipeline)
    output = benchmark("images.py", tmp_path, *options)
    assert "of 24 images" in output and "encrypted: class as float for 8 of 8 images" in output
    assert "security insecure" in output


@pytest.mark.slow
def test_stacks(tmp_path: Path) -> None:
    few = ("--widths", 2, "--depths", 1, "--side", 8, "--batch", 2, "--ring", 1024)
    text = benchmark("stacks.py", *few, "--output", tmp_path / "stacks.md", "--plot", tmp_path / "stacks.svg")
    assert (tmp_path / "stacks.md").read_text() in text and "NOT SECURE" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    # kernels of 3 to w and w to w channels, and the dense layer
    assert [row[3] for row in rows] == [str(9 * (6 + 3 * 4) + 20 + 0), str(9 * 24 + 80)]
    assert "if linear" in (tmp_path / "stacks.svg").read_text()


@pytest.mark.slow
def test_strategies_side_by_side(tmp_path: Path) -> None:
    page = tmp_path / "strategies.md"
    benchmark("strategies.py", "breast-cancer-mlp", "--ring", 1024, "--batches", 16, "--output", page)
    rows = [line for line in page.read_text().splitlines() if line.startswith("| 16 |")]
    assert [("slots" in row, "glyph" in row) for row in rows] == [(True, False), (False, True)]
    assert sum("taken by auto" in row for row in rows) == 1
    assert all("%" in row for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two-inputs", "lstm"])
def test_what_people_bring(name: str, tmp_path: Path) -> None:
    page = tmp_path / "brought.md"
    benchmark("brought.py", name, "--steps", 5, "--batch", 4, "--ring", 2048, "--output", page)
    assert page.read_text().count(f"| {name} (4) |") == 1
    assert "insecure" in page.read_text()


@pytest.mark.slow
def test_the_table_of_estimators(tmp_path: Path) -> None:
    page = tmp_path / "estimators.md"
    output = benchmark("field.py", "--estimators", "--only", "Ridge", "--skip", "Polynomial", "--output", page)
    assert "2 models: 2 compile and predict within 1 % (2 in all outputs)" in output
    assert page.read_text().count("| compiled |") == 2


@pytest.mark.slow
def test_the_round_trip_over_http(tmp_path: Path) -> None:
    call = "service.round_trip(Path(sys.argv[1]), 4, '--insecure-ring', 2048)"
    code = f"import sys, service; from pathlib import Path; print({call}[1])"
    assert 0 <= float(benchmark("-c", code, tmp_path).splitlines()[-1]) <= 1


@pytest.mark.slow
def test_workers_against_one_process(tmp_path: Path) -> None:
    options = ("--batch", 2, "--passes", 2, "--workers", 1, "--ring", 1024, "--plot", tmp_path / "plot.svg")
    lines = benchmark("cluster.py", *options, "--output", tmp_path / "cluster.md").splitlines()
    assert [line.split("|")[4].strip() for line in lines[2:4]] == ["yes", "yes"]
    assert "NOT SECURE" in (tmp_path / "cluster.md").read_text()
    assert "times as fast as one" in (tmp_path / "plot.svg").read_text()


@pytest.mark.slow
def test_load_with_a_kill(tmp_path: Path) -> None:
    options = ("--clients", 1, "--jobs", 3, "--kills", 1, "--batch", 2, "--ring", 1024, "--workers", 1)
    lines = benchmark("load.py", *options, "--output", tmp_path / "load.md").splitlines()
    assert set(lines[1]) == set("|- ")
    clients, workers, jobs, lost, wrong = (int(cell) for cell in lines[2].strip("| ").split(" | ")[:5])
    assert (clients, workers, lost, wrong) == (1, 1, 0, 0) and jobs >= 3
    assert "NOT SECURE" in (tmp_path / "load.md").read_text()


def test_the_table_of_shipped_costs(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    cost_file.save(path, CostModel())
    output = benchmark("shipped_costs.py", path)
    assert output.count("Configuration(\n") == len(CostModel().configurations)
    assert output.count("    SlotRow(") == len(CostModel().slots)


def test_prices_of_integers() -> None:
    assert benchmark("integer_costs.py", "--ring", 1024, "--limbs", 2).startswith("    IntegerRow(2, ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic", "softmax", "mlp", "residual"])
def test_training(name: str) -> None:
    output = benchmark(f"train_{name}.py", "--mode", "simulate", "--steps", 1, "--batch", 4, "--insecure-ring", 4096)
    assert "test accuracy, simulate" in output


@pytest.mark.slow
@pytest.mark.parametrize("plan", [True, False])
def test_training_then_serving(plan: bool, tmp_path: Path) -> None:
    """Encrypted in all roles, or predicted and simulated alone: what is said, and that it agrees."""
    few = ("--steps", 1, "--samples", 3, "--batch", 2, "--ring", 2048, *(("--plan",) if plan else ()))
    text = benchmark("train_serve.py", *few, "--output", tmp_path / "serve.md")
    assert (tmp_path / "serve.md").read_text() in text
    assert "2 passes of" in text and ("NOT SECURE" in text) is not plan
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == ([] if plan else ["| prepare", "| run", "| request", "| infer", "| predict", "| finish"])
    if not plan:
        assert float(text.partition("beside simulated: outputs within ")[2].split()[0]) < 0.05


@pytest.mark.slow
def test_training_systems(tmp_path: Path) -> None:
    small = ("--ring", 1024, "--hidden", 4, "--batch", 8, "--gates", 0, "--rows", "onoufriou", "--long", 2)
    text = benchmark("training_systems.py", *small, "--output", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() in text
    (row,) = (line.split(" | ") for line in text.splitlines() if line.startswith("| onoufriou"))
    assert row[1] == "run" and row[7] == "2 (2)"
    assert "512 held-out samples: floats" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["large", "transfer"])
def test_training_cases(name: str) -> None:
    """The jobs of the larger ones are made; their references alone take minutes."""
    module = importlib.import_module(f"train_{name}")
    if name == "transfer":
        module.LONG_STEPS, module.LONG = 1, module.SGD(0.3)  # type: ignore[attr-defined]
    given = argparse.Namespace(
        mode="simulate", steps=1, batch=4, samples=None, insecure_ring=4096, compare=False, augmented=False
    )
    case = module.case(given)
    assert 0 <= case.accuracy(case.job.network) <= 1


# -- models --


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a model script, which writes to a folder of the test's, and gets few samples."""
    monkeypatch.syspath_prepend(str(MODELS))
    datasets = importlib.import_module("datasets")
    monkeypatch.setattr(datasets, "DATA_DIR", tmp_path)

    def few(load: Callable[[], Any]) -> Callable[[], Any]:
        def loaded() -> Any:
            split = load()
            rows = {}
            for part in ("train", "test"):
                y = getattr(split, f"y_{part}")
                rows[part] = np.concatenate([np.flatnonzero(y == c)[:FEW] for c in np.unique(y)])
            return type(split)(*(v[rows["train" if i < 2 else "test"]] for i, v in enumerate(split)))

        return loaded

    for name in ("digits", "breast_cancer", "mnist", "shapes"):
        monkeypatch.setattr(datasets, name, few(getattr(datasets, name)))
    monkeypatch.setattr(datasets, "SPLITS", {name: few(load) for name, load in datasets.SPLITS.items()})

    def imported(name: str) -> ModuleType:
        module = importlib.import_module(name)
        if hasattr(module, "MODEL"):
            monkeypatch.setattr(module, "MODEL", tmp_path / module.MODEL.name)
        return module

    return imported


@pytest.mark.parametrize("name", ["digits_mlp", "breast_cancer_mlp", *slowly("mnist_mlp")])
def test_perceptrons(name: str, models: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    module = models(name)
    classifier = module.MLPClassifier
    monkeypatch.setattr(module, "MLPClassifier", lambda **o: classifier(**{**o, "max_iter": 2}))
    if name == "mnist_mlp":
        monkeypatch.setattr(module, "DISTORTED_COPIES", 1)
    module.main()
    assert module.MODEL.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["elnino_cnn", "mnist_lenet", "digits_resnet", "shapes_resnet", "digits_backbone"])
def test_convolutional_networks(
    name: str, models: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = models(name)
    if name == "mnist_lenet":
        monkeypatch.setattr(module, "augmented", lambda images: images)
    if name == "digits_backbone":
        digits = module.load_digits
        monkeypatch.setattr(module, "load_digits", lambda **o: [values[: 10 * FEW] for values in digits(**o)])
        monkeypatch.setattr(module, "COPIES", 1)
    fit = module.fit
    monkeypatch.setattr(module, "fit", lambda *a, **o: fit(*a, **{**o, "epochs": 1, "batch": 8}))
    module.main()
    assert module.MODEL.stat().st_size > 1000


def test_data_files(models: Callable[[str], ModuleType], tmp_path: Path) -> None:
    models("datasets").main()
    assert len(list(tmp_path.glob("*-train.npy"))) == 4


def test_evaluation(models: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores, labels = np.eye(4)[[0, 1, 2, 3]], np.array([0, 1, 2, 0])
    np.save(tmp_path / "scores.npy", scores)
    np.save(tmp_path / "labels.npy", labels)
    models("evaluate").main([str(tmp_path / "scores.npy"), str(tmp_path / "labels.npy")])
    assert "75.00%" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.xdist_group("128-bit")
@pytest.mark.skipif("GLYPHC_TEST_RESNET20" not in os.environ, reason="GLYPHC_TEST_RESNET20 names no folder")
def test_a_published_residual_network() -> None:
    """A ResNet-20 on CIFAR-10, in simulation: compiled in 3 GB, the class of at least 58 of 60 images as in float."""
    output = benchmark("images.py", os.environ["GLYPHC_TEST_RESNET20"], "--plan")
    found = re.search(r"([\d.]+) GB; 48 images at once, 184 bootstraps", output)
    assert found is not None and float(found[1]) < 3
    kept = re.search(r"class as float for (\d+) of 60 images", output)
    assert kept is not None and int(kept[1]) >= 58
