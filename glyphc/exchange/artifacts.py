"""A compiled program in two halves: a specification for the client, and what the server executes.

Neither holds a name of the model's: inputs, outputs and weights go by numbers. The specification has no weights and no
instructions; the server's half has nothing that calibration saw and none of the compiler's reasons. The server loads
instructions, checks and executes them; who makes them is :mod:`.split`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import ArtifactError
from glyphc.ir import memory
from glyphc.ir.errors import IRError
from glyphc.ir.instructions import ClientSpec, Polynomials, Schedule
from glyphc.ir.instructions.check import check_schedule
from glyphc.ir.instructions.numbered import Names, numbered, with_names
from glyphc.ir.instructions.partial import for_samples
from glyphc.ir.instructions.text import COEFFICIENTS, INTEGERS, SLOTS, Family
from glyphc.ir.integer_parameters import IntegerParameters, ProgramParameters
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.text import parse_parameters, parse_record, record_text
from glyphc.ir.typed_json import TypedJSON
from glyphc.ir.types import Encoding
from glyphc.ir.word_parameters import WordParameters
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import NamesHeader, ProgramHeader, SpecHeader

from .code_parts import CODE_FAULTS, code_part, encoded, packed, read_code, sha256

SPEC_SUFFIX = ".spec"
PROGRAM_SUFFIX = ".server"
NAMES_SUFFIX = ".names"
# Names in the folders that 'glyphc keygen' fills.
SPEC_FILE = "client.spec"
NAMES_FILE = "client.names"
PROGRAM_FILE = "program.server"
KEYS_FILE = "evaluation.keys"
# Beyond this, integers are none in the float64 that slots are encoded from.
_MOST_STEPS = 1 << 52
# Trips to the client in one pass.
_MOST_REQUESTS = 1 << 10
# Each takes two parts of a file of keys.
_MOST_ENCRYPTED = 1 << 16
# A term of a polynomial in a file: its exponent's distance from the one before, and its value.
_EXPONENT, _VALUE, _OFFSET = np.dtype("<i4"), np.dtype("<i8"), np.dtype("<i8")
_JSON = TypedJSON()


@dataclass(frozen=True)
class Specification:
    """All of a program that a client needs, and the fingerprint of that program."""

    program: str
    client: ClientSpec

    def save(self, path: Path) -> None:
        with Writer(path, SpecHeader(self.program)) as writer:
            writer.add("spec", record_text(self.client).encode())

    @staticmethod
    def load(path: Path) -> Specification:
        with Reader(path, SpecHeader) as reader:
            client = _read_client(reader)
            reader.expect([("spec", reader.parts["spec"].size)])
            return Specification(reader.header.program, client)

    def named(self, path: Path) -> Specification:
        """With the names from a file, where it is there and of this program."""
        if not path.is_file():
            return self
        with Reader(path, NamesHeader) as reader:
            data = reader.read("names")
            if reader.header.program != self.program:
                return self
            try:
                names = _JSON.read(data.decode(), Names)
                return replace(self, client=with_names(self.client, names))
            except (IRError, UnicodeDecodeError) as e:
                raise reader.damaged(f"its names are unreadable ({e})") from None


def save_names(path: Path, program: str, names: Names) -> None:
    """What a model calls its inputs and outputs, for the client alone."""
    with Writer(path, NamesHeader(program)) as writer:
        writer.add("names", _JSON.text(names, Names).encode())


@dataclass(frozen=True)
class _Weights:
    """Polynomials in a file. rows, terms: how many; sha256: of their bytes."""

    name: str
    rows: int
    terms: int
    sha256: str

    @property
    def bytes(self) -> int:
        return (self.rows + 1) * _OFFSET.itemsize + self.terms * (_EXPONENT.itemsize + _VALUE.itemsize)


@dataclass(frozen=True)
class _Outline:
    """A program but for its specification: SHA-256 of the instructions' text, and the plaintext weights."""

    code: str
    weights: tuple[_Weights, ...]


