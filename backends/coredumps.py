"""Keeps memory that holds secrets out of core dumps."""

from __future__ import annotations

import ctypes
import platform
import resource

_PR_SET_DUMPABLE = 4


def no_core_dumps() -> None:
    """From here on a crash of this process leaves no image of its memory. Called wherever a secret key comes to be.

    The limit does it where cores are files. A kernel that pipes them to a program does not look at it, so on Linux the
    process is marked as well, which also keeps other processes of the same user from attaching to it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
