"""OpenFHE's random generator, in processes that are forked.

OpenFHE seeds one generator per thread from the system, with 512 bits, and keeps it. A forked child inherits that of the
thread that forked: what the child draws, its parent and its siblings draw too. Two of them would make ciphertexts with
one error under different uniform halves, whose difference is free of noise and gives the secret away; and keys that
two of them make would have one secret. OpenFHE makes a generator wherever a thread has none. So a child forgets the
inherited one before any other code runs in it, by Python's hook for forks, which multiprocessing and pre-forking
servers go through as well. Where that is impossible, whatever draws refuses (``require_own``).
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import BackendError
from .library import fhe

_CORE = "libOPENFHEcore.so.1"
# PseudoRandomNumberGenerator::m_prng, a thread's own std::shared_ptr: address of the generator, then of its count.
_GENERATOR = "_ZN8lbcrypto27PseudoRandomNumberGenerator6m_prngE"
_ADVICE = (
    "start processes that encrypt or make keys afresh: multiprocessing.set_start_method('spawn'), or load glyphc after "
    "the fork"
)


@dataclass
class _Owner:
    """The process whose threads' generators are their own."""

    process: int


_owner = _Owner(os.getpid())


def require_own() -> None:
    """Called before everything that draws secrets or errors.

    BackendError in a process that may share its generator with another one: it was forked without Python's knowledge,
    or this build of OpenFHE does not let the generator be replaced.
    """
    if os.getpid() != _owner.process:
        raise BackendError(
            "this process was forked after OpenFHE was loaded and would draw the same random numbers as its parent, "
            f"which gives secrets away; {_ADVICE}"
        )


def _core() -> ctypes.CDLL | None:
    """OpenFHE's library as it is loaded, if it is built the way that is known here."""
    path = Path(fhe.__file__).parent / "lib" / _CORE
    try:
        core = ctypes.CDLL(os.fspath(path), mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        _generator(core)
    except (OSError, ValueError, AttributeError):
        return None
    return core


def _generator(core: ctypes.CDLL) -> ctypes.Array[ctypes.c_void_p]:
    """The calling thread's pointer to its generator; the dynamic linker resolves the thread."""
    return (ctypes.c_void_p * 2).in_dll(core, _GENERATOR)


def _renew() -> None:
    """Make this thread forget its generator. Runs in a forked child, in the one thread that is left there.

    The old one is not freed (4 KiB): its memory is the parent's until then. OpenMP's threads did not survive the fork
    either, though its tables say so, and the next parallel section would wait for them for ever: from here on OpenFHE
    runs in one thread.
    """
    core = _CORE_LIBRARY
    if core is None:
        return
    pointers = _generator(core)
    if pointers[0] is not None:
        core.omp_set_max_active_levels(0)
    pointers[0] = pointers[1] = None
    _owner.process = os.getpid()


_CORE_LIBRARY = _core()
os.register_at_fork(after_in_child=_renew)
