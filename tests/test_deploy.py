"""The examples of docs/deploy start the service with options that it has, and with files where they are mounted."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import click
import pytest
import yaml

from glyphc.commands.service import serve_command

DEPLOY = Path(__file__).resolve().parents[1] / "docs" / "deploy"


def container() -> tuple[list[str], list[str]]:
    """ENTRYPOINT and CMD of the Containerfile, of which the latter is replaced by what an example says."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    found = {name: json.loads(value) for name, value in re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text, re.M)}
    return found["ENTRYPOINT"], found["CMD"]


def examples() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Of each example, the arguments that it gives and what it mounts, by the path in the container."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["glyphc"]
    mounted = {path: source for source, path, *_ in (v.split(":") for v in compose["volumes"])}
    (kubernetes,) = (
        part["spec"]["template"]["spec"]["containers"][0]
        for part in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
        if part["kind"] == "StatefulSet"
    )
    volumes = {mount["mountPath"]: mount["name"] for mount in kubernetes["volumeMounts"]}
    return {"compose": (compose["command"], mounted), "kubernetes": (kubernetes["args"], volumes)}


def parsed(arguments: list[str]) -> dict[str, Any]:
    with click.Context(serve_command) as context:
        serve_command.parse_args(context, list(arguments))
        return context.params


@pytest.mark.parametrize("name", ["compose", "kubernetes"])
def test_an_example_names_files_in_what_it_mounts(name: str) -> None:
    entry, _ = container()
    assert entry[:2] == ["glyphc", "serve"]
    given, mounted = examples()[name]
    options = parsed([*entry[2:], *given])
    assert options["behind_proxy"] and options["drain"] == 600
    for path, inside in ((options["programs"], True), (options["tokens"], False), (options["data"], False)):
        place = PurePosixPath(path)
        # a file that is mounted by itself stays as it was when another takes its name
        assert str(place if inside else place.parent) in mounted


def test_a_container_alone_has_all_that_the_service_asks_for() -> None:
    entry, command = container()
    options = parsed([*entry[2:], *command])
    assert options["listen"] == "0.0.0.0:8440" and options["json_logs"]
