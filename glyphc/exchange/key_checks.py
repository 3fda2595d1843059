"""Whether evaluation keys go with a program: what a server asks before it loads them."""

from __future__ import annotations

from pathlib import Path

from glyphc.errors import ArtifactError, GlyphcError
from glyphc.storage.container import Reader
from glyphc.storage.headers import BINDING, KeysHeader

from .artifacts import ServerProgram, read_program_parameters
from .engines import KEY_ENGINES, check_engine, key_form


def check_keys(path: Path, program: ServerProgram, label: str | None = None, engine: str | None = None) -> str:
    """The digest of a file of evaluation keys; ArtifactError when it is damaged or for another program's parameters.

    engine: ArtifactError for keys of another one.
    """
    with Reader(path, KeysHeader, label) as reader:
        check_parameters(reader, program)
        check_form(reader, program)
        if engine not in (None, reader.header.engine):
            raise ArtifactError(
                f"{reader.name} holds keys for the engine {reader.header.engine!r}, not for {engine!r}; leave --engine "
                f"out, or make keys with 'glyphc keygen --engine {engine}'"
            )
        check_weights(reader, program)
        return reader.digest


def keys_modulus(path: Path) -> int:
    """The BGV modulus that a file of evaluation keys was made for."""
    with Reader(path, KeysHeader) as reader:
        return reader.header.modulus


def check_parameters(reader: Reader[KeysHeader], program: ServerProgram) -> None:
    """ArtifactError unless they were made for the program's parameters."""
    if read_program_parameters(reader.header.parameters, reader) != program.schedule.parameters:
        raise ArtifactError(
            f"{reader.name} was made for other parameters than the program's; make keys for this program with "
            "'glyphc keygen'"
        )


def check_form(reader: Reader[KeysHeader], program: ServerProgram) -> None:
    """ArtifactError unless the engine that the keys serve is known, and they have the form that it reads."""
    engine, parameters = reader.header.engine, program.schedule.parameters
    if engine not in KEY_ENGINES:
        raise ArtifactError(
            f"{reader.name} holds keys for the engine {engine[:40]!r}, which this glyphc reads none of; make keys with "
            "'glyphc keygen'"
        )
    try:
        check_engine(engine, parameters)
    except GlyphcError as e:
        raise ArtifactError(f"{reader.name} is of no use here: {e}") from None
    if reader.header.shape != key_form(engine, parameters):
        raise ArtifactError(
            f"{reader.name} holds keys for the engine {engine!r} in another form than this glyphc's; make them again "
            "with 'glyphc keygen'"
        )


def check_weights(reader: Reader[KeysHeader], program: ServerProgram) -> None:
    """ArtifactError unless the keys come with the encrypted weights of this very program, or neither has any."""
    if program.schedule.client.encrypted:
        if BINDING not in reader.parts:
            raise ArtifactError(
                f"{reader.name} comes without the program's encrypted weights; make keys with 'glyphc keygen' from the "
                "compiled program and its file of weights (--weights)"
            )
        # a stranger's part may be of any size: nothing that cannot be the fingerprint is read
        wanted = program.fingerprint.encode()
        if reader.parts[BINDING].size != len(wanted) or reader.read(BINDING) != wanted:
            raise ArtifactError(f"{reader.name} holds the encrypted weights of another program")
    elif BINDING in reader.parts:
        raise ArtifactError(f"{reader.name} holds the encrypted weights of another program; this one has none")
