"""A compiled program: its graphs at every stage, its schedule, and the artifact file that keeps it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphc.errors import ArtifactError
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import ClientSpec, Schedule
from glyphc.ir.text import parse, to_text
from glyphc.ir.types import Level
from glyphc.ir.verify import verify

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from glyphc.progress import Reporter
    from glyphc.runtime import Mode

INSECURE_WARNING = (
    "NOT SECURE: this program uses a small ring that was asked for by name, for tests only. It protects nothing."
)


class InsecureWarning(UserWarning):
    """A program with parameters that protect nothing."""


FORMAT = "glyphc-program"
VERSION = 1
_PART = re.compile(r"stages/[0-9]+-[a-z-]+\.gir")
EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp: equal programs are equal files


class Program:
    """What ``glyphc.compile`` returns. ``stages``: graphs by stage name, in the order they were made.

    notes: what the user should know of how it was compiled; not kept in artifacts.
    """

    def __init__(self, stages: Mapping[str, Graph], requested_batch: int, notes: tuple[str, ...] = ()) -> None:
        self.stages = dict(stages)
        self.requested_batch = requested_batch
        self.notes = notes

    @property
    def graph(self) -> Graph:
        """The final graph: laid out, with parameters."""
        return next(reversed(self.stages.values()))

    @property
    def quantized(self) -> Graph:
        """The first graph in fixed point, which ``run(mode="clear")`` evaluates: it defines what the program computes.

        The quantized one, unless compilation began behind it.
        """
        return next(g for g in self.stages.values() if g.level >= Level.QUANTIZED)

    @cached_property
    def schedule(self) -> Schedule:
        """The server's instructions."""
        from glyphc.passes.schedule import schedule

        return schedule(self.graph)

    @property
    def client(self) -> ClientSpec:
        """All that the client needs to know of the program."""
        return self.schedule.client

    @property
    def secure(self) -> bool:
        """False for the small rings of tests."""
        return self.client.parameters.secure

    def warn_if_insecure(self) -> None:
        """A Python warning for programs on small rings, so that no output of theirs comes without one."""
        if not self.secure:
            warnings.warn(INSECURE_WARNING, InsecureWarning, stacklevel=3)

    def run(
        self,
        x: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        mode: Mode | str = "encrypted",
        reporter: Reporter | None = None,
    ) -> npt.NDArray[np.floating[Any]] | dict[str, npt.NDArray[np.floating[Any]]]:
        """Evaluate samples: encrypted (default), ``"simulate"`` or ``"clear"``. See :func:`glyphc.runtime.run`.

        Returns the output array, shape (samples, *shape), or a dict of them by name if the network has several.
        """
        from glyphc.runtime import run

        outputs = run(self, x, mode, reporter).outputs
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    # -- artifact --

    def to_bytes(self) -> bytes:
        """The artifact: a zip archive of text graphs and a manifest with their hashes. Deterministic."""
        parts = {f"stages/{i:02d}-{name}.gir": to_text(g).encode() for i, (name, g) in enumerate(self.stages.items())}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "batch": self.requested_batch,
            "security": self.client.parameters.security,
            "parts": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            text = json.dumps(manifest, indent=1) + "\n"
            for name, data in {"manifest.json": text.encode(), **parts}.items():
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, data, compresslevel=6)
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact; the file appears whole or not at all."""
        write_atomically(Path(path), self.to_bytes())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Program:
        """Read an artifact; ArtifactError if it is missing, damaged, or of another version."""
        try:
            data = Path(path).read_bytes()
        except OSError as e:
            raise ArtifactError(f"cannot read {os.fspath(path)!r}: {e.strerror}") from None
        return Program.from_bytes(data, os.fspath(path))

    @staticmethod
    def from_bytes(data: bytes, name: str = "artifact") -> Program:
        """The inverse of :meth:`to_bytes`; ``name`` appears in errors."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                manifest = json.loads(archive.read("manifest.json"))
                _check_manifest(manifest, name)
                parts = {part: archive.read(part) for part in manifest["parts"]}
        except ArtifactError:
            raise
        except Exception as e:  # zipfile, zlib and json raise a dozen classes on damaged data, with no common base
            raise ArtifactError(
                f"{name!r} is not a readable .glyphc artifact ({_reason(e)}): it may be truncated or damaged, or "
                "another kind of file. Make it again with 'glyphc compile'"
            ) from None
        for part, content in parts.items():
            if hashlib.sha256(content).hexdigest() != manifest["parts"][part]:
                raise ArtifactError(
                    f"{name!r} is damaged: the hash of {part} is wrong. Make it again with 'glyphc compile'"
                )
        try:
            graphs = {_stage(part): parse(content.decode()) for part, content in parts.items()}
            for graph in graphs.values():
                verify(graph)
        except (IRError, UnicodeDecodeError) as e:
            raise ArtifactError(f"{name!r} holds a graph that this glyphc cannot read: {e}") from None
        program = Program(graphs, manifest["batch"])
        if not graphs or program.graph.level is not Level.LAIDOUT or program.graph.parameters is None:
            raise ArtifactError(
                f"{name!r} holds no whole program: the final graph with its parameters is missing. Make it again with "
                "'glyphc compile'"
            )
        return program


def _check_manifest(manifest: Any, name: str) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{name!r} is not a glyphc program; make one with 'glyphc compile'")
    if manifest.get("version") != VERSION:
        raise ArtifactError(
            f"{name!r} has artifact version {manifest.get('version')}; this glyphc reads version {VERSION}. "
            "Compile the model again with this version, or use the version that wrote it"
        )
    parts, batch = manifest.get("parts"), manifest.get("batch")
    if (
        not isinstance(parts, dict)
        or not all(_PART.fullmatch(part) and isinstance(digest, str) for part, digest in parts.items())
        or type(batch) is not int
        or batch < 1
    ):
        raise ArtifactError(
            f"{name!r} is damaged: its manifest does not list stages with their hashes, and a batch. Make it again "
            "with 'glyphc compile'"
        )


def _stage(part: str) -> str:
    """The name of the stage that a part of the archive holds."""
    return Path(part).stem.split("-", 1)[1]


def _reason(error: Exception) -> str:
    return " ".join(str(error).strip("'\"").split()) or type(error).__name__


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
