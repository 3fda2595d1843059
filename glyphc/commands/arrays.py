"""Samples and results as files of numpy's, for all commands: what a user may give, and where results may go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glyphc.errors import ArtifactError, DataError, GlyphcError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

samples_option = click.option(
    "--input",
    "given",
    metavar="[NAME=]FILE",
    multiple=True,
    required=True,
    help="Samples (.npy, or .npz for several inputs); or NAME=FILE, once for each input.",
)


def load_arrays(path: str, what: str) -> Any:
    """An array from .npy, or a dict of arrays from .npz."""
    import numpy as np

    try:
        with open(path, "rb") as file:
            if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
                raise ValueError("it begins like neither; numpy.save and numpy.savez write such files")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            arrays = None if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise DataError(f"cannot read the {what}: there is no file {path!r}") from None
    except OSError as e:
        raise DataError(f"cannot read the {what} from {path!r}: {e.strerror or e}") from None
    except Exception as e:  # numpy, zipfile and zlib raise a dozen classes on damaged files, with no common base
        reason = " ".join(str(e).split()) or type(e).__name__
        raise DataError(
            f"cannot read the {what} from {path!r}: not a whole .npy or .npz file of numbers ({reason})"
        ) from None
    if arrays is None:
        return loaded
    other = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if other:
        raise DataError(f"cannot read the {what}: {other[0]!r} in {path!r} is not an array")
    if not arrays:
        raise DataError(f"cannot read the {what}: {path!r} holds no array")
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def load_inputs(given: tuple[str, ...], what: str) -> Any:
    """What an option for samples names: one file, or NAME=FILE for each input; GlyphcError when it is neither."""
    if len(given) == 1 and ("=" not in given[0] or Path(given[0]).exists()):
        return load_arrays(given[0], what)
    arrays = {}
    for item in given:
        name, equals, path = item.partition("=")
        if not equals or not name or name in arrays:
            raise GlyphcError(f"{item!r} is not NAME=FILE for another input; give one file, or one for each input")
        arrays[name] = load_arrays(path, f"{what} {name!r}")
        if isinstance(arrays[name], dict):
            raise GlyphcError(f"{path!r} holds {len(arrays[name])} arrays; an input takes one")
    return arrays


def input_files(given: tuple[str, ...]) -> tuple[str, ...]:
    """The files that such an option names."""
    return tuple(i if Path(i).exists() else i.partition("=")[2] or i for i in given)


def keep_sources(output: Path, *sources: str | None) -> None:
    """No output may replace what it is made from."""
    for source in filter(None, sources):
        if output.exists() and Path(source).exists() and output.samefile(source):
            raise ArtifactError(f"the output {str(output)!r} would replace {source!r}, which it is made from")


def check_output(path: str, outputs: int) -> None:
    """Fail before an hour of work, not after it."""
    from glyphc.files import check_writable

    suffix = Path(path).suffix
    if suffix not in (".npy", ".npz"):
        raise GlyphcError(f"the output file {path!r} must end in .npy or .npz")
    if suffix == ".npy" and outputs > 1:
        raise GlyphcError(f"the network has {outputs} outputs; write them to an .npz file instead of {path!r}")
    check_writable(Path(path))


def save_arrays(path: str, outputs: Mapping[str, npt.NDArray[np.floating[Any]]]) -> None:
    """Write results: an array to .npy, several to .npz."""
    import io
    import zipfile

    import numpy as np

    from glyphc.files import EPOCH, write_atomically

    buffer = io.BytesIO()
    if Path(path).suffix == ".npy":
        np.save(buffer, next(iter(outputs.values())))
    else:
        # not numpy.savez: it cannot store an array named "file", and it stores the time
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, value in outputs.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, value, allow_pickle=False)  # type: ignore[no-untyped-call]
    write_atomically(Path(path), buffer.getvalue())
