"""What this machine brings for encrypted runs, what is missing, and how to mend it. ``glyphc doctor`` prints it."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from glyphc import free_memory
from glyphc.analysis import cost_file
from glyphc.analysis.kernels_cost import for_engine
from glyphc.backends.engine import PREFERRED, engine
from glyphc.errors import GlyphcError
from glyphc.measure import this_machine

# Bytes. The perceptrons of models/ need so much at 128-bit security, and all of them so much.
SMALL_RUN, ANY_RUN = 5e9, 10e9
# Bytes: keys and checkpoints of one client of a service, and the compiled kernels.
FREE_DISK = 10e9
# What each optional part of the installation is for, and the module that shows whether it is there.
_EXTRAS: Mapping[str, tuple[str, str]] = {
    "service": ("uvicorn", "glyphc serve, glyphc submit"),
    "cluster": ("distributed", "eval, serve and training run with --cluster"),
    "sklearn": ("skl2onnx", "scikit-learn's estimators in glyphc.compile"),
    "torch": ("torch", "PyTorch's modules in glyphc.compile"),
}


class State(Enum):
    """How a finding is meant. MISSING: encrypted runs do not work; NOTE: they do, but slower, or without something."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. remedy: what to do about it, in a sentence; empty where nothing is to be done."""

    subject: str
    state: State
    found: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, one after another; takes a few seconds, for OpenFHE and the kernels are loaded."""
    for look in (_python, _openfhe, _kernels, _processors, _memory, _disk, _cache, _costs):
        yield look()
    for extra, (module, purpose) in _EXTRAS.items():
        yield _extra(extra, module, purpose)


def _python() -> Finding:
    return Finding("python", State.OK, f"{sys.version.split()[0]} at {sys.executable}")


def _openfhe() -> Finding:
    problem = engine("openfhe").problem()
    if problem is None:
        return Finding("openfhe", State.OK, this_machine().openfhe)
    return Finding("openfhe", State.MISSING, problem, "install glyphc again with CPython 3.10, or 3.12 on Ubuntu 24.04")


def _kernels() -> Finding:
    problem = engine("kernels").problem()
    if problem is None:
        return Finding("kernels", State.OK, f"the vectorised engine runs on this processor ({_vectors()})")
    return Finding("kernels", State.NOTE, problem, "programs run on the engine 'openfhe', some six times slower")


def _processors() -> Finding:
    machine, present = this_machine(), os.cpu_count() or 1
    found = f"{machine.cores} cores of {machine.processor}"
    if machine.cores < present:
        return Finding(
            "cores", State.NOTE, f"{found}; the machine has {present}", "taskset or the container limits them"
        )
    if machine.threads < machine.cores:
        return Finding(
            "cores", State.NOTE, f"{found}, {machine.threads} threads", "OMP_NUM_THREADS asks for fewer threads"
        )
    return Finding("cores", State.OK, found)


def _memory() -> Finding:
    room, limit = free_memory.available_bytes(), free_memory.container_limit()
    found = f"{room / 1e9:.1f} GB available" + (f" (this container's limit is {limit / 1e9:.1f} GB)" if limit else "")
    if room < SMALL_RUN:
        return Finding(
            "memory",
            State.MISSING,
            found,
            f"perceptrons take up to {SMALL_RUN / 1e9:.0f} GB at 128-bit security; small batches take half of that",
        )
    if room < ANY_RUN:
        return Finding(
            "memory", State.NOTE, found, f"convolutional networks and training take {ANY_RUN / 1e9:.0f} GB and more"
        )
    return Finding("memory", State.OK, found)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    if free < FREE_DISK:
        return Finding(
            "disk",
            State.NOTE,
            found,
            "a batch's evaluation keys take 0.6 to 4 GB, a service keeps them for each client",
        )
    return Finding("disk", State.OK, found)


def _cache() -> Finding:
    """Whether compiled kernels outlive the process."""
    from glyphc.backends.kernels.warm import cache_folder, compiled

    folder = cache_folder()
    if compiled():
        return Finding("compiled kernels", State.OK, f"kept in {folder}")
    if folder is not None and _writable(folder):
        return Finding("compiled kernels", State.OK, f"the first run compiles them (half a minute) to {folder}")
    return Finding(
        "compiled kernels",
        State.NOTE,
        "cannot be kept: every process compiles them again",
        "set NUMBA_CACHE_DIR to a folder of yours",
    )


def _costs() -> Finding:
    try:
        origin = cost_file.source()
        if origin is None:
            return Finding(
                "cost model",
                State.NOTE,
                "ships with glyphc",
                "'glyphc measure' measures this machine (some minutes)",
            )
        machine = for_engine(cost_file.current(), PREFERRED[0]).machine
    except GlyphcError as e:
        return Finding("cost model", State.NOTE, str(e), "'glyphc measure' writes it again")
    here = this_machine()
    if (machine.processor, machine.cores) != (here.processor, here.cores):
        return Finding(
            "cost model",
            State.NOTE,
            f"{origin} is of {machine.text}",
            "'glyphc measure' measures this machine",
        )
    return Finding("cost model", State.OK, f"{origin}, measured here on {machine.date}")


def _extra(extra: str, module: str, purpose: str) -> Finding:
    try:
        importlib.import_module(module)
    except ImportError:
        return Finding(f"glyphc[{extra}]", State.NOTE, f"not installed: {purpose}", f"pip install 'glyphc[{extra}]'")
    return Finding(f"glyphc[{extra}]", State.OK, purpose)


def _vectors() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return "vectors unknown"
    return "AVX-512" if "avx512f" in flags else "AVX2"


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)
