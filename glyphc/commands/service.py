"""The commands of the service: token and serve for its operator, submit for its clients."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from glyphc.errors import GlyphcError

from .cluster_options import cluster_address
from .service_options import ca_option, needs, patience_option, token, url_option

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(path_type=Path)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def register(group: click.Group) -> None:
    """Add the commands."""
    for command in (token_command, serve_command, submit_command, spec_command):
        group.add_command(command)


@click.command("token")
@click.argument("client")
@click.option("--tokens", type=_FILE, required=True, help="The file of tokens (only their hashes are kept in it).")
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long it is valid.")
def token_command(client: str, tokens: Path, days: int) -> None:
    """Make a token for CLIENT and print it, once."""
    from glyphc.service.settings import new_token

    click.echo(new_token(tokens, client, days))


@click.command("serve")
@click.option("--programs", type=_FOLDER, help="Folder of programs (.server).")
@click.option("--data", type=_FOLDER, required=True, help="Folder for keys, jobs and the database.")
@click.option("--tokens", type=_FILE, required=True, help="The file of tokens that 'glyphc token' made.")
@click.option("--listen", default="127.0.0.1:8440", show_default=True, metavar="HOST:PORT")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Evaluations at once.")
@click.option("--tls-certificate", type=_FILE, help="Certificate chain (PEM).")
@click.option("--tls-key", type=_FILE, help="Its private key (PEM).")
@click.option("--behind-proxy", is_flag=True, help="Listen beyond this machine without TLS: a proxy does it.")
@click.option("--sanitize", type=click.IntRange(1, 30), metavar="BITS", help="As for 'glyphc eval', for all outputs.")
@click.option("--queue", type=click.IntRange(1), default=64, show_default=True, help="Jobs that may wait.")
@click.option("--queue-each", type=click.IntRange(1), default=16, show_default=True, help="Of one client.")
@click.option("--job-seconds", type=click.FloatRange(1), default=21600.0, show_default=True, help="Time-out of a job.")
@click.option("--answer-hours", type=click.FloatRange(0.01), default=168.0, show_default=True, help="For an answer.")
@click.option("--max-inputs", type=click.IntRange(1), default=4096, show_default=True, help="Of one job, in MiB.")
@click.option("--max-keys", type=click.IntRange(1), default=32768, show_default=True, help="Of one client, in MiB.")
@click.option("--keys-kept", type=click.IntRange(1), default=16, show_default=True, help="Files, of one client.")
@click.option("--uploads-each", type=click.IntRange(1), default=4, show_default=True, help="At once, of one client.")
@click.option("--connections", type=click.IntRange(8), default=512, show_default=True, help="At once.")
@click.option(
    "--connections-each",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Of one client, and of one address without a token.",
)
@click.option(
    "--drain",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="That running jobs have when the service is asked to end (SIGTERM); then they wait at their checkpoints.",
)
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Share the passes of each evaluation among the workers of a Dask cluster: its scheduler (tls://host:8786).",
)
@click.option("--cluster-tls", type=_FOLDER, help="Folder with ca.pem, cert.pem and key.pem for the cluster.")
@click.option(
    "--trained",
    type=_FOLDER,
    help="Folder of training servers' folders, CLIENT/RUN: encrypted weights that answer requests ('training submit').",
)
@click.option("--json-logs", is_flag=True, help="A JSON object in each line of the log.")
@click.option("--insecure", is_flag=True, help="Serve programs with small rings, for tests. NOT SECURE.")
def serve_command(
    programs: Path | None,
    data: Path,
    tokens: Path,
    listen: str,
    workers: int,
    tls_certificate: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    sanitize: int | None,
    queue: int,
    queue_each: int,
    job_seconds: float,
    answer_hours: float,
    max_inputs: int,
    max_keys: int,
    keys_kept: int,
    uploads_each: int,
    connections: int,
    connections_each: int,
    drain: float,
    cluster: str | None,
    cluster_tls: Path | None,
    trained: Path | None,
    json_logs: bool,
    insecure: bool,
) -> None:
    """Evaluate programs for clients over HTTP. Needs no secret key and cannot decrypt."""
    needs("fastapi", "uvicorn", "prometheus_client")
    if programs is None and trained is None:
        raise GlyphcError(
            "there is nothing to serve: give --programs, a folder of compiled programs, or --trained, a folder of "
            "training servers' folders, or both"
        )
    from glyphc.service.__main__ import Listen, to_json
    from glyphc.service.settings import Limits, Settings

    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise GlyphcError(f"--listen {listen!r} is not HOST:PORT, such as 127.0.0.1:8440")
    if (tls_certificate is None) != (tls_key is None):
        raise GlyphcError("TLS needs both --tls-certificate and --tls-key")
    for path in filter(None, (tls_certificate, tls_key)):
        if not path.is_file():
            raise GlyphcError(f"there is no file {os.fspath(path)!r}")
    if host not in _LOOPBACK and tls_certificate is None and not behind_proxy:
        raise GlyphcError(
            f"listening on {host} without TLS would send tokens in the clear: give --tls-certificate and --tls-key, or "
            "--behind-proxy if something in front does TLS"
        )
    if cluster is not None and cluster_address(cluster, cluster_tls).local:
        raise GlyphcError(f"--cluster {cluster!r}: a service takes the address of a scheduler that stays")
    limits = Limits(
        keys_total=max_keys << 20,
        keys_each=max_keys << 20,
        keys_kept=keys_kept,
        inputs=max_inputs << 20,
        queue=queue,
        queue_each=queue_each,
        bodies_each=uploads_each,
        connections=connections,
        connections_each=connections_each,
        job_seconds=job_seconds,
        answer_seconds=3600.0 * answer_hours,
        drain_seconds=drain,
    )
    tls = os.path.abspath(cluster_tls) if cluster_tls else ""
    runs = Path(os.path.abspath(trained)) if trained else None
    settings = Settings(
        programs, data, tokens, workers, sanitize or 0, insecure, limits, json_logs, cluster or "", tls, runs
    )
    where = Listen(host, int(port), os.fspath(tls_certificate or ""), os.fspath(tls_key or ""))
    # a process of its own, in which nothing that decrypts can be reached
    os.execv(sys.executable, [sys.executable, "-m", "glyphc.service", to_json(settings, where)])


@click.command("spec")
@click.argument("program")
@url_option
@click.option("-o", "--output", type=_FILE, required=True, help="The client specification to write (.spec).")
@ca_option
def spec_command(program: str, url: str, output: Path, ca: str | None) -> None:
    """Fetch the client specification of PROGRAM (a name or fingerprint) from a service, to make keys for it."""
    needs("httpx")
    from glyphc.service.client import Client

    with Client(url, token(), ca=ca) as client:
        client.specification(program).save(output)
    click.echo(f"wrote {output} ({output.stat().st_size:,} bytes)")


@click.command("submit")
@url_option
@click.option("--client", "client_folder", type=_FOLDER, required=True, help="The client's folder.")
@click.option("--input", "input_path", type=click.Path(), required=True, help="Samples (.npy or .npz).")
@click.option("--output", "output_path", type=click.Path(), required=True, help="Results (.npy, or .npz for several).")
@click.option("--keys", type=_FILE, help="The evaluation keys, to upload if the service does not have them.")
@click.option("--spec", type=_FILE, help="A client specification other than the folder's.")
@ca_option
@patience_option
def submit_command(
    url: str,
    client_folder: Path,
    input_path: str,
    output_path: str,
    keys: Path | None,
    spec: Path | None,
    ca: str | None,
    patience: float,
) -> None:
    """Encrypt samples, have a service evaluate them, and decrypt the results. The token is read from GLYPHC_TOKEN."""
    needs("httpx")
    from glyphc.console import overruns_told, reporter
    from glyphc.service.client import Client

    from .arrays import check_output, keep_sources, load_arrays, save_arrays
    from .roles import load_client

    given = token()
    account = load_client(client_folder, spec)
    keep_sources(Path(output_path), input_path)
    check_output(output_path, len(account.spec.client.outputs))
    x = load_arrays(input_path, "input")
    progress = reporter()
    try:
        with Client(url, given, ca=ca, patience=patience) as client, overruns_told():
            outputs = client.run(account, x, keys, progress)
    finally:
        progress.done()
    save_arrays(output_path, outputs)
    click.echo(f"wrote {output_path}")
