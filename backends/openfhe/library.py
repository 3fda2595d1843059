"""Loads OpenFHE once, with a clear message when that fails, and prepares the process for it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Any

from ..errors import BackendError

# glibc's mallopt parameters
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def _import_openfhe() -> Any:
    try:
        import openfhe
    except ImportError as e:
        version = ".".join(map(str, sys.version_info[:2]))
        raise BackendError(
            f"OpenFHE cannot be loaded by this Python {version} on "
            f"{' '.join(platform.libc_ver()) or platform.system()} ({e}). Its "
            "wheels are made for CPython 3.10 (glibc 2.34 or later: openfhe==1.6.1.0.22.4) and CPython 3.12 "
            "(Ubuntu 24.04 or "
            "later: openfhe==1.6.1.0.24.4); install glyphc with one of them"
        ) from None
    return openfhe


def _yield_while_waiting() -> None:
    """Let OpenMP threads sleep at barriers instead of spinning, unless the user decided otherwise.

    As fast on an idle machine, and many times faster where another process wants a core: spinning threads would take
    the
    time that the thread they wait for needs. Read by the OpenMP runtime when OpenFHE loads it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it to the system.

    OpenFHE allocates and frees a vector of 512 KiB per ring element and operation; by default each costs fresh,
    zeroed pages.
    Key generation and set-up take about half the time with this.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 64 << 20)


_yield_while_waiting()
fhe = _import_openfhe()
_keep_freed_memory()
# A ciphertext is deserialised into a context that exists already (see bridge.py): its tables need not be made again.
fhe.DisablePrecomputeCRTTablesAfterDeserializaton()
