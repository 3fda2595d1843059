"""The file of a cost model, and which one is used."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from cost_models import MACHINE, ROOT, models, shipped_row
from hypothesis import HealthCheck, given, settings

import glyphc as package
from glyphc.analysis import cost_file
from glyphc.analysis.cost import (
    CONFIGURATIONS,
    CostModel,
    calibrated,
)
from glyphc.analysis.kernels_cost import KERNELS
from glyphc.diagnostics import predicted, summary
from glyphc.errors import ArtifactError, GlyphcError

# -- the file --


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(models())
def test_the_file_keeps_all(model: CostModel) -> None:
    assert cost_file.from_json(cost_file.to_json(model).encode()) == model


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    model = CostModel(product=1.5, machine=MACHINE)
    cost_file.save(path, model)
    assert cost_file.load(path) == model
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]
    with pytest.raises(ArtifactError, match="no folder"):
        cost_file.save(tmp_path / "missing" / "cost.json", model)


def tree() -> dict[str, Any]:
    parsed = json.loads(cost_file.to_json(CostModel()))
    assert isinstance(parsed, dict)
    return parsed


WHOLE = cost_file.to_json(CostModel()).encode()
PARTS = {
    "": [*tree()],
    "machine": [*tree()["machine"]],
    "configuration": [*tree()["configurations"][0]],
    "cost": [*tree()["configurations"][0]["costs"][0]],
    "training": [*tree()["training"]],
    "training row": [*tree()["training"]["rows"][0]],
}


def room(whole: dict[str, Any], part: str) -> dict[str, Any]:
    """The object in the file that a name of ``PARTS`` stands for."""
    configuration = whole["configurations"][0]
    rooms = {"": whole, "machine": whole["machine"], "configuration": configuration, "cost": configuration["costs"][0]}
    rooms |= {"training": whole["training"], "training row": whole["training"]["rows"][0]}
    return cast(dict[str, Any], rooms[part])


def refusal(tmp_path: Path, data: bytes) -> str:
    """What is said of a file with this content."""
    path = tmp_path / "cost.json"
    path.write_bytes(data)
    with pytest.raises(GlyphcError) as caught:
        cost_file.load(path)
    text = str(caught.value)
    assert str(path) in text
    assert "glyphc measure" in text
    assert "delete" in text
    return text


@pytest.mark.parametrize(
    "data", [b"", b"\0\xff", WHOLE[: len(WHOLE) // 2], b"[" * 100_000, b"{}", b"[]", b"3", b'{"format": "other"}']
)
def test_what_is_no_cost_model_is_refused(tmp_path: Path, data: bytes) -> None:
    refusal(tmp_path, data)


@pytest.mark.parametrize("version", [0, 1, 2, 3, 6, "5", True, None])
def test_other_versions_are_refused(tmp_path: Path, version: object) -> None:
    assert "version" in refusal(tmp_path, json.dumps(tree() | {"version": version}).encode())


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in PARTS.items() for name in names])
def test_every_entry_must_be_there_and_right(tmp_path: Path, part: str, name: str) -> None:
    whole = tree()
    del room(whole, part)[name]
    refusal(tmp_path, json.dumps(whole).encode())
    for wrong in (None, -1, 0, float("nan"), float("inf"), {}, [1, "x"]):
        whole = tree()
        room(whole, part)[name] = wrong
        refusal(tmp_path, json.dumps(whole).encode())


def test_other_configurations_are_refused(tmp_path: Path) -> None:
    whole = tree()
    whole["configurations"][0]["slots"] = 32
    assert "other configurations" in refusal(tmp_path, json.dumps(whole).encode())
    whole["configurations"] = whole["configurations"][1:]
    refusal(tmp_path, json.dumps(whole).encode())


def test_what_was_written_before_there_were_several_configurations_is_read() -> None:
    kernels = replace(KERNELS, product=3.0, machine=MACHINE)
    model = CostModel(product=2.0, machine=MACHINE, kernels=kernels)
    whole = json.loads(cost_file.to_json(model)) | {"version": 4}
    assert cost_file.from_json(json.dumps(whole).encode()) == model


def test_what_steps_take_is_left_out_where_nobody_measured_it(tmp_path: Path) -> None:
    whole = tree()
    assert not {"baby", "giant"} & whole.keys()
    assert cost_file.from_json(json.dumps(whole | {"baby": 0.5}).encode()) == CostModel(baby=0.5)
    assert "'giant' is 0, not a positive number" in refusal(tmp_path, json.dumps(whole | {"giant": 0}).encode())


def beside_the_first(**changes: object) -> dict[str, Any]:
    """A file with one configuration more, of the smallest size."""
    whole = tree()
    first = whole["configurations"][0]
    whole["configurations"].insert(1, first | changes)
    return whole


def test_a_size_may_have_several_configurations(tmp_path: Path) -> None:
    whole = beside_the_first(level_budget=[3, 2], costs=tree()["configurations"][0]["costs"][1:2])
    model = cost_file.from_json(json.dumps(whole).encode())
    assert [c.level_budget for c in model.alternatives(64)] == [(2, 2), (3, 2)]
    assert model.usual == CONFIGURATIONS
    assert cost_file.from_json(cost_file.to_json(model).encode()) == model
    model = cost_file.from_json(json.dumps(beside_the_first(baby_steps=4)).encode())
    assert [c.baby_steps for c in model.alternatives(64)] == [0, 4]
    assert cost_file.from_json(cost_file.to_json(model).encode()) == model
    # one that is there twice, and others before the usual one
    assert "64 slots is there twice: transforms 2+2, 2 digits" in refusal(
        tmp_path, json.dumps(beside_the_first()).encode()
    )
    whole["configurations"][:2] = reversed(whole["configurations"][:2])
    assert "other configurations" in refusal(tmp_path, json.dumps(whole).encode())
    whole = beside_the_first(level_budget=[3, 2])
    whole["configurations"].append(whole["configurations"].pop(1))
    assert "other configurations" in refusal(tmp_path, json.dumps(whole).encode())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"level_budget": [0, 2]}, "level_budget"),
        ({"level_budget": [2, 99]}, "level_budget"),
        ({"level_budget": [2, True]}, "level_budget"),
        ({"level_budget": [3, 2], "large_digits": 99}, "large_digits"),
        ({"level_budget": [3, 2], "costs": []}, "ascending"),
        ({"baby_steps": 0}, "baby_steps"),
        ({"baby_steps": 16}, "baby_steps"),
        ({"baby_steps": "4"}, "baby_steps"),
        ({"level_budget": [3, 2], "slots": 128}, "other configurations"),
    ],
)
def test_another_configuration_is_checked(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    assert reason in refusal(tmp_path, json.dumps(beside_the_first(**changes)).encode())


def test_degrees_must_ascend_and_know_the_usual_one(tmp_path: Path) -> None:
    for change in (lambda costs: costs.reverse(), lambda costs: costs.pop(1), lambda costs: costs.insert(0, costs[0])):
        whole = tree()
        change(whole["configurations"][0]["costs"])
        assert "ascending" in refusal(tmp_path, json.dumps(whole).encode())


# -- which file --


def test_tests_use_the_shipped_model() -> None:
    assert os.environ[cost_file.VARIABLE] == ""
    assert cost_file.source() is None
    assert cost_file.current() == CostModel()


def test_the_users_file_is_used_when_there_is_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cost_file.current() == CostModel()
    path = home / ".config" / "glyphc" / "cost.json"
    assert cost_file.output_path() == path
    cost_file.make_folder(path)
    model = CostModel(product=2.0)
    cost_file.save(path, model)
    assert cost_file.source() == path
    assert cost_file.current() == model
    monkeypatch.setenv(cost_file.VARIABLE, "")
    assert cost_file.current() == CostModel()
    assert cost_file.output_path() == path


def test_the_config_folder_can_be_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "settings"))
    assert cost_file.user_path() == home / "settings" / "glyphc" / "cost.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert cost_file.user_path() == home / ".config" / "glyphc" / "cost.json"


def test_the_variable_names_another_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "mine.json"
    monkeypatch.setenv(cost_file.VARIABLE, str(path))
    with pytest.raises(GlyphcError, match=r"No such file.*glyphc measure"):
        cost_file.current()
    cost_file.save(path, CostModel(switch=3.0))
    assert cost_file.current().switch == 3.0
    assert cost_file.output_path() == path
    assert cost_file.in_use(path)
    assert not cost_file.in_use(home / "other.json")


def test_without_a_home_the_shipped_model_serves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cost_file.current() == CostModel()
    with pytest.raises(GlyphcError, match=cost_file.VARIABLE):
        cost_file.output_path()


def test_an_impossible_folder_is_a_clear_error(home: Path) -> None:
    (home / ".config").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot make the folder"):
        cost_file.make_folder(cost_file.output_path())


def test_programs_are_predicted_with_the_users_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = np.load(ROOT / "models" / "data" / "digits-train.npy")[:200]
    program = package.compile(ROOT / "models" / "digits-mlp.onnx", train, 4, insecure_ring=1024)
    before = predicted(program)
    doubled = {
        name: calibrated(c, {(64, 27): shipped_row(64, factor=2.0, configurations=c)})
        for name, c in (("openfhe", CONFIGURATIONS), ("kernels", KERNELS.configurations))
    }
    kernels = replace(KERNELS, configurations=doubled["kernels"], machine=MACHINE)
    path = home / "mine.json"
    cost_file.save(path, CostModel(configurations=doubled["openfhe"], machine=MACHINE, kernels=kernels))
    monkeypatch.setenv(cost_file.VARIABLE, str(path))
    assert predicted(program).bootstrap_seconds == pytest.approx(2 * before.bootstrap_seconds)
    assert predicted(program, engine="openfhe").bootstrap_seconds > 2 * predicted(program).bootstrap_seconds
    assert "as measured on 3 cores, 2 threads of a processor" in summary(program)
    path.write_text("damaged")
    for act in (
        lambda: summary(program),
        lambda: program.run(train[:1], mode="simulate"),
        lambda: package.compile(ROOT / "models" / "digits-mlp.onnx", train, 4, insecure_ring=1024),
    ):
        with pytest.raises(GlyphcError, match="mine"):
            act()
    model = ROOT / "models" / "digits-mlp.onnx"
    assert package.compile(model, train, 4, insecure_ring=1024, cost=CostModel()).to_bytes() == program.to_bytes()
