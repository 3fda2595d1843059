"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

from glyphc.errors import ArtifactError, DataError

EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp in archives: equal contents are equal files
_REMNANT = ".part"


def check_writable(path: Path) -> None:
    """ArtifactError when a file cannot be written there, to be known before the work and not after it.

    What exists there and is no file (a folder, a device such as /dev/null, a pipe) must not be replaced by one.
    """
    folder = path.parent
    if not folder.is_dir():
        problem = (
            f"{os.fspath(folder)!r} is not a folder"
            if folder.exists()
            else f"there is no folder {os.fspath(folder)!r}; make it first"
        )
    elif not os.access(folder, os.W_OK):
        problem = f"the folder {os.fspath(folder)!r} is not writable"
    elif path.exists() and not path.is_file():
        problem = "it is a folder" if path.is_dir() else "it is not a regular file"
    else:
        return
    raise ArtifactError(f"cannot write {os.fspath(path)!r}: {problem}")


class Replacement:
    """A file beside ``path`` that takes its place when it is whole; readable by its owner only until then.

    ``file`` is to be written. What killed processes left of earlier attempts is removed: an attempt that is alive holds
    a lock on its file. OSError as from the file system.
    """

    def __init__(self, path: Path) -> None:
        remove_remnants(path)
        self.path = path
        # made with mode 0600
        self.file: BinaryIO = tempfile.NamedTemporaryFile(  # type: ignore[assignment]  # noqa: SIM115
            dir=path.parent, prefix=f".{path.name}", suffix=_REMNANT, delete=False
        )
        self._temporary = Path(self.file.name)
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def keep(self, secret: bool = False) -> None:
        """Put the file into its place. secret: with its mode 0600, else as new files are."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if not secret:
            self._temporary.chmod(0o666 & ~_umask())
        self._temporary.replace(self.path)
        _sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the file, and remove it unless it was kept."""
        try:
            self.file.close()
        except OSError:
            pass  # what did not fit on a full disk is given up
        finally:
            self._temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the file system keep a new name, too: a power cut must not bring the old file back."""
    with contextlib.suppress(OSError):  # not every file system takes it
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_remnants(path: Path) -> None:
    """Remove what killed processes left when they were writing ``path``."""
    for remnant in path.parent.glob(f".{glob.escape(path.name)}{8 * '?'}{_REMNANT}"):
        with contextlib.suppress(OSError), open(remnant, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remnant.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all; ArtifactError when the place is not writable."""
    check_writable(path)
    try:
        with contextlib.closing(Replacement(path)) as replacement:
            replacement.file.write(data)
            replacement.keep()
    except OSError as e:
        raise ArtifactError(f"cannot write {os.fspath(path)!r}: {e.strerror}") from None


def make_folder(path: Path, mode: int) -> None:
    """A folder with those above it, as they are missing; DataError when it cannot be made."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"cannot make the folder {os.fspath(path)!r}: {e.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
