"""``glyphc training``: client and server of a training run as separate commands. Thin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glyphc.errors import GlyphcError

from .cluster_options import away_told, cluster_address, cluster_options
from .job_options import (
    bytes_of,
    describe,
    job_of,
    job_options,
    monitor_option,
    owned_options,
    plan_options,
    planned_by,
)
from .roles import _new_passphrase, _passphrase, _warn, _wrote
from .training_offer import accept_command, offer_command
from .training_serving import SERVING

if TYPE_CHECKING:
    from glyphc.exchange.training_client import Prepared

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(path_type=Path)


@click.group("training")
def training_group() -> None:
    """Train on encrypted data with client and server on two machines.

    The client prepares, the server runs, the client finishes.
    """


for _command in (offer_command, accept_command, *SERVING):
    training_group.add_command(_command)


@training_group.command("prepare")
@job_options
@plan_options
@monitor_option
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="Folder for the secret key. Keep it.")
@click.option("--server", "server_folder", type=_FOLDER, required=True, help="Folder for all that the server needs.")
@click.option("--passphrase", is_flag=True, help="Encrypt the secret key; asks, or reads GLYPHC_PASSPHRASE.")
def prepare_command(
    client_folder: Path,
    server_folder: Path,
    passphrase: bool,
    engine: str | None,
    why: bool,
    dry_run: bool,
    memory: float | None,
    **chosen: Any,
) -> None:
    """The client: plan the training of a MODEL, make keys, encrypt the samples.

    First the same run is done in the clear: what would diverge or leave what encryption computes is refused; or it is
    done on other samples (--trial-data), or not at all (--ranges bounds). The server needs the whole of its folder: a
    program, evaluation keys, encrypted batches and weights. No secret is in it.
    """
    done = _prepared(client_folder, server_folder, passphrase, engine, why, dry_run, memory, chosen)
    batches = f"{done.batches} batches of {done.ciphertexts} ciphertexts"
    click.echo(f"{'server':18} {os.fspath(server_folder)}: {batches}, {done.server_bytes:,} bytes")
    _show(done, client_folder)
    if done.reach is not None:
        click.echo(f"{'range used':18} {done.reach:.0%} in the trial run")


def _prepared(
    client: Path,
    server: Path,
    passphrase: bool,
    engine: str | None,
    why: bool,
    dry_run: bool,
    memory: float | None,
    chosen: dict[str, Any],
    spec: Path | None = None,
) -> Prepared:
    """A job by its options, planned, with its files in both folders. spec: of a job on data of several owners."""
    from glyphc.console import reporter
    from glyphc.exchange.secret import check_apart
    from glyphc.exchange.training_client import prepare
    from glyphc.program import INSECURE_WARNING

    from .trained_model import onnx_file

    check_apart(client, server)  # before anything is read or asked for
    job = job_of(**chosen)
    if job.options.insecure_ring is not None:
        click.echo(INSECURE_WARNING, err=True)
    describe(job, "to be done by the server")
    allowed = bytes_of(memory)
    phrase = _new_passphrase() if passphrase and not dry_run else None
    planned = planned_by(job, engine, why, dry_run, allowed, "to upload", owned=spec is not None)
    progress = reporter()
    try:
        source = onnx_file(chosen["model"])
        return prepare(job, client, server, phrase, progress, planned, allowed, source, spec, engine)
    finally:
        progress.done()


def _show(done: Prepared, client: Path) -> None:
    from glyphc.program import INSECURE_WARNING

    click.echo(f"{'client':18} {os.fspath(client)}: the secret key stays there")
    click.echo(f"{'security':18} {done.parameters.security if done.parameters.secure else INSECURE_WARNING}")
    click.echo(f"{'engine':18} {done.engine}: the evaluation keys are for it")
    click.echo(f"{'ranges':18} {done.source}")


@training_group.command("invite")
@owned_options
@plan_options
@monitor_option
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="Folder for the secret key. Keep it.")
@click.option("--server", "server_folder", type=_FOLDER, required=True, help="Folder for all that the server needs.")
@click.option("--spec", type=_FILE, required=True, help="What owners of data need: to be written, for all of them.")
@click.option("--passphrase", is_flag=True, help="Encrypt the secret key; asks, or reads GLYPHC_PASSPHRASE.")
def invite_command(
    client_folder: Path,
    server_folder: Path,
    spec: Path,
    passphrase: bool,
    engine: str | None,
    why: bool,
    dry_run: bool,
    memory: float | None,
    **chosen: Any,
) -> None:
    """The key holder: plan a training of a MODEL on data of several owners; make keys, and what owners need.

    Owners encrypt their samples in batches ('glyphc training contribute'), which go into the server's folder of
    batches. Nothing is known of the data but the norm that all are scaled down to, so ranges are those of
    --ranges bounds, or of a trial on public samples.
    """
    from glyphc.exchange.training_owners import spec_digest

    done = _prepared(client_folder, server_folder, passphrase, engine, why, dry_run, memory, chosen, spec)
    click.echo(f"{'server':18} {os.fspath(server_folder)}: {done.batches} batches are to come from owners")
    _show(done, client_folder)
    click.echo(f"{'specification':18} {spec_digest(spec)}: tell owners by another way than the file goes")
    _wrote(spec)


@training_group.command("contribute")
@click.option("--spec", type=_FILE, required=True, help="The key holder's specification.")
@click.option("--data", type=click.Path(), required=True, help="Your samples (.npy or .npz).")
@click.option("--labels", type=click.Path(), required=True, help="Their labels.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The number of your first batch.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the order of your samples.")
@click.option("-o", "--output", type=_FOLDER, required=True, help="A new folder for your batches, for the server.")
@click.option("--insecure", is_flag=True, help="Accept a specification with a small ring, for tests. NOT SECURE.")
def contribute_command(spec: Path, data: str, labels: str, first: int, seed: int, output: Path, insecure: bool) -> None:
    """An owner of data: encrypt samples under the key holder's public key, so that the server cannot read them."""
    from glyphc.console import reporter
    from glyphc.exchange.training_owners import contribute, spec_digest, spec_parameters

    from .job_options import samples_from

    _warn(spec_parameters(spec))
    x, y = samples_from(data, "samples"), samples_from(labels, "labels")
    progress = reporter()
    try:
        done = contribute(spec, x, y, output, first, seed, progress, insecure)
    finally:
        progress.done()
    numbers = f"{done.numbers.start} to {done.numbers.stop - 1}"
    click.echo(
        f"{'specification':18} {spec_digest(spec)}: 'invite' printed the same for the key holder, or it is not theirs"
    )
    click.echo(f"{'batches':18} {numbers}: {done.samples} samples, {done.size:,} bytes in {os.fspath(output)}")
    if done.clipped:
        click.echo(f"{'clipped':18} {done.clipped} samples were scaled down")


