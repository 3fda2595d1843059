"""The data owner's side: makes keys, encrypts, decrypts. Holds the secret; never imported by the server's modules."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis.security import modulus_bits, modulus_limit
from glyphc.backends.engine import best_engine
from glyphc.codec import check_inputs, encode, with_labels
from glyphc.errors import ArtifactError, DataError, EnvironmentSetupError, OverrunWarning, ParameterError
from glyphc.ir.instructions import Polynomials
from glyphc.ir.integer_parameters import ProgramParameters
from glyphc.ir.text import record_text
from glyphc.plausible import Doubts, decoded, text
from glyphc.progress import Reporter, Silent, keys_counted
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import BINDING, InputsHeader, KeysHeader, OutputsHeader

from .artifacts import NAMES_FILE, SPEC_FILE, Specification
from .client_engines import ClientEngine, client_engine, key_maker
from .engines import check_engine, key_form
from .ledger import LEDGER_FILE, record_sent
from .parts import check_count, input_places, output_places, pass_count, rows
from .secret import Secret, check_mode

F64 = npt.NDArray[np.floating[Any]]

SECRET_FILE = "secret.key"


def check_security(spec: Specification) -> None:
    """ParameterError unless the parameters give 128-bit security.

    A specification may come from a server that nobody trusts, so the client checks for itself what 'glyphc compile'
    checks (and OpenFHE checks again when keys are made).
    """
    require_secure(spec.client.parameters)


def require_secure(parameters: ProgramParameters) -> None:
    """ParameterError unless parameters that a stranger chose give 128-bit security."""
    if not parameters.secure:
        raise ParameterError(
            "the program's parameters protect nothing: it was compiled with a small ring, for tests only. If a test "
            "is what you want, say so with --insecure"
        )
    limit = modulus_limit(parameters)
    if (needed := modulus_bits(parameters)) > limit:
        raise ParameterError(
            f"the program's parameters are not 128-bit secure: keys modulo 2^{needed:.0f} at ring "
            f"dimension {parameters.ring}, where at most 2^{limit} is. Do not use this program"
        )


def generate(
    spec: Specification,
    secret: Path,
    keys: Path,
    passphrase: str | None,
    reporter: Reporter,
    weights: Mapping[str, Polynomials] | None = None,
    engine: str | None = None,
) -> str:
    """Fresh keys: the secret to one file, the evaluation keys, which are for the server, to another.

    Returns the engine that the evaluation keys serve, and in brackets why it is not an earlier one.

    weights: of a program with encrypted weights, ``Schedule.secret``; they go with the evaluation keys, which are then
    for this program alone. ArtifactError when they are missing. engine: which one the evaluation keys serve, by
    default the first one that takes the program and can be used here; the secret does not depend on it. GlyphcError
    when that has no keys for such a program.

    The secret is written last and appears only if the evaluation keys are whole. ParameterError if OpenFHE refuses
    the program's parameters.
    """
    from glyphc.backends.errors import BackendError

    parameters, encrypted, weights = spec.client.parameters, spec.client.encrypted, weights or {}
    reason = ""
    if engine is None:
        found, reason = best_engine(parameters)
        engine = found.name
    check_engine(engine, parameters)
    missing = next((m.name for m in encrypted if m.name not in weights), None)
    if missing is not None:
        raise ArtifactError(
            f"the program's weights of {missing!r} are encrypted along with making keys, and they are not at hand; "
            "make keys from the compiled program (.glyphc) with the file of weights that 'glyphc compile' wrote "
            "(--weights)"
        )
    try:
        from glyphc.backends.openfhe.keys import key_tables
    except BackendError as e:
        raise EnvironmentSetupError(str(e)) from None
    seed = os.urandom(32)
    try:
        with key_tables():
            maker = key_maker(parameters, encrypted, weights, engine)
            count = len(maker.names())
            reporter.stage("generate keys", count)
            made = keys_counted(reporter, count)
            form = key_form(engine, parameters)
            header = KeysHeader(record_text(parameters), maker.modulus, seed.hex(), engine, form)
            with Writer(keys, header) as writer:
                for name, data in maker.parts(seed):
                    writer.add(name, data)
                    made(name)
                if encrypted:
                    writer.add(BINDING, spec.program.encode())
    except BackendError as e:
        raise ParameterError(str(e)) from None
    try:
        Secret(writer.digest, parameters, maker.ternary).save(secret, passphrase)
    except BaseException:
        keys.unlink(missing_ok=True)  # of no use to anybody
        raise
    return f"{engine} ({reason})" if reason else engine


@dataclass(frozen=True, eq=False)
class Account:
    """A client that can encrypt and decrypt for one program: its specification and its secret.

    ledger: where it remembers what it sent, for programs that ask it on the way. ArtifactError when the secret was made
    for other parameters.
    """

    spec: Specification
    secret: Secret
    ledger: Path | None = None

    def __post_init__(self) -> None:
        if self.secret.parameters != self.spec.client.parameters:
            raise ArtifactError(
                "the secret key was made for other parameters than the program's; make keys for this program with "
                "'glyphc keygen', or use the client specification that the keys were made for"
            )

    @property
    def engine(self) -> ClientEngine:
        """The keys in OpenFHE's form; EnvironmentSetupError without OpenFHE."""
        from glyphc.backends.errors import BackendError

        try:
            from glyphc.backends.openfhe.keys import releases

            return self._engine(releases())
        except BackendError as e:
            raise EnvironmentSetupError(str(e)) from None

    @cached_property
    def _engine(self) -> Callable[[int], ClientEngine]:
        """The keys, made once, and again after OpenFHE's contexts were released."""
        return lru_cache(maxsize=1)(lambda _: client_engine(self.secret.parameters, self.secret.ternary))

    def encrypt(self, x: Any, output: Path, reporter: Reporter | None = None) -> str:
        """Encrypt samples, shape (samples, *input shape) or a mapping by input name, to a file; returns its digest.

        DataError for samples that do not fit the program, before anything is written.
        """
        client = self.spec.client
        samples = check_inputs(client, x)
        count = len(next(iter(samples.values())))
        passes = pass_count(client, count)
        reporter = reporter or Silent()
        reporter.stage("encrypt", sum(1 for n in range(passes) for _ in input_places(client, count, n)))
        seed = os.urandom(32)
        header = InputsHeader(self.spec.program, self.secret.key, count, seed.hex())
        with Writer(output, header) as writer:
            for number in range(passes):
                chosen = {n: v[rows(client, count, number)] for n, v in samples.items()}
                places = client.places(len(next(iter(chosen.values()))))
                encoded = {p.name: encode(p, chosen[p.name], places) for p in client.inputs}
                wanted = list(input_places(client, count, number))
                messages = ((place.name, encoded[place.port.name][place.number]) for place in wanted)
                for place, data in zip(wanted, self.engine.fresh(messages, seed), strict=True):
                    writer.add(place.name, data)
                    reporter.advance(1, place.port.name)
        if client.requests and self.ledger is not None:
            record_sent(self.ledger, writer.digest, count)
        return writer.digest

    def decrypt(self, path: Path, request: str | None = None) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name, shape (samples, *shape), from a file of encrypted outputs; labels where there are some.

        ``request``: the digest of the inputs that these must be the outputs of. ArtifactError for a damaged file, or
        one for another program, key or request, before anything is decrypted. Warns (OverrunWarning) of results in
        slots that cannot be; those of passes that are lost are NaN (``glyphc.plausible``).
        """
        with Reader(path, OutputsHeader) as reader:
            self._check(reader, request)
            labels = {port.name: port.labels for port in self.spec.client.outputs}
            return with_labels(labels, self._decrypted(reader))

    def _check(self, reader: Reader[OutputsHeader], request: str | None) -> None:
        header = reader.header
        check_binding(reader, self.spec.program, self.secret.key)
        if request is not None and header.request != request:
            raise ArtifactError(f"{reader.name} holds the outputs of other inputs than those that were asked about")
        if not 8 <= header.modulus_bits <= 64 or header.modulus_bits % 8:
            raise reader.damaged(f"a modulus of {header.modulus_bits} bits is not one that outputs have")
        check_count(reader, header.samples, self.spec.client, output_places)

    def _decrypted(self, reader: Reader[OutputsHeader]) -> dict[str, F64]:
        from glyphc.backends.openfhe.residues import ResidueError

        client, engine, header = self.spec.client, self.engine, reader.header
        bits = header.modulus_bits
        passes = range(pass_count(client, header.samples))
        places = [p for number in passes for p in output_places(client, header.samples, number)]
        reader.expect([(p.name, engine.output_size(p, bits)) for p in places])
        reader.verify()
        messages: dict[tuple[int, str], list[npt.NDArray[Any]]] = {}
        for place in places:
            try:
                message = engine.output(reader.read(place.name), place, bits)
            except ResidueError as e:
                raise reader.damaged(f"part {place.name}: {e}") from None
            messages.setdefault((place.pass_number, place.port.name), []).append(message)
        results: dict[str, list[F64]] = {p.name: [] for p in client.outputs}
        doubts = Doubts()
        for number in passes:
            part = rows(client, header.samples, number)
            found = decoded(
                client,
                {port.name: np.array(messages[number, port.name]) for port in client.outputs},
                range(part.start, part.stop),
            )
            doubts += found.doubts
            for name, values in found.outputs.items():
                results[name].append(values)
        if doubts:
            warnings.warn(text(doubts, header.samples), OverrunWarning, stacklevel=3)
        return {name: np.concatenate(parts) for name, parts in results.items()}


def check_binding(reader: Reader[OutputsHeader], program: str, key: str) -> None:
    """ArtifactError unless a file belongs to this program and these keys."""
    if reader.header.program != program:
        raise ArtifactError(f"{reader.name} belongs to another program than the client specification")
    if reader.header.key != key:
        raise ArtifactError(f"{reader.name} was made with other keys than this client's")


def load_account(folder: Path, passphrase: str | None = None, spec: Path | None = None) -> Account:
    """The client of a folder that 'glyphc keygen' made; DataError when it is none."""
    if not (folder / SECRET_FILE).is_file():
        raise DataError(f"there is no {SECRET_FILE} in {os.fspath(folder)!r}; make keys with 'glyphc keygen'")
    check_mode(folder / SECRET_FILE)
    known = Specification.load(spec or folder / SPEC_FILE).named(folder / NAMES_FILE)
    return Account(known, Secret.load(folder / SECRET_FILE, passphrase), folder / LEDGER_FILE)
