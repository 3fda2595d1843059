"""A compiled program: its graphs at every stage, its schedule, and the artifact file that keeps it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphc import predictions
from glyphc.errors import ArtifactError
from glyphc.files import EPOCH, write_atomically
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import ClientSpec, Schedule
from glyphc.ir.parameters import Parameters
from glyphc.ir.text import to_text
from glyphc.ir.types import Level
from glyphc.storage.artifact import FORMAT, MANIFEST, VERSION, most_inflated, read_stages
from glyphc.storage.withheld import load_secrets, save_secrets, without_secrets

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
        """The first graph in fixed point: the quantized one, unless compilation began behind it."""
        return next(g for g in self.stages.values() if g.level >= Level.QUANTIZED)

    @property
    def definition(self) -> Graph:
        """The graph that ``run(mode="clear")`` evaluates: what the program computes, without any noise.

        In fixed point; where polynomials or tables stand for functions, with these.
        """
        p = self.graph.parameters
        return self.quantized if isinstance(p, Parameters) and not p.table_bits else self.graph

    @cached_property
    def public_stages(self) -> dict[str, Graph]:
        """The stages without the values of weights that are to be encrypted: what artifacts hold."""
        return without_secrets(self.stages)

    @property
    def encrypted_weights(self) -> bool:
        """Whether the server multiplies with weights that only the client knows."""
        return bool(self.client.encrypted)

    def require_weights(self) -> None:
        """ArtifactError when the values of encrypted weights are not at hand."""
        if any(graph.withheld for graph in self.stages.values()):
            raise ArtifactError(
                "the program's weights are encrypted, and its file is without them: give the file of weights that "
                "'glyphc compile' wrote beside it (--weights, or Program.load(..., weights=...))"
            )

    @cached_property
    def schedule(self) -> Schedule:
        """The server's instructions."""
        from glyphc.passes.schedule import schedule

        return schedule(self.graph)

    @cached_property
    def fingerprint(self) -> str:
        """Which program it is: the SHA-256 of the final graph's text, in hexadecimal digits.

        Encrypted weights do not count: they are bound by the keys that they are encrypted with.
        """
        final = next(reversed(self.public_stages.values()))
        return hashlib.sha256(to_text(final).encode()).hexdigest()

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
    ) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
        """Evaluate samples: encrypted (default), ``"simulate"`` or ``"clear"``. See :func:`glyphc.runtime.run`.

        Returns the output array, shape (samples, *shape), or a dict of them by name if the network has several. Labels
        of classes have the type that they have in the model: integers, or texts.
        """
        from glyphc.runtime import run

        outputs = run(self, x, mode, reporter).outputs
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    # -- as an estimator --

    @property
    def classes_(self) -> npt.NDArray[Any]:
        """Labels of the classes in the order of the scores' columns; AttributeError where the model has none."""
        return predictions.classes(self.graph)

    def predict(self, x: Any, mode: Mode | str = "encrypted") -> npt.NDArray[Any]:
        """Labels of a classifier, or results of a model with a single output, shape (samples,) or (samples, targets).

        x and mode as for :meth:`run`. AttributeError where several outputs are results.
        """
        return predictions.predict(self.graph, self.run(x, mode))

    def predict_proba(self, x: Any, mode: Mode | str = "encrypted") -> npt.NDArray[np.floating[Any]]:
        """A classifier's scores, shape (samples, classes): probabilities, if the model gives those."""
        return predictions.predict_proba(self.graph, self.run(x, mode))

    def score(self, x: Any, y: npt.ArrayLike, mode: Mode | str = "encrypted") -> float:
        """Share of right labels of a classifier; of a regressor, the coefficient of determination (R^2)."""
        return predictions.score(self.graph, self.run(x, mode), y)

    # -- artifact --

    def to_bytes(self) -> bytes:
        """The artifact: a zip archive of text graphs and a manifest with their hashes. Deterministic.

        Without the values of weights that are to be encrypted: :meth:`save_weights` keeps those.
        """
        stages, known = self.public_stages.items(), dict[int, str]()
        parts = {f"stages/{i:02d}-{name}.gir": to_text(g, known).encode() for i, (name, g) in enumerate(stages)}
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
            for name, data in {MANIFEST: text.encode(), **parts}.items():
                archive.writestr(zipfile.ZipInfo(name, EPOCH), data, _method(data), 6)
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact; the file appears whole or not at all."""
        write_atomically(Path(path), self.to_bytes())

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the weights that artifacts are without, in the clear, readable by their owner alone.

        ArtifactError for a program without encrypted weights, or without their values.
        """
        if not self.encrypted_weights:
            raise ArtifactError("the program has no encrypted weights: all of it is in its artifact")
        self.require_weights()
        save_secrets(Path(path), self.stages, self.public_stages, self.fingerprint)

    @staticmethod
    def load(path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> Program:
        """Read an artifact; ArtifactError if it is missing, damaged, or of another version.

        weights: the file of what a program with encrypted weights was saved without; ArtifactError if it is not its.
        """
        if Path(path).is_dir():
            raise ArtifactError(
                f"{os.fspath(path)!r} is a folder; give the .glyphc file that 'glyphc compile' wrote. The folders "
                "of 'glyphc keygen' are for 'eval --server', 'encrypt --client' and 'decrypt --client'"
            )
        try:
            data = Path(path).read_bytes()
        except OSError as e:
            raise ArtifactError(f"cannot read {os.fspath(path)!r}: {e.strerror}") from None
        program = Program.from_bytes(data, os.fspath(path))
        if weights is None:
            return program
        stages = load_secrets(Path(weights), program.stages, program.fingerprint)
        return Program(stages, program.requested_batch)

    @staticmethod
    def from_bytes(data: bytes, name: str = "artifact") -> Program:
        """The inverse of :meth:`to_bytes`; ``name`` appears in errors."""
        graphs, batch = read_stages(data, name)
        program = Program(graphs, batch)
        if not graphs or program.graph.level is not Level.LAIDOUT or program.graph.parameters is None:
            raise ArtifactError(
                f"{name!r} holds no whole program: the final graph with its parameters is missing. Make it again with "
                "'glyphc compile'"
            )
        return program


def _method(data: bytes) -> int:
    """Deflated, unless readers would take it for something made to inflate."""
    fits = len(data) <= most_inflated(0) or len(data) <= most_inflated(len(zlib.compress(data, 6)))
    return zipfile.ZIP_DEFLATED if fits else zipfile.ZIP_STORED