@training_group.command("run")
@click.option("--server", "server_folder", type=_FOLDER, required=True, help="The server's folder.")
@click.option("--steps", type=click.IntRange(1), help="Stop after so many steps in all. [default: those planned]")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run, if there is one, from its last step.")
@click.option("--engine", help="Refuse keys of another engine than this one. [default: the one they were made for]")
@cluster_options("the work of each step")
def run_command(
    server_folder: Path,
    steps: int | None,
    resume: bool,
    engine: str | None,
    cluster: str | None,
    cluster_tls: Path | None,
) -> None:
    """The server: train on what is in its folder. Needs no secret, no model, no data.

    The encrypted weights are saved after every step; the last ones are the file trained.state, for the client.
    """
    from glyphc.console import reporter
    from glyphc.exchange.training_files import PROGRAM, program_parameters
    from glyphc.exchange.training_server import run_training

    _warn(program_parameters(server_folder / PROGRAM))
    make = None
    if cluster is not None:
        address = cluster_address(cluster, cluster_tls)
        from glyphc.cluster.training import on_cluster

        make = on_cluster(address, away=away_told)
    try:
        report = run_training(server_folder, steps, resume, reporter(), engine=engine, make=make)
    except KeyboardInterrupt:
        click.echo("\nstopped; go on later with the same command and --resume", err=True)
        raise click.exceptions.Exit(130) from None
    if report.first:
        click.echo(f"{'resumed after':18} {report.first} steps")
    total = sum(report.seconds)
    click.echo(f"{'steps':18} {report.steps}")
    click.echo(f"{'seconds':18} {total:.1f}, {total / len(report.seconds):.3g} for a step")
    _wrote(report.output)