@dataclass(frozen=True, eq=False)
class ServerProgram:
    """What the server executes.

    noise: predicted standard deviation of the ciphertext and bootstrap noise of each output, in its integers; shown: of
    what each of the client's requests shows.
    fingerprint: SHA-256 of the specification and the outline, and so of all but the noise, which is a prediction.
    """

    schedule: Schedule
    noise: Mapping[str, float]
    fingerprint: str
    shown: tuple[float, ...] = ()

    @staticmethod
    def of(schedule: Schedule, noise: Mapping[str, float], shown: tuple[float, ...] = ()) -> ServerProgram:
        """From a compiler's schedule and the noise by output: names become numbers, encrypted weights stay behind."""
        half = replace(numbered(schedule), secret={})
        outputs = zip(half.client.outputs, schedule.client.outputs, strict=True)
        outline, _ = _contents(half)
        by_number = {port.name: noise[old.name] for port, old in outputs}
        return ServerProgram(half, by_number, _fingerprint(record_text(half.client), outline), shown)

    @property
    def specification(self) -> Specification:
        return Specification(self.fingerprint, self.schedule.client)

    def partial(self, samples: int) -> Schedule:
        """What so many samples of a batch take; ArtifactError where the program cannot do with fewer than all."""
        try:
            return for_samples(self.schedule, samples).schedule
        except IRError as e:
            raise ArtifactError(f"the program cannot be executed on {samples} samples: {e}") from None

    def save(self, path: Path) -> None:
        client = record_text(self.schedule.client)
        outline, contents = _contents(self.schedule)
        noise = (*(self.noise[port.name] for port in self.schedule.client.outputs), *self.shown)
        with Writer(path, ProgramHeader(_fingerprint(client, outline))) as writer:
            writer.add("spec", client.encode())
            writer.add("outline", outline.encode())
            writer.add("noise", _JSON.text(noise, tuple[float, ...]).encode())
            for name, data in contents.items():
                writer.add(name, packed(data))

    @staticmethod
    def load(path: Path) -> ServerProgram:
        """From a ``.server`` file; ArtifactError when it is damaged, or its instructions cannot be executed."""
        with Reader(path, ProgramHeader) as reader:
            client = _read_client(reader)
            text = reader.read("outline").decode(errors="replace")
            if _fingerprint(record_text(client), text) != reader.header.program:
                raise reader.damaged("its fingerprint is not that of its outline")
            try:
                outline: _Outline = _JSON.read(text, _Outline)
                noise, shown = _read_noise(reader, client)
            except (IRError, UnicodeDecodeError) as e:
                raise reader.damaged(f"its outline is unreadable ({e})") from None
            names = ["spec", "outline", "noise", code_part(0), *map(_weights_part, range(len(outline.weights)))]
            reader.expect([(name, reader.parts[name].size if name in reader.parts else 0) for name in names])
            try:
                polynomials = _read_weights(reader, outline)
                schedule = Schedule(client, read_code(reader, 0, outline.code, _family(client)), polynomials)
                check_schedule(schedule)
            except CODE_FAULTS as e:
                raise reader.damaged(f"its instructions are unusable ({e})") from None
            return ServerProgram(schedule, noise, reader.header.program, shown)


def _family(client: ClientSpec) -> Family:
    match client.parameters:
        case SlotParameters():
            return SLOTS
        case IntegerParameters():
            return INTEGERS
        case _:
            return COEFFICIENTS


def _fingerprint(client: str, outline: str) -> str:
    return sha256(f"{client}\n{outline}".encode())


def _weights_part(number: int) -> str:
    return f"weights/{number:06d}"


def _contents(schedule: Schedule) -> tuple[str, dict[str, bytes]]:
    """The outline, and the parts that it names, as they are hashed."""
    code = encoded(schedule.instructions, _family(schedule.client))
    weights = [_polynomial_bytes(polynomials) for polynomials in schedule.polynomials.values()]
    outline = _Outline(
        sha256(code),
        tuple(
            _Weights(name, len(polynomials), len(polynomials.values), sha256(data))
            for (name, polynomials), data in zip(schedule.polynomials.items(), weights, strict=True)
        ),
    )
    parts = {code_part(0): code} | {_weights_part(number): data for number, data in enumerate(weights)}
    return _JSON.text(outline, _Outline), parts


def _polynomial_bytes(polynomials: Polynomials) -> bytes:
    distances = np.diff(polynomials.exponents, prepend=np.int32(0)).astype(_EXPONENT)
    return (
        polynomials.offsets.astype(_OFFSET).tobytes()
        + distances.tobytes()
        + polynomials.values.astype(_VALUE).tobytes()
    )


def _read_weights(reader: Reader[ProgramHeader], outline: _Outline) -> dict[str, Polynomials]:
    """IRError for polynomials of other sizes or hashes than the outline says; their sizes before their memory."""
    if any(not 0 < w.rows < 1 << 31 or not 0 <= w.terms < 1 << 40 for w in outline.weights):
        raise IRError("weights of no size")
    memory.require(2 * sum(w.bytes for w in outline.weights), f"{reader.name}: its weights")
    found = {w.name: _polynomials(reader, number, w) for number, w in enumerate(outline.weights)}
    if len(found) != len(outline.weights):
        raise IRError("weights of one name are there twice")
    return found


def _polynomials(reader: Reader[ProgramHeader], number: int, known: _Weights) -> Polynomials:
    name = _weights_part(number)
    try:
        data = memory.inflated(reader.read(name), known.bytes)
    except ValueError as e:
        raise IRError(f"part {name}: {e}") from None
    if sha256(data) != known.sha256:
        raise IRError(f"part {name} does not hold the weights that the outline names")
    at = [(known.rows + 1) * _OFFSET.itemsize]
    at.append(at[0] + known.terms * _EXPONENT.itemsize)
    distances: npt.NDArray[np.int32] = np.frombuffer(data[at[0] : at[1]], _EXPONENT)
    return Polynomials(
        np.frombuffer(data[: at[0]], _OFFSET).astype(np.int64),
        np.cumsum(distances, dtype=np.int32),
        np.frombuffer(data[at[1] :], _VALUE).astype(np.int64),
    )


