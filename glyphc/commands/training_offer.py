"""``glyphc training offer`` and ``accept``: frozen layers that are the server's. Thin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from glyphc.errors import GlyphcError

from .job_options import bytes_of, describe, job_of, owned_options, plan_options, planned_by, samples_from
from .roles import _new_passphrase, _warn, _wrote

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(path_type=Path)


@click.command("offer")
@owned_options
@plan_options
@click.option("-o", "--output", type=_FILE, required=True, help="The offer to write, for the client.")
@click.option("--backbone", type=_FILE, required=True, help="Where to write the weights of frozen layers. Keep it.")
def offer_command(
    output: Path, backbone: Path, why: bool, dry_run: bool, memory: float | None, engine: str | None, **chosen: Any
) -> None:
    """The server: offer to train a MODEL whose frozen layers it keeps, on a client's samples.

    The client gets the network's structure and the weights that training starts from, but not those of the layers that
    are frozen (--freeze) before the trained ones. It uploads encrypted samples as they are, and the server computes the
    frozen layers on them in every step, with weights in the clear. Ranges are found on --trial-data, the server's own
    or public samples: the client cannot try anything.
    """
    from glyphc.exchange.training_backbone import write_offer
    from glyphc.exchange.training_files import BACKBONE
    from glyphc.files import check_writable
    from glyphc.program import INSECURE_WARNING
    from glyphc.train.planning import plan_of

    if chosen["trial_data"] is None:
        raise click.UsageError("an offer takes --trial-data and --trial-labels: ranges are found on them")
    if output.resolve() == backbone.resolve():
        raise click.UsageError(
            "the offer (-o) and the weights (--backbone) are two files: the client gets only the first"
        )
    for path in (output, backbone):
        if path.exists():
            raise GlyphcError(f"{os.fspath(path)!r} exists already; choose another name, or remove it yourself")
        check_writable(path)
    job = job_of(**chosen, keep_on="server")
    if job.options.insecure_ring is not None:
        click.echo(INSECURE_WARNING, err=True)
    describe(job, "on a client's samples, by the server")
    allowed, plan = bytes_of(memory), plan_of(job)
    shown = planned_by(job, engine, why, dry_run, allowed, "for the client to upload")
    shown(plan)
    done = write_offer(job, plan, output, backbone)
    click.echo(f"{'kept':18} {done.values:,} weights: {', '.join(done.layers)}")
    click.echo(f"{'security':18} {plan.parameters.security if plan.parameters.secure else INSECURE_WARNING}")
    click.echo(f"{'backbone':18} {os.fspath(backbone)}: put it into the server's folder as {BACKBONE}")
    _wrote(output)


@click.command("accept")
@click.argument("offer", type=_FILE)
@click.option("--data", type=click.Path(), required=True, help="Training samples (.npy or .npz).")
@click.option("--labels", type=click.Path(), required=True, help="Their labels.")
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="Folder for the secret key. Keep it.")
@click.option("--server", "server_folder", type=_FOLDER, required=True, help="Folder for all that the server needs.")
@click.option("--passphrase", is_flag=True, help="Encrypt the secret key; asks, or reads GLYPHC_PASSPHRASE.")
@click.option("--insecure", is_flag=True, help="Accept an offer with a small ring, for tests. NOT SECURE.")
@plan_options
def accept_command(
    offer: Path,
    data: str,
    labels: str,
    client_folder: Path,
    server_folder: Path,
    passphrase: bool,
    insecure: bool,
    why: bool,
    dry_run: bool,
    memory: float | None,
    engine: str | None,
) -> None:
    """The client: accept an OFFER to train what comes behind the server's layers; make keys, encrypt the samples.

    Then as after 'prepare': the server runs, the client finishes, and gets the layers that were trained.
    """
    from glyphc.console import reporter
    from glyphc.exchange.secret import check_apart
    from glyphc.exchange.training_backbone import accepted
    from glyphc.exchange.training_client import prepare

    check_apart(client_folder, server_folder)
    job, program = accepted(offer, samples_from(data, "training samples"), samples_from(labels, "labels"), insecure)
    describe(job, "to be done by the server")
    allowed = bytes_of(memory)
    phrase = _new_passphrase() if passphrase and not dry_run else None
    planned = planned_by(job, engine, why, dry_run, allowed, "to upload")
    progress = reporter()
    try:
        done = prepare(
            job, client_folder, server_folder, phrase, progress, planned, allowed, engine=engine, offered=program
        )
    finally:
        progress.done()
    _warn(done.parameters)
    batches = f"{done.batches} batches of {done.ciphertexts} ciphertexts"
    click.echo(f"{'server':18} {os.fspath(server_folder)}: {batches}, {done.server_bytes:,} bytes")
    click.echo(f"{'client':18} {os.fspath(client_folder)}: the secret key stays there")
    click.echo(f"{'engine':18} {done.engine}: the evaluation keys are for it")
    click.echo(f"{'ranges':18} {done.source}")
