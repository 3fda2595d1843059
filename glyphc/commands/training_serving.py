"""``glyphc training``: what a run gives before its weights are decrypted. Thin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .roles import _passphrase, _warn, _wrote
from .service_options import ca_option, needs, patience_option, token, url_option

if TYPE_CHECKING:
    from glyphc.exchange.training_predict import Predicted

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(path_type=Path)


@click.command("watch")
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@click.option("--statistics", type=_FOLDER, required=True, help="The folder 'monitor' in the server's, or a copy.")
def watch_command(client_folder: Path, statistics: Path) -> None:
    """The key holder: see whether a run diverges that was prepared with --monitor.

    Shows of each step, of its batch and before it, the root mean square of the norms of the loss' gradient by the
    outputs of a sample. The server, and owners of data, cannot decrypt it.
    """
    from glyphc.exchange.training_client import secret_is_encrypted
    from glyphc.exchange.training_watch import watch

    phrase = _passphrase() if secret_is_encrypted(client_folder) else None
    _warn_of(client_folder)
    found = watch(client_folder, statistics, phrase)
    for each in found:
        beyond = "" if each.possible else "  impossible: values have left the ranges"
        click.echo(f"step {each.step:<13} gradient norm {each.norm:.4g}{beyond}")
    if not all(each.possible for each in found):
        click.echo(
            "training has diverged: stop the server, and prepare it again with a smaller learning rate or wider ranges",
            err=True,
        )


@click.command("request")
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@click.option("--data", type=click.Path(), required=True, help="Samples (.npy or .npz).")
@click.option("-o", "--output", type=_FILE, required=True, help="The request to write, for the server.")
@click.option("--steps", type=click.IntRange(0), help="Ask the weights after so many steps. [default: after all]")
def request_command(client_folder: Path, data: str, output: Path, steps: int | None) -> None:
    """The client: encrypt samples for weights that stay encrypted."""
    from glyphc.exchange.training_client import secret_is_encrypted
    from glyphc.exchange.training_predict import make_request
    from glyphc.files import check_writable

    from .arrays import keep_sources
    from .job_options import samples_from

    keep_sources(output, data)
    check_writable(output)
    samples = samples_from(data, "samples")
    phrase = _passphrase() if secret_is_encrypted(client_folder) else None
    _warn_of(client_folder)
    done = make_request(client_folder, samples, output, phrase, steps)
    click.echo(f"{'samples':18} {done.samples} in {done.passes} passes of {done.ciphertexts} ciphertexts")
    click.echo(f"{'predicted':18} {done.pass_seconds:.3g} s for a pass, on a server like this machine")
    if done.clipped:
        click.echo(f"{'clipped':18} {done.clipped}, as in training")
    _wrote(output)


@click.command("infer")
@click.option("--server", "server_folder", type=_FOLDER, required=True, help="The server's folder.")
@click.option("--request", type=_FILE, required=True, help="A client's request.")
@click.option("--state", type=_FILE, help="The encrypted weights. [default: those in the folder that it asks for]")
@click.option("-o", "--output", type=_FILE, required=True, help="The answer to write, for the client.")
def infer_command(server_folder: Path, request: Path, state: Path | None, output: Path) -> None:
    """The server: predict on encrypted samples with weights that were trained encrypted. Nothing is decrypted."""
    from glyphc.console import reporter
    from glyphc.exchange.training_files import PROGRAM, program_parameters
    from glyphc.exchange.training_infer import infer
    from glyphc.files import check_writable

    from .arrays import keep_sources

    keep_sources(output, os.fspath(request), *([] if state is None else [os.fspath(state)]))
    check_writable(output)
    _warn(program_parameters(server_folder / PROGRAM))
    progress = reporter()
    try:
        report = infer(server_folder, request, output, state, progress)
    finally:
        progress.done()
    total = sum(report.seconds)
    click.echo(f"{'passes':18} {report.passes}")
    click.echo(f"{'seconds':18} {total:.1f}, {total / report.passes:.3g} for a pass")
    _wrote(output)


@click.command("predict")
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@click.option("--request", type=_FILE, required=True, help="The request that was answered.")
@click.option("--answer", type=_FILE, required=True, help="The server's answer.")
@click.option("--samples", type=click.IntRange(1), help="How many samples were asked for. [default: as many as labels]")
@click.option("--labels", type=click.Path(), help="Their labels: shows loss and accuracy.")
@click.option("-o", "--output", type=_FILE, required=True, help="The network's outputs to write (.npy).")
def predict_command(
    client_folder: Path, request: Path, answer: Path, samples: int | None, labels: str | None, output: Path
) -> None:
    """The client: decrypt predictions. The weights stay encrypted."""
    from glyphc.exchange.training_client import secret_is_encrypted
    from glyphc.exchange.training_predict import read_answer

    from .arrays import check_output, keep_sources
    from .job_options import samples_from

    keep_sources(output, os.fspath(request), os.fspath(answer), *([] if labels is None else [labels]))
    check_output(os.fspath(output), 1)
    given = None if labels is None else samples_from(labels, "labels")
    phrase = _passphrase() if secret_is_encrypted(client_folder) else None
    _warn_of(client_folder)
    _show(read_answer(client_folder, request, answer, samples, given, phrase), output)


@click.command("submit")
@url_option
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@click.option("--data", type=click.Path(), required=True, help="Samples (.npy or .npz).")
@click.option("--labels", type=click.Path(), help="Their labels: shows loss and accuracy.")
@click.option("--steps", type=click.IntRange(0), help="Ask the weights after so many steps. [default: after all]")
@click.option("-o", "--output", type=_FILE, required=True, help="The network's outputs to write (.npy).")
@ca_option
@patience_option
def submit_command(
    url: str,
    client_folder: Path,
    data: str,
    labels: str | None,
    steps: int | None,
    output: Path,
    ca: str | None,
    patience: float,
) -> None:
    """The client: 'request', 'infer' and 'predict' by a service, which has the server's folder ('glyphc serve
    --trained'). The token is read from GLYPHC_TOKEN."""
    from glyphc.console import reporter
    from glyphc.exchange.training_client import secret_is_encrypted
    from glyphc.exchange.training_predict import predict

    from .arrays import check_output, keep_sources
    from .job_options import samples_from

    needs("httpx")
    from glyphc.service.client import Client

    given = token()
    keep_sources(output, data, *([] if labels is None else [labels]))
    check_output(os.fspath(output), 1)
    x, y = samples_from(data, "samples"), None if labels is None else samples_from(labels, "labels")
    phrase = _passphrase() if secret_is_encrypted(client_folder) else None
    _warn_of(client_folder)
    progress = reporter()
    try:
        with Client(url, given, ca=ca, patience=patience) as client:
            found = predict(client, client_folder, x, y, phrase, steps, progress)
    finally:
        progress.done()
    _show(found, output)


def _warn_of(client_folder: Path) -> None:
    from glyphc.exchange.training_client import is_insecure
    from glyphc.program import INSECURE_WARNING

    if is_insecure(client_folder):
        click.echo(INSECURE_WARNING, err=True)


def _show(found: Predicted, output: Path) -> None:
    from .arrays import save_arrays

    if found.loss is not None:
        click.echo(f"{'loss':18} {found.loss:.6g}")
    if found.accuracy is not None:
        click.echo(f"{'accuracy':18} {found.accuracy:.2%} of {len(found.outputs)}")
    save_arrays(os.fspath(output), {"outputs": found.outputs})
    _wrote(output)


SERVING = (watch_command, request_command, infer_command, predict_command, submit_command)
