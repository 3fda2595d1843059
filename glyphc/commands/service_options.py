"""What commands that ask a service have in common: where it is, how long it is waited for, and the client's token."""

from __future__ import annotations

import os

import click

from glyphc.errors import EnvironmentSetupError, GlyphcError

TOKEN_VARIABLE = "GLYPHC_TOKEN"
url_option = click.option("--url", required=True, help="The service's address.")
ca_option = click.option("--ca", type=click.Path(), help="A file of certificates to trust.")
patience_option = click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds for which a service that is down or busy is asked again.",
)


def token() -> str:
    """The client's, from the environment; GlyphcError where there is none."""
    found = os.environ.get(TOKEN_VARIABLE, "")
    if not found:
        raise GlyphcError(f"the service's operator gives you a token; put it into the variable {TOKEN_VARIABLE}")
    return found


def needs(*modules: str) -> None:
    """EnvironmentSetupError where packages of the service are missing."""
    import importlib.util

    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        raise EnvironmentSetupError(
            f"the service needs {', '.join(missing)}, which are not installed: pip install 'glyphc[service]'"
        )
