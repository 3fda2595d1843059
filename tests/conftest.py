"""Settings for all tests, made before OpenFHE is loaded."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Small rings gain nothing from threads. Tests at 128-bit run in processes of their own, with all cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Bytecode is kept beside the modules, as numba keeps its machine code there, even where the environment asks for none:
# else every process compiles all modules anew, and every run the tests with their assertions.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests read the cost model that ships with glyphc, never the developer's own.
os.environ["GLYPHC_COST_MODEL"] = ""


def pytest_configure() -> None:
    """What property tests draw that do not say it themselves."""
    from strategies import examples

    # CI must say whether a change breaks something, and nothing else: the same examples every time. Elsewhere new ones
    # are tried.
    settings.register_profile("glyphc", examples(100), derandomize=bool(os.environ.get("CI")))
    settings.load_profile("glyphc")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than cores: tests of services wait for processes, an eighth of their time. Those at 128-bit do not."""
    return (os.cpu_count() or 1) + (config.option.markexpr != "slow")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: the garbage collector need not look at them, neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files of the tests that run")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of its own, and no variable that names a cost model."""
    monkeypatch.delenv("GLYPHC_COST_MODEL")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def _own_activations() -> Iterator[None]:
    """Activations that a test registers are gone after it."""
    import glyphc

    before = glyphc.activations()
    yield
    for name in set(glyphc.activations()) - set(before):
        glyphc.unregister_activation(name)


@pytest.fixture(scope="session")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What tests of inspection look at (``tests.inspected.Inspected``)."""
    from tests.inspected import Inspected

    return Inspected(tmp_path_factory.mktemp("inspected"))


# -- for the tests of wrong inputs --


@pytest.fixture(scope="session")
def digits_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network as the command compiles it."""
    from tests.commands import succeeding
    from tests.wrong_inputs import MODEL, TRAIN

    path = tmp_path_factory.mktemp("artifact") / "digits.glyphc"
    succeeding("compile", MODEL, "--calibration", TRAIN, "--batch", 8, "-o", path)
    return path


@pytest.fixture(scope="session")
def linear_network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network of one layer and its artifact: they load faster, and take the same input as the digits."""
    from tests.commands import succeeding
    from tests.wrong_inputs import TRAIN, one_layer

    net = one_layer(tmp_path_factory.mktemp("linear"))
    succeeding("compile", net, "--calibration", TRAIN)
    return net, net.with_suffix(".glyphc")


@pytest.fixture(params=["absent", "older"])
def older(request: pytest.FixtureRequest) -> bool:
    """Whether the output of an earlier command stands where the failing one would write."""
    return bool(request.param == "older")
