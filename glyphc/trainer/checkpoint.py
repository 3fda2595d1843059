"""The folder of a run: its checkpoint, and for encrypted runs the folders of both roles.

checkpoint.zip      whose run it is; without encryption, steps done and the state's values
client/             the secret key and the job: never leave the client
server/             program, evaluation keys, encrypted batches and state (see ``exchange.training_files``)
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from glyphc.errors import ArtifactError
from glyphc.files import EPOCH, write_atomically
from glyphc.ir.errors import IRError
from glyphc.ir.typed_json import TypedJSON
from glyphc.storage.archive import ArchiveError, contents, read_entries
from glyphc.train.ranges import Ranges

_VERSION = 2
_MOST_PARTS = 1 << 17
_JSON = TypedJSON()
_CHECKPOINT = "checkpoint.zip"
_KINDS = (_CHECKPOINT, "client", "server")


@dataclass(frozen=True)
class Checkpoint:
    """fingerprint: of the job; mode: how it runs; step: steps done; parts: what the state consists of, by name.

    ranges: that the run was planned for; None in the clear.
    """

    fingerprint: str
    mode: str
    step: int
    parts: dict[str, bytes]
    ranges: Ranges | None


@dataclass(frozen=True)
class RunFolder:
    """A folder that belongs to one run."""

    path: Path

    @property
    def client(self) -> Path:
        return self.path / "client"

    @property
    def server(self) -> Path:
        return self.path / "server"

    def create(self) -> None:
        """Make the folder; ArtifactError when something is there already."""
        if self.path.exists():
            raise ArtifactError(
                f"{str(self.path)!r} exists: an earlier run was interrupted. Go on with it (--resume), or delete it"
            )
        try:
            self.path.mkdir(mode=0o700)
            self.client.mkdir(mode=0o700)
            self.server.mkdir()
        except OSError as e:
            raise ArtifactError(f"cannot make the folder {str(self.path)!r}: {e.strerror}") from None

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the last checkpoint; the file appears whole or not at all."""
        head = {"version": _VERSION, **{k: getattr(checkpoint, k) for k in ("fingerprint", "mode", "step")}}
        parts = {"manifest": json.dumps(head).encode(), **checkpoint.parts}
        if checkpoint.ranges is not None:
            parts["ranges"] = _JSON.text(checkpoint.ranges, Ranges).encode()
        write_atomically(self.path / _CHECKPOINT, pack(parts))

    def load(self, fingerprint: str, mode: str) -> Checkpoint:
        """The last checkpoint; ArtifactError when there is none, or it is another job's or damaged."""
        path = self.path / _CHECKPOINT
        if not path.is_file():
            raise ArtifactError(
                f"there is nothing to resume: no file {str(path)!r}. If there is a folder {str(self.path)!r}, its run "
                "was stopped before its first checkpoint: delete it. Then start anew without --resume"
            )
        parts = unpack(path)
        try:
            head = json.loads(parts.pop("manifest"))
            saved = parts.pop("ranges", None)
            ranges = None if saved is None else _JSON.read(saved.decode(), Ranges)
            found = Checkpoint(str(head["fingerprint"]), str(head["mode"]), int(head["step"]), parts, ranges)
            version = head["version"]
        except (KeyError, ValueError, TypeError, IRError) as e:
            raise ArtifactError(f"{str(path)!r} is damaged ({e!r}); start anew without --resume") from None
        if version != _VERSION:
            raise ArtifactError(f"{str(path)!r} is of version {version}, this glyphc reads {_VERSION}")
        if (found.fingerprint, found.mode) != (fingerprint, mode):
            raise ArtifactError(
                f"{str(path)!r} belongs to another run: model, data, mode and all options but the number of steps must "
                "be the same to resume it"
            )
        return found

    def delete(self) -> None:
        """Remove what a run puts here, then the folder if nothing else is in it."""
        for name in _KINDS:
            part = self.path / name
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()


def pack(parts: dict[str, bytes]) -> bytes:
    """Named parts as one (zip) file. Not compressed: ciphertexts are random."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data)
    return buffer.getvalue()


def unpack(path: Path) -> dict[str, bytes]:
    """The inverse of :func:`pack`; ArtifactError when the file is missing or damaged."""
    try:
        with open(path, "rb") as file:
            return {entry.name: contents(file, entry) for entry in read_entries(file, _MOST_PARTS)}
    except OSError as e:
        raise ArtifactError(f"cannot read {str(path)!r}: {e.strerror}") from None
    except ArchiveError as e:
        raise ArtifactError(f"{str(path)!r} is damaged ({e!r}); start anew without --resume") from None
