"""The options of commands that hand their work to a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from glyphc.cluster.connection import Address

_F = TypeVar("_F", bound=Callable[..., Any])
_FOLDER = click.Path(file_okay=False, path_type=Path)


def cluster_options(what: str, note: str = "") -> Callable[[_F], _F]:
    """--cluster and --cluster-tls, as the parameters ``cluster`` and ``cluster_tls``. what: is shared."""

    def add(command: _F) -> _F:
        tls = "Folder with ca.pem, cert.pem and key.pem for the cluster."
        command = click.option("--cluster-tls", type=_FOLDER, help=tls)(command)
        where = "its scheduler (tls://host:8786), or local:N for N processes of this machine"
        text = f"Share {what} among the workers of a Dask cluster: {where}.{note}"
        return click.option("--cluster", metavar="ADDRESS", help=text)(command)

    return add


def cluster_address(cluster: str, tls: Path | None) -> Address:
    """ClusterError where Dask is missing, or the address is none."""
    from glyphc.cluster.connection import Address, need_dask

    need_dask()
    return Address.read(cluster, tls)


def away_told(reason: str) -> None:
    """On a terminal: why the cluster is away, or that it is back."""
    click.echo(reason or "the cluster is back", err=True)
