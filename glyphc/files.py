"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from glyphc.errors import ArtifactError

EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp in archives: equal contents are equal files


def check_writable(path: Path) -> None:
    """ArtifactError when a file cannot be written there, to be known before the work and not after it.

    What exists there and is no file (a folder, a device such as /dev/null, a pipe) must not be replaced by one.
    """
    folder = path.parent
    if not folder.is_dir():
        problem = (
            f"{os.fspath(folder)!r} is not a folder" if folder.exists() else f"there is no folder {os.fspath(folder)!r}"
        )
    elif not os.access(folder, os.W_OK):
        problem = f"the folder {os.fspath(folder)!r} is not writable"
    elif path.exists() and not path.is_file():
        problem = "it is a folder" if path.is_dir() else "it is not a regular file"
    else:
        return
    raise ArtifactError(f"cannot write {os.fspath(path)!r}: {problem}")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all; ArtifactError when the place is not writable."""
    check_writable(path)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as f:
            temporary = Path(f.name)
            try:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
                temporary.chmod(0o666 & ~_umask())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as e:
        raise ArtifactError(f"cannot write {os.fspath(path)!r}: {e.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