def _read_noise(reader: Reader[ProgramHeader], client: ClientSpec) -> tuple[dict[str, float], tuple[float, ...]]:
    """Of outputs, and of what the client is shown."""
    noise: tuple[float, ...] = _JSON.read(reader.read("noise").decode(), tuple[float, ...])
    count = len(client.outputs)
    if len(noise) != count + len(client.requests) or not all(0 < n < math.inf for n in noise):
        raise IRError("its noise is not that of its outputs and requests")
    return {port.name: n for port, n in zip(client.outputs, noise, strict=False)}, noise[count:]


def _read_client(reader: Reader[Any]) -> ClientSpec:
    data = reader.read("spec")
    try:
        client = parse_record(data.decode(), ClientSpec)
        _check_ports(client)
        return client
    except (IRError, ValueError) as e:
        raise reader.damaged(f"its specification is unreadable ({e})") from None


def read_parameters(text: str, reader: Reader[Any]) -> Parameters:
    """Parameters as they stand in a header of training."""
    try:
        parameters = parse_record(text, Parameters)
        parameters.check_powers()
        return parameters
    except (IRError, ValueError) as e:
        raise reader.damaged(f"its parameters are unreadable ({e})") from None


def read_program_parameters(text: str, reader: Reader[Any]) -> ProgramParameters:
    """Parameters of a program as they stand in a header."""
    try:
        parameters = parse_parameters(text)
        parameters.check_powers()
        return parameters
    except (IRError, ValueError) as e:
        raise reader.damaged(f"its parameters are unreadable ({e})") from None


def read_seed(text: str, reader: Reader[Any]) -> bytes:
    """A seed as it stands in a header."""
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != 32:
        raise reader.damaged("its seed is not one of 32 bytes")
    return seed


def _check_ports(client: ClientSpec) -> None:
    """IRError or ValueError for a specification that no compiler made.

    A stranger's must not make a client allocate what it likes.
    """
    parameters = client.parameters
    parameters.check_powers()
    match parameters:
        case SlotParameters():
            encodings, bound, positions = {Encoding.SLOTS}, _MOST_STEPS, parameters.slots
        case WordParameters():
            raise IRError("programs on words of bits have no files for two machines")
        case IntegerParameters():
            encodings, bound, positions = {Encoding.INTEGERS}, parameters.modulus // 2, parameters.slots
        case _:
            encodings, bound, positions = {Encoding.LSB, Encoding.MSB}, parameters.plaintext_modulus, parameters.ring
    in_slots = not isinstance(parameters, Parameters)
    if client.requests and not isinstance(parameters, IntegerParameters):
        raise IRError("it asks the client for what other schemes do")
    if len(client.requests) > _MOST_REQUESTS:
        raise IRError(f"it asks the client {len(client.requests)} times")
    for request in client.requests:
        request.check(positions)
        # decrypted, and encrypted again
        memory.require(16 * positions * (request.ciphertexts + request.results(positions)), "a question to the client")
    if not client.inputs or not client.outputs:
        raise IRError("it has no input or no output")
    if client.batch < 1:
        raise IRError(f"its batch is {client.batch}")
    if any(m.products < 1 for m in client.encrypted) or sum(m.products for m in client.encrypted) > _MOST_ENCRYPTED:
        raise IRError("it has too many encrypted weights, or none of a name")
    for ports in (client.inputs, client.outputs):
        if len({port.name for port in ports}) != len(ports):
            raise IRError("two inputs or outputs have one name")
    for port in (*client.inputs, *client.outputs):
        # the tensor as it is given, in fixed point, and where its elements stand
        memory.require(4 * 8 * client.batch * port.layout.features, f"a batch of {port.name!r}")
    for port in (*client.inputs, *client.outputs):
        layout, fixed = port.layout, port.fixed
        if port.encoding not in encodings:
            raise IRError(f"{port.name!r} is encoded for another scheme than the parameters'")
        if in_slots and (layout.parts, layout.chunks, layout.stride) != (layout.features, 1, 1):
            raise IRError(f"{port.name!r} does not have one ciphertext for each feature")
        if layout.ring != positions or layout.batch != client.batch:
            raise IRError(f"{port.name!r} is laid out for another ring or batch")
        if port.ranks is not None:
            port.ranks.check(prod(port.shape))
        if port.ids is not None:
            port.ids.check(prod(port.shape))
        if len(port.columns) not in (0, prod(port.shape)):
            raise IRError(f"{port.name!r} has {len(port.columns)} names for the elements of {list(port.shape)}")
        if layout.features != port.size or layout.parts > next_power_of_two(layout.features):
            raise IRError(f"the layout of {port.name!r} has another size than its tensor")
        if client.chunks % layout.chunks or layout.chunks > layout.batch:
            raise IRError(f"the chunks of {port.name!r} do not fit the batch or those of other tensors")
        if len(fixed.scale) not in (1, layout.features):
            raise IRError(f"the number format of {port.name!r} does not fit its tensor")
        if max(abs(fixed.lo), abs(fixed.hi)) > bound:
            raise IRError(f"the values of {port.name!r} do not fit the plaintext modulus")