@training_group.command("continue")
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@click.option("--update", type=_FOLDER, required=True, help="A new folder; the server copies its files over its own.")
@click.option("--steps", type=click.IntRange(1), required=True, help="How many more.")
@click.option("--after", type=click.IntRange(1), help="Go on from the weights after so many steps. [default: all]")
@click.option("--learning-rate", type=float, help="[default: that of the last step before]")
@click.option("--schedule", help="Of the steps to come, e.g. 'cosine{steps=20,final=0.1}'. [default: constant]")
@click.option("--data", type=click.Path(), help="New samples to train on. [default: the batches that the server has]")
@click.option("--labels", type=click.Path(), help="Their labels.")
@click.option("--replay", is_flag=True, help="Beside new samples, the earlier batches come again.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the order of new samples.")
@click.option("--trial-data", type=click.Path(), help="Samples to try the ranges on. [default: the new ones]")
@click.option("--trial-labels", type=click.Path(), help="Their labels.")
@click.option("--state", type=_FILE, help="The server's state: decrypted here to see whether the ranges hold from it.")
@click.option("--dry-run", is_flag=True, help="Say what that is going to take, and stop before anything is encrypted.")
def continue_command(
    client_folder: Path,
    update: Path,
    steps: int,
    after: int | None,
    learning_rate: float | None,
    schedule: str | None,
    data: str | None,
    labels: str | None,
    replay: bool,
    seed: int,
    trial_data: str | None,
    trial_labels: str | None,
    state: Path | None,
    dry_run: bool,
) -> None:
    """The client: let a run go on, with another learning rate or on more data. The weights stay encrypted.

    The server keeps its keys, batches and state; with the files of the update in its folder, 'run' does the steps to
    come. The ranges are those that the run was begun with. Whether they hold is found out beforehand, in the clear: on
    --trial-data or new samples, from --state or else from the start; or by bounds, for runs with --ranges bounds.
    """
    from glyphc.console import reporter
    from glyphc.exchange.training_client import secret_is_encrypted
    from glyphc.exchange.training_continue import Continuation, Longer, go_on
    from glyphc.train.section import schedule_of

    from .job_options import samples_from, show_longer

    if (data is None) != (labels is None) or (trial_data is None) != (trial_labels is None):
        raise click.UsageError("--data and --labels go together, and --trial-data and --trial-labels")
    new = None if data is None else (samples_from(data, "samples"), samples_from(labels or "", "labels"))
    trial = None
    if trial_data is not None:
        what = "of the trial"
        trial = samples_from(trial_data, f"samples {what}"), samples_from(trial_labels or "", f"labels {what}")
    chosen = None if schedule is None else schedule_of(schedule, 1)
    how = Continuation(steps, learning_rate, chosen, after, replay, seed)
    secret = (new is not None and not dry_run) or state is not None
    phrase = _passphrase() if secret and secret_is_encrypted(client_folder) else None

    def planned(longer: Longer) -> None:
        show_longer(longer)
        if dry_run:
            click.echo("nothing was encrypted (--dry-run)")
            raise click.exceptions.Exit(0)

    progress = reporter()
    try:
        done = go_on(client_folder, update, how, new, trial, state, phrase, progress, planned)
    finally:
        progress.done()
    click.echo(f"{'update':18} {os.fspath(update)}: {done.batches} new batches, {done.size:,} bytes, for the server")
    if done.clipped:
        click.echo(f"{'clipped':18} {done.clipped} samples were scaled down")
    click.echo(f"{'steps':18} {done.steps} in all: 'glyphc training run' does those to come")


@training_group.command("finish")
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@click.option("--server", "server_folder", type=_FOLDER, help="The server's folder, with its file trained.state.")
@click.option("--state", type=_FILE, help="The file of encrypted weights, instead of the server's folder.")
@click.option("-o", "--output", type=_FILE, required=True, help="The trained model to write (.onnx).")
@click.option("--steps", type=click.IntRange(1), help="Read the weights after so many steps. [default: after all]")
def finish_command(
    client_folder: Path, server_folder: Path | None, state: Path | None, output: Path, steps: int | None
) -> None:
    """The client: decrypt the trained weights; write the model as ONNX."""
    from glyphc.exchange.training_client import finish, original_model, secret_is_encrypted
    from glyphc.exchange.training_files import CHECKPOINT, TRAINED
    from glyphc.files import check_writable, write_atomically

    from .arrays import keep_sources
    from .trained_model import trained_model

    if (state is None) == (server_folder is None):
        raise click.UsageError("say where the weights are: --server FOLDER or --state FILE")
    if server_folder is not None:
        trained = server_folder / TRAINED
        state = trained if trained.exists() or steps is None else server_folder / CHECKPOINT
    assert state is not None
    if output.suffix != ".onnx":
        raise GlyphcError(f"the trained model {os.fspath(output)!r} must end in .onnx")
    keep_sources(output, os.fspath(state))
    check_writable(output)
    phrase = _passphrase() if secret_is_encrypted(client_folder) else None
    network, parameters = finish(client_folder, state, phrase, steps)
    _warn(parameters)
    write_atomically(output, trained_model(original_model(client_folder), network).SerializeToString())
    _wrote(output)
