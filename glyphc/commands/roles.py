"""The commands of the two roles on files: split, keygen, encrypt, eval, refresh, decrypt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from glyphc.errors import ArtifactError, DataError, GlyphcError, SecretError

from .arrays import samples_option
from .cluster_options import away_told, cluster_address, cluster_options

if TYPE_CHECKING:
    from glyphc.exchange.artifacts import Specification
    from glyphc.exchange.client import Account
    from glyphc.ir.instructions import Polynomials
    from glyphc.ir.integer_parameters import ProgramParameters

PASSPHRASE_VARIABLE = "GLYPHC_PASSPHRASE"
_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(path_type=Path)


def register(group: click.Group) -> None:
    """Add the commands."""
    for command in (split_command, keygen_command, encrypt_command, eval_command, refresh_command, decrypt_command):
        group.add_command(command)


@click.command("split")
@click.argument("program", type=_FILE)
@click.option("--client", "client_path", type=_FILE, help="The client specification to write (.spec).")
@click.option("--server", "server_path", type=_FILE, help="The server's half to write (.server).")
@click.option(
    "--names", "names_path", type=_FILE, help="What the model calls inputs and outputs (.names), for clients."
)
def split_command(program: Path, client_path: Path | None, server_path: Path | None, names_path: Path | None) -> None:
    """Split a compiled PROGRAM: a small specification for clients, and the instructions that the server executes.

    The specification holds no weights; the server's half nothing that calibration saw. Neither holds a name of the
    model's: inputs are in0, in1, ..., outputs out0, ... What the model calls them, a client's folder may say in a file
    of names, client.names.
    """
    from glyphc.exchange.artifacts import NAMES_SUFFIX, PROGRAM_SUFFIX, SPEC_SUFFIX, save_names
    from glyphc.exchange.split import load_halves

    wanted = ((client_path, SPEC_SUFFIX), (server_path, PROGRAM_SUFFIX), (names_path, NAMES_SUFFIX))
    if all(path is None for path, _ in wanted):
        raise click.UsageError("say what to write: --client FILE, --server FILE, --names FILE")
    for path, suffix in wanted:
        if path is not None and path.suffix != suffix:
            raise GlyphcError(f"the file {os.fspath(path)!r} must end in {suffix}")
    halves = load_halves(program)
    if names_path is not None and halves.names is None:
        raise GlyphcError(f"{os.fspath(program)!r} is a server's half, which knows no names; give the compiled program")
    if client_path is not None:
        halves.server.specification.save(client_path)
        _wrote(client_path)
    if server_path is not None:
        halves.server.save(server_path)
        _wrote(server_path)
    if names_path is not None and halves.names is not None:
        save_names(names_path, halves.server.fingerprint, halves.names)
        _wrote(names_path)


@click.command("keygen")
@click.argument("source", type=_FILE)
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="Folder for the secret key. Keep it.")
@click.option("--server", "server_folder", type=_FOLDER, required=True, help="Folder for all that the server needs.")
@click.option("--passphrase", is_flag=True, help=f"Encrypt the secret key; asks, or reads {PASSPHRASE_VARIABLE}.")
@click.option("--insecure", is_flag=True, help="Accept a specification with a small ring, for tests. NOT SECURE.")
@click.option("--weights", type=_FILE, help="The weights of a program compiled with --encrypt-weights.")
@click.option("--engine", help="What is to evaluate (see 'glyphc engines'). [default: the first that can]")
def keygen_command(
    source: Path,
    client_folder: Path,
    server_folder: Path,
    passphrase: bool,
    insecure: bool,
    weights: Path | None,
    engine: str | None,
) -> None:
    """Make keys for SOURCE, a compiled program or a client specification (.spec).

    The client's folder gets the secret key (mode 0600), the client specification and, from a compiled program, the
    names of its inputs and outputs; the server's gets evaluation keys and, from a compiled program, the server's half
    of it. Weights that the server must not see are encrypted with the same secret and are a part of the keys.
    """
    from glyphc.console import reporter
    from glyphc.exchange.artifacts import (
        KEYS_FILE,
        NAMES_FILE,
        PROGRAM_FILE,
        SPEC_FILE,
        SPEC_SUFFIX,
        Specification,
        save_names,
    )
    from glyphc.exchange.client import SECRET_FILE, check_security, generate
    from glyphc.exchange.secret import check_apart
    from glyphc.exchange.split import load_halves
    from glyphc.files import make_folder

    check_apart(client_folder, server_folder)
    halves = None if source.suffix == SPEC_SUFFIX else load_halves(source)
    spec = Specification.load(source) if halves is None else halves.server.specification
    hidden = _weights(source, spec, weights)
    # a compiled program says by itself what it was asked for; a specification may be anybody's
    if not insecure and (spec.client.parameters.secure or source.suffix == SPEC_SUFFIX):
        check_security(spec)
    _warn(spec.client.parameters)
    secret = client_folder / SECRET_FILE
    if secret.exists():
        raise ArtifactError(
            f"there is a secret key in {os.fspath(client_folder)!r} already; without it nothing that was encrypted "
            "with it can be read. Use another folder, or remove it yourself"
        )
    keys = server_folder / KEYS_FILE
    if keys.exists():
        raise ArtifactError(
            f"there are evaluation keys in {os.fspath(server_folder)!r} already, which belong to another secret key; "
            "use another folder, or remove them yourself"
        )
    phrase = _new_passphrase() if passphrase else None
    make_folder(client_folder, 0o700)
    make_folder(server_folder, 0o777)
    progress = reporter()
    try:
        served = generate(spec, secret, keys, phrase, progress, hidden, engine)
    finally:
        progress.done()
    click.echo(f"the evaluation keys are for the engine {served}")
    spec.save(client_folder / SPEC_FILE)
    written = [secret, client_folder / SPEC_FILE, keys]
    if halves is not None:
        written.append(server_folder / PROGRAM_FILE)
        halves.server.save(written[-1])
        if halves.names is not None:
            save_names(client_folder / NAMES_FILE, spec.program, halves.names)
            written.insert(2, client_folder / NAMES_FILE)
    for path in written:
        _wrote(path)


def _weights(source: Path, spec: Specification, weights: Path | None) -> dict[str, Polynomials]:
    """The weights to encrypt along with making keys; GlyphcError when they are missing, or not asked for."""
    from glyphc.exchange.artifacts import SPEC_SUFFIX
    from glyphc.ir.instructions.numbered import numbered
    from glyphc.program import Program

    if not spec.client.encrypted:
        if weights is not None:
            raise GlyphcError(f"{os.fspath(source)!r} has no encrypted weights; leave out --weights")
        return {}
    if weights is None or source.suffix == SPEC_SUFFIX:
        raise GlyphcError(
            f"{os.fspath(source)!r} has encrypted weights, which are encrypted along with making keys: give the "
            "compiled program (.glyphc) and the file of weights that 'glyphc compile' wrote beside it (--weights)"
        )
    return numbered(Program.load(source, weights).schedule).secret


@click.command("encrypt")
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@samples_option
@click.option("--output", "output_path", type=_FILE, required=True, help="The file of encrypted inputs to write.")
@click.option("--spec", type=_FILE, help="A client specification other than the folder's.")
def encrypt_command(client_folder: Path, given: tuple[str, ...], output_path: Path, spec: Path | None) -> None:
    """Encrypt samples for the server."""
    from glyphc.console import reporter

    from .arrays import input_files, keep_sources, load_inputs

    account = load_client(client_folder, spec)
    keep_sources(output_path, *input_files(given))
    x = load_inputs(given, "input")
    progress = reporter()
    try:
        account.encrypt(x, output_path, progress)
    finally:
        progress.done()
    _wrote(output_path)


@click.command("eval")
@click.option("--server", "server_folder", type=_FOLDER, required=True, help="The server's folder.")
@click.option("--input", "input_path", type=_FILE, required=True, help="A file of encrypted inputs.")
@click.option("--output", "output_path", type=_FILE, required=True, help="The file of encrypted outputs to write.")
@click.option("--program", type=_FILE, help="A program (.server) other than the folder's.")
@click.option("--checkpoint", type=_FILE, help="Where to keep what is done. [default: OUTPUT with .checkpoint added]")
@click.option(
    "--sanitize",
    type=click.IntRange(1, 30),
    metavar="BITS",
    help="Re-randomise outputs and add noise of 2^BITS times the predicted deviation (see docs/security.md).",
)
@click.option("--engine", help="Refuse keys of another engine than this one. [default: the one they were made for]")
@cluster_options("the passes", " Keeps no checkpoint.")
@click.option("--question", type=_FILE, help="Where to ask the client. [default: OUTPUT with .question added]")
@click.option("--answer", type=_FILE, help="What the client says to the question ('glyphc refresh').")
def eval_command(
    server_folder: Path,
    input_path: Path,
    output_path: Path,
    program: Path | None,
    checkpoint: Path | None,
    sanitize: int | None,
    engine: str | None,
    cluster: str | None,
    cluster_tls: Path | None,
    question: Path | None,
    answer: Path | None,
) -> None:
    """Evaluate encrypted inputs with evaluation keys: the server's part. Needs no secret.

    An evaluation that was cut short is taken up again at its checkpoint when the same command is given again. A program
    that asks its client on the way stops with a question in a file: send it to the client, which answers it by 'glyphc
    refresh', and give the same command again with --answer.
    """
    from glyphc.console import reporter
    from glyphc.exchange.artifacts import KEYS_FILE, PROGRAM_FILE, ServerProgram
    from glyphc.exchange.key_checks import check_keys, keys_modulus
    from glyphc.exchange.requests import check_request
    from glyphc.exchange.server import Evaluator
    from glyphc.files import check_writable

    from .arrays import keep_sources

    if program is None and not (server_folder / PROGRAM_FILE).exists():
        raise DataError(
            f"there is no program ({PROGRAM_FILE}) in {os.fspath(server_folder)!r}. 'glyphc keygen PROGRAM.glyphc' "
            "puts one there beside the keys; keys that were made from a client specification (.spec) need --program "
            "with the server's half that 'glyphc split PROGRAM.glyphc --server FILE.server' writes"
        )
    if program is not None and program.suffix == ".glyphc":
        raise GlyphcError(
            f"{os.fspath(program)!r} is a whole compiled program, and the server takes its half: "
            f"'glyphc split {os.fspath(program)} --server FILE.server' writes it"
        )
    keys = server_folder / KEYS_FILE
    if not keys.exists():
        raise DataError(
            f"there are no evaluation keys ({KEYS_FILE}) in {os.fspath(server_folder)!r}; the client makes them with "
            "'glyphc keygen'"
        )
    half = ServerProgram.load(program or server_folder / PROGRAM_FILE)
    keep_sources(output_path, os.fspath(input_path), os.fspath(keys))
    check_writable(output_path)
    _warn(half.schedule.parameters)
    # everything that can be refused is, before the keys are loaded
    check_request(input_path, half, check_keys(keys, half, engine=engine), keys_modulus(keys))
    progress = reporter()
    if cluster is not None:
        from glyphc.cluster import coordinator

        files = coordinator.Files(program or server_folder / PROGRAM_FILE, keys)
        address = cluster_address(cluster, cluster_tls)
        try:
            report = coordinator.evaluate(
                address, files, input_path, output_path, sanitize or 0, progress, away=away_told
            )
        finally:
            progress.done()
        click.echo(f"{report.passes} passes, {report.seconds['evaluate']:.2f} s")
        _wrote(output_path)
        return
    place = checkpoint or output_path.with_name(output_path.name + ".checkpoint")
    asked = question or output_path.with_name(output_path.name + ".question")
    try:
        with Evaluator(half, keys, progress) as evaluator:
            report = evaluator.evaluate(input_path, output_path, place, sanitize or 0, question=asked, answer=answer)
    finally:
        progress.done()
    if report.resumed:
        click.echo(f"resumed after {report.resumed} instructions")
    for stage, seconds in {**evaluator.seconds, **report.seconds}.items():
        click.echo(f"{stage:<12}{seconds:8.2f} s")
    if report.waiting is not None:
        _wrote(report.waiting.question)
        click.echo(
            f"waiting for the client, trip {report.waiting.number} of {report.waiting.trips}: it answers "
            f"{report.waiting.question} by 'glyphc refresh'; then give this command again with --answer"
        )
        return
    _wrote(output_path)


@click.command("refresh")
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@click.option("--question", type=_FILE, required=True, help="What an evaluation asks.")
@click.option("--output", "output_path", type=_FILE, required=True, help="The answer to write.")
@click.option("--spec", type=_FILE, help="A client specification other than the folder's.")
def refresh_command(client_folder: Path, question: Path, output_path: Path, spec: Path | None) -> None:
    """Answer a question of an evaluation: decrypt intermediate values, and encrypt what follows from them anew.

    Whoever does so sees these values. Each place of an evaluation is answered once, for inputs of this client's.
    """
    from glyphc.exchange.answers import answer

    from .arrays import keep_sources

    account = load_client(client_folder, spec)
    keep_sources(output_path, os.fspath(question))
    answer(account, question, output_path)
    _wrote(output_path)


@click.command("decrypt")
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@click.option("--input", "input_path", type=_FILE, required=True, help="A file of encrypted outputs.")
@click.option("--output", "output_path", type=click.Path(), required=True, help="Results (.npy, or .npz for several).")
@click.option("--request", type=_FILE, help="The file of encrypted inputs that these must be the outputs of.")
@click.option("--spec", type=_FILE, help="A client specification other than the folder's.")
def decrypt_command(
    client_folder: Path, input_path: Path, output_path: str, request: Path | None, spec: Path | None
) -> None:
    """Decrypt what the server sent back."""
    from glyphc.console import overruns_told
    from glyphc.storage.container import Reader
    from glyphc.storage.headers import InputsHeader

    from .arrays import check_output, save_arrays

    account = load_client(client_folder, spec)
    check_output(output_path, len(account.spec.client.outputs))
    digest = None
    if request is not None:
        with Reader(request, InputsHeader) as reader:
            digest = reader.digest
    with overruns_told():
        outputs = account.decrypt(input_path, digest)
    save_arrays(output_path, outputs)
    _wrote(Path(output_path))


def load_client(folder: Path, spec: Path | None) -> Account:
    """The client of a folder, after asking for its passphrase if it has one."""
    from glyphc.exchange.client import SECRET_FILE, load_account
    from glyphc.exchange.secret import needs_passphrase

    secret = folder / SECRET_FILE
    phrase = _passphrase() if secret.is_file() and needs_passphrase(secret) else None
    account = load_account(folder, phrase, spec)
    _warn(account.spec.client.parameters)
    return account


def _passphrase() -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given
    try:
        return str(click.prompt("passphrase of the secret key", hide_input=True, err=True))
    except click.Abort:
        raise SecretError(f"the secret key needs its passphrase: type it, or set {PASSPHRASE_VARIABLE}") from None


def _new_passphrase() -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None:
        try:
            given = str(click.prompt("new passphrase", hide_input=True, confirmation_prompt=True, err=True))
        except click.Abort:
            raise SecretError(f"no passphrase was given: type it twice, or set {PASSPHRASE_VARIABLE}") from None
    if not given:
        raise SecretError("the passphrase is empty")
    return given


def _warn(parameters: ProgramParameters) -> None:
    if not parameters.secure:
        from glyphc.program import INSECURE_WARNING

        click.echo(INSECURE_WARNING, err=True)


def _wrote(path: Path) -> None:
    click.echo(f"wrote {path} ({path.stat().st_size:,} bytes)")
