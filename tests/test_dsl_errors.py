"""Mistakes in ``.glyph`` files: the whole message, as in ``golden/dsl/*.err`` (pytest --update-golden writes them)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from glyphc.errors import ModelError
from glyphc.frontends.dsl_errors import DslError
from glyphc.frontends.dsl_parse import KEYWORDS
from glyphc.frontends.from_dsl import parse_glyph, read_glyph, refuse_unsupported

FOLDER = Path(__file__).parent / "golden" / "dsl"
CASES = sorted(path.stem for path in FOLDER.glob("*.glyph"))


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights that the cases name."""
    folder = tmp_path_factory.mktemp("dsl")
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays = {
        "fc.weight": weight,
        "fc.bias": np.zeros(3),
        "nobias.weight": weight,
        "turned.weight": weight.T,
        "turned.bias": np.zeros(3),
        "broken.weight": weight * np.nan,
    }
    np.savez(folder / "tensors.npz", **arrays)
    return folder


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 25


@pytest.mark.parametrize("case", CASES)
def test_message(case: str, tensors: Path, request: pytest.FixtureRequest) -> None:
    text = (FOLDER / f"{case}.glyph").read_text(encoding="utf-8")
    with pytest.raises(DslError) as caught:
        parse_glyph(text, f"{case}.glyph", tensors)
    message = str(caught.value).replace(str(tensors), "FOLDER")
    golden = FOLDER / f"{case}.err"
    if request.config.getoption("--update-golden"):
        golden.write_text(message + "\n", encoding="utf-8")
    assert message + "\n" == golden.read_text(encoding="utf-8")
    # file:line:column, the line itself, the underlined words, a hint
    first, line, underline, hint = message.splitlines()
    _, number, column, _ = first.split(":", 3)
    shown = text.splitlines()[int(number) - 1]
    assert line.endswith(f"| {shown}")
    assert underline.index("^") - underline.index("|") - 1 == int(column)
    assert hint.startswith("  hint: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input x: public [4]\ny = relu(x)\noutput y\n", ["'x' is public", "declare it encrypted"]),
        (
            "weights encrypted ones()\ninput x: [4]\nfc = dense(x, 3)\noutput fc\n",
            ["'fc.bias' is declared encrypted", "leave the declaration out"],
        ),
        (
            "weights he_normal(seed=1)\ninput x: [4]\nfc = dense(x, 3)\noutput fc\nencrypted fc.weight\n",
            ["'fc.weight' is declared encrypted"],
        ),
    ],
)
def test_what_has_no_effect_yet_is_refused(text: str, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        refuse_unsupported(parse_glyph(text), "net.glyph")
    assert all(word in str(caught.value) for word in ["net.glyph", *words])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_glyph(tmp_path / "missing.glyph")
    (tmp_path / "binary.glyph").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="cannot be read as text"):
        read_glyph(tmp_path / "binary.glyph")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no zip")
    (tmp_path / "net.glyph").write_text('weights "bad.npz"\ninput x: [4]\noutput x\n')
    with pytest.raises(DslError, match=r"no whole \.npz file"):
        read_glyph(tmp_path / "net.glyph")


def test_of_long_lines_a_part_is_shown() -> None:
    with pytest.raises(DslError) as caught:
        parse_glyph("input x: [4]\ny = x" + " + 1" * 100 + " + rellu(x)" + " + 1" * 100 + "\noutput y\n")
    _, line, underline, _ = str(caught.value).splitlines()
    assert len(line) < 160
    at = underline.index("^")
    assert line[at : at + underline.count("^")] == "rellu"


def test_tabs_and_deep_nesting() -> None:
    with pytest.raises(DslError) as caught:
        parse_glyph("input x: [4]\n\ty = rellu(x)\noutput y\n")
    assert "  2 | \ty = rellu(x)\n    | \t    ^^^^^\n" in str(caught.value)
    with pytest.raises(DslError, match="deep"):
        parse_glyph("input x: [4]\ny = x" + " + 1" * 5000 + "\noutput y\n")


WORDS = [
    *sorted(KEYWORDS),
    *re.findall(
        r"\S+", "loss optimizer schedule epochs freeze on with points table bits x y fc relu dense max apply none"
    ),
    *re.findall(r"\S+", "= -> : , ( ) [ ] { } + - * / ** > < @ # ; ' ` \" 3 0 0.5 1e400 fc.weight zeros true flatten"),
    '"tensors.npz"',
    "\n",
    " ",
]
GOOD = (
    'network n\nweights "tensors.npz"\nbatch 2\ninput x: encrypted [4]\n'
    "activation g(t) on [-8, 8] with 65 points = t * sigmoid(1.7 * t)\n"
    "y = x / 2 as s -> dense(3) as fc -> g as a -> clip(-1, 1)\nz = max(y, -y) + [1, 2, 3] > 0.5\noutput y, z as w\n"
    "quantize { input_bits = 9  a: 8 bits }\ntraining { loss mse(y) optimizer sgd(0.1) epochs 3 freeze fc }\n"
)


@examples(300)
@given(st.data())
def test_any_damage_is_an_error_of_ours(data: st.DataObject) -> None:
    """Words left out, doubled, swapped or put in: whatever comes of it, it is a network or a message with its place."""
    words = re.findall(r"\w+(?:\.\w+)*|\"[^\"]*\"|\s+|->|.", GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        change = data.draw(st.sampled_from(["drop", "double", "insert", "replace"]))
        new = data.draw(st.sampled_from(WORDS))
        words[at : at + 1] = {"drop": [], "double": [words[at]] * 2, "insert": [new, words[at]], "replace": [new]}[
            change
        ]
    text = "".join(words)
    message = ""
    try:
        parse_glyph(text, "net.glyph", FOLDER.parent / "weights")
    except DslError as e:
        message = str(e)
    assert not message or (message.startswith("net.glyph:") and "hint: " in message)


@pytest.mark.parametrize("number", ["1e400", "9" * 400, "65.5"])
@pytest.mark.parametrize("statement", ["activation g(t) on [-8, 8] with {} points = t", "batch {}", "input z: [{}]"])
def test_sizes_are_whole_numbers(number: str, statement: str) -> None:
    with pytest.raises(DslError, match="whole number"):
        parse_glyph(f"input x: [4]\n{statement.format(number)}\noutput x\n")
