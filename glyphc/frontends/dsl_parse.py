"""Text to tree: reads ``dsl.lark`` and gives common mistakes of syntax their names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, v_args
from lark.exceptions import VisitError
from lark.tree import Meta

from .dsl_ast import (
    Activation,
    BatchSize,
    Binary,
    Call,
    Chain,
    Document,
    Expression,
    InputTensor,
    Let,
    Listing,
    Name,
    Negation,
    NetworkName,
    Number,
    OutputValue,
    Quantize,
    Secrecy,
    SecretTensors,
    Source,
    Span,
    Statement,
    Step,
    Tensor,
    TrainingSection,
    WeightsFile,
    WeightsInit,
)
from .dsl_errors import MistakeError

# What the statements begin with: none of these can name a value, unless it is quoted.
STATEMENTS = ("network", "weights", "batch", "input", "output", "encrypted", "public", "activation", "quantize")
KEYWORDS = frozenset((*STATEMENTS, "training", "as", "stored"))

_INPUT = "input x: [4] "
# What is wrong, what to do, and texts in which it is; the parser's state at the mistake is compared with theirs.
_MISTAKES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "a statement must give its result a name",
        "write NAME = ..., e.g. 'hidden = x -> dense(32) -> relu'",
        (_INPUT + "x -> relu", _INPUT + "relu(x)", _INPUT + "x + 1", _INPUT + "x / 2", "hello world", "x"),
    ),
    (
        "an input needs a colon before its shape",
        "write e.g. 'input pixels: encrypted [64]'",
        ("input x [4]", "input x encrypted [4]", "input x = [4]", "input x(4)"),
    ),
    (
        "a shape is a list of sizes in square brackets",
        "write e.g. '[64]' or '[1, 28, 28]', without the batch",
        ("input x: 64", "input x: (64)", "input x: encrypted 64", "input x: encrypted (1, 2)", "input x: [n]"),
    ),
    (
        "a keyword argument needs a value",
        "write NAME=VALUE, e.g. 'dense(32, bias=none)'",
        ("y = dense(32, bias=)", "y = dense(bias=, 3)"),
    ),
    (
        "an arrow must be followed by a layer",
        "write e.g. 'x -> dense(32) -> relu', with a layer behind every arrow",
        ("y = x -> ", "y = x -> -> relu", "y = x -> 32", "y = x -> (relu)", "y = x -> z = relu"),
    ),
    (
        "a value is missing",
        "write NAME = VALUE, e.g. 'hidden = relu(x)'",
        ("y = ", "y = = x", "y = )", "y = x + ", "y = x * )", "y = x / -> relu"),
    ),
    (
        "an activation needs its interval",
        "write e.g. 'activation gate(x) on [-8, 8] = x * sigmoid(1.7 * x)'",
        ("activation f(x) = x", "activation f = table [1]", "activation f(x) on = x", "activation f(x) [0, 1]"),
    ),
    (
        "an activation is a formula in one variable, or a table",
        "write 'activation f(x) on [lo, hi] = FORMULA' or 'activation f on [lo, hi] = table [...]'",
        ("activation f(x, y) on [0, 1] = x", "activation f on [0, 1] = x", "activation f() on [0, 1] = 1"),
    ),
    (
        "the batch is one whole number",
        "write e.g. 'batch 512'",
        ("batch = 512", "batch: 512", "batch many", "batch (3)", "batch [3]"),
    ),
    (
        "weights come from a file or from an initialiser",
        "write e.g. 'weights \"model.npz\"' or 'weights he_normal(seed=0)'",
        ("weights = x", "weights model.npz", "weights model", "weights [1]"),
    ),
    (
        "there is an operator too many",
        "write one operator between two values; powers are written x ** 2",
        ("y = x + * z", "y = x * / z", "y = x > < z", "y = + x", "y = * x"),
    ),
    (
        "comparisons do not chain",
        "write one comparison, e.g. 'y = x > 0'",
        ("y = a > b > c", "y = a < b < c"),
    ),
    (
        "a setting is NAME = NUMBER, a precision NAME: NUMBER bits",
        "write e.g. 'quantize { activation_bits = 10  relu1: 14 bits }'",
        ("quantize { x }", "quantize { relu1: bits }", "quantize { relu1: 14 }", "quantize { a = b }", "quantize 12"),
    ),
    (
        "this is no item of a training section",
        "it has loss, optimizer, schedule, epochs and freeze, e.g. 'training { loss cross_entropy(logits) }'",
        ("training { x }", "training { x = 3 }", "training { 3 }", "training loss", "training { batch 3 }"),
    ),
    (
        "loss, optimizer and schedule are written as calls",
        "write e.g. 'optimizer sgd(learning_rate=0.1)'",
        ("training { loss mse }", "training { optimizer = x }", "training { optimizer x }", "training { loss: mse }"),
    ),
)


def parse(source: Source) -> Document:
    """The tree of a text. DslError names the mistake and shows its place."""
    try:
        tree = _parser().parse(source.text)
        statements = _Tree().transform(tree)
    except UnexpectedInput as e:
        raise _syntax_mistake(e, source.text).shown(source) from None
    except VisitError as e:
        if isinstance(e.orig_exc, MistakeError):
            raise e.orig_exc.shown(source) from None
        raise
    except RecursionError:
        raise MistakeError(
            Span(1, 1, 1, 2), "the text nests too deeply", "give parts of the expressions names of their own"
        ).shown(source) from None
    return Document(source, statements)


@lru_cache(maxsize=1)
def _parser() -> Lark:
    grammar = Path(__file__).with_name("dsl.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", maybe_placeholders=True, propagate_positions=True)


# -- mistakes of syntax --


def _syntax_mistake(error: UnexpectedInput, text: str) -> MistakeError:
    token = getattr(error, "token", None)
    at_end = token is not None and token.type == "$END"
    found = "" if token is None or at_end else str(token)
    if at_end:
        lines = text.splitlines() or [""]
        at = max((i for i, line in enumerate(lines) if line.strip()), default=0)
        width = len(lines[at].split("#")[0].rstrip()) + 1
        span = Span(at + 1, width, at + 1, width + 1)
    else:
        line, column = int(error.line), int(error.column)
        span = Span(line, column, line, column + max(1, len(found)))
    named = (
        _by_character(text, span)
        or _by_bracket(text, span, found)
        or _by_history(text, found, span)
        or _by_state(error, span)
    )
    what = f"{found!r} cannot stand here" if found else "the text ends too early"
    return named or MistakeError(span, what, "a statement is e.g. 'hidden = x -> dense(32) -> relu'; see docs/dsl.md")


def _by_state(error: UnexpectedInput, span: Span) -> MistakeError | None:
    """What the parser was doing, compared with what it does at the mistakes of ``_MISTAKES``."""
    position, token = _state(error)
    known = _known_states()
    index = known.get((position, token), known.get((position, "")))
    return None if index is None else MistakeError(span, _MISTAKES[index][0], _MISTAKES[index][1])


def _state(error: UnexpectedInput) -> tuple[int, str]:
    """Number of the parser's state, which is the same wherever in a text it is, and the kind of the wrong token."""
    state = getattr(error, "state", None)
    token = getattr(error, "token", None)
    return getattr(state, "position", state), "" if token is None else token.type  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _known_states() -> dict[tuple[int, str], int]:
    """(state, wrong token) -> mistake; with an empty token for the first mistake in that state."""
    found: dict[tuple[int, str], int] = {}
    for index, (_, _, texts) in enumerate(_MISTAKES):
        for text in texts:
            try:
                _parser().parse(text)
            except UnexpectedInput as e:
                position, token = _state(e)
                found.setdefault((position, token), index)
                found.setdefault((position, ""), index)
            else:
                raise AssertionError(f"{text!r} is no mistake")
    return found


def _by_character(text: str, span: Span) -> MistakeError | None:
    """Signs that other languages have."""
    line = text.splitlines()[span.line - 1] if text.splitlines() else ""
    rest = line[span.column - 1 :]
    before = line[: span.column - 1].rstrip()
    if rest.startswith(";"):
        return MistakeError(span, "statements need no semicolon", "leave it out: a new line is enough")
    if rest.startswith(("'", "\u201c", "\u2018", "\u201d")):
        return MistakeError(span, "this is not how texts are quoted", 'use straight double quotes: "model.npz"')
    if rest.startswith('"'):
        return MistakeError(span, "this text in quotes does not end", 'close it with " on the same line')
    if rest.startswith(("//", "/*")):
        return MistakeError(span, "this is no comment", "comments begin with #")
    if (rest.startswith("=") and before.endswith(("-", "=", ":"))) or rest.startswith(("=>", "|>", ">>", ":=")):
        wide = Span(span.line, span.column, span.line, span.column + 2)
        return MistakeError(wide, "this sign is not known", "write '=' for names and '->' for what flows on")
    if rest.startswith("@") and not rest.startswith('@"'):
        return MistakeError(span, "there is no matrix product", "write 'x -> dense(UNITS, weight=W, bias=none)'")
    return None


def _by_bracket(text: str, span: Span, found: str) -> MistakeError | None:
    """A bracket that is still open where the text cannot go on, or one that closes nothing."""
    pairs = {")": "(", "]": "[", "}": "{"}
    opened: list[tuple[str, Span]] = []
    for number, line in enumerate(text.splitlines()[: span.line], 1):
        code = line.split("#")[0]
        for column, character in enumerate(code if number < span.line else code[: span.column - 1], 1):
            if character in pairs.values():
                opened.append((character, Span(number, column, number, column + 1)))
            elif character in pairs and opened:
                opened.pop()
    if found in pairs and (not opened or opened[-1][0] != pairs[found]):
        wanted = {v: k for k, v in pairs.items()}
        hint = f"write {wanted[opened[-1][0]]!r} for {opened[-1][0]!r}" if opened else "leave it out"
        return MistakeError(span, f"{found!r} closes no bracket", hint)
    # at the end, or on a later line than the bracket's: it was forgotten; but braces go over many lines
    later = opened and opened[-1][1].line < span.line and opened[-1][0] != "{" and found not in (",", "=")
    if opened and (not found or later):
        bracket = opened[-1][0]
        closing = next(k for k, v in pairs.items() if v == bracket)
        return MistakeError(opened[-1][1], f"this {bracket!r} is not closed", f"write {closing!r} where it ends")
    return None


def _by_history(text: str, found: str, span: Span) -> MistakeError | None:
    """The words before the wrong one tell: they are of this language, or of another."""
    lines = [line.split("#")[0] for line in text.splitlines()[: span.line]]
    for number, (line, after) in enumerate(pairwise(lines), 1):
        first = after.split(maxsplit=1)[0] if after.strip() else ""
        if line.rstrip().endswith(("=", "->", "+", "*", "/")) and first in KEYWORDS:
            end = len(line.rstrip())
            place = Span(number, end, number, end + 1)
            return MistakeError(place, "a value is missing", "write NAME = VALUE, e.g. 'hidden = relu(x)'")
    if not lines:
        return None
    lines[-1] = lines[-1][: span.column - 1]
    number = max((i for i, line in enumerate(lines, 1) if line.strip()), default=0)
    word = re.search(r"(\w+)\s*$", lines[number - 1]) if number else None
    if word is None:
        return None
    before, place = word[1], Span(number, word.start(1) + 1, number, word.end(1) + 1)
    if found == "=" and before in KEYWORDS - {"batch", "weights"}:
        what = f"{before!r} is a word of the language and cannot name a value"
        return MistakeError(place, what, f"choose another name, or quote it: `{before}`")
    if before in ("def", "class", "import", "from", "model", "layer", "let", "var", "return"):
        return MistakeError(place, f"there is no {before!r} here", "a network is a list of statements 'NAME = VALUE'")
    return None


# -- the tree --


def _span(meta: Meta) -> Span:
    return Span(meta.line, meta.column, meta.end_line, meta.end_column)


def _token_span(token: Token) -> Span:
    line, column = token.line or 1, token.column or 1
    return Span(line, column, token.end_line or line, token.end_column or column + len(token))


def _unquoted(token: Token) -> str:
    """The text between quotes of either kind, with JSON's escapes."""
    inner = str(token)[1:-1]
    if token.startswith("`"):  # within backticks, double quotes need no backslash
        inner = re.sub(r'\\.|"', lambda m: '\\"' if m[0] == '"' else m[0], inner)
    try:
        return str(json.loads(f'"{inner}"', strict=False))
    except ValueError as e:
        raise MistakeError(
            _token_span(token), f"this quoted text cannot be read ({e})", "write backslashes twice: \\\\"
        ) from None


def _secrecy(token: Token | None, default: Secrecy) -> Secrecy:
    return default if token is None else Secrecy(str(token))


def _rule(method: Callable[..., Any]) -> Callable[..., Any]:
    wrapped: Callable[..., Any] = v_args(meta=True)(method)
    return wrapped


class _Tree(Transformer[Any, Any]):
    """Lark's tree to ours, one method for each rule of the grammar."""

    def start(self, items: list[Any]) -> tuple[Statement, ...]:
        return tuple(i for item in items for i in (item if isinstance(item, list) else [item]))

    # expressions

    def number(self, items: list[Token]) -> Number:
        # whole numbers of more digits would not be exact, or not even finite
        return Number(float(items[0]), _token_span(items[0]), str(items[0]).isdigit() and len(items[0]) < 16)

    def tensor(self, items: list[Token]) -> Tensor:
        name = _unquoted(items[0]) if items[0].startswith('"') else str(items[0])
        return Tensor(name, _token_span(items[0]))

    def name(self, items: list[Token]) -> Name:
        quoted = items[0].startswith("`")
        return Name(_unquoted(items[0]) if quoted else str(items[0]), _token_span(items[0]), quoted)

    @_rule
    def listing(self, meta: Meta, items: list[Any]) -> Listing:
        return Listing(tuple(i for i in items if i is not None), _span(meta))

    def keyword(self, items: list[Any]) -> tuple[Name, Expression]:
        return Name(str(items[0]), _token_span(items[0])), items[1]

    @_rule
    def call(self, meta: Meta, items: list[Any]) -> Call:
        arguments = [i for i in items[1:] if i is not None and not isinstance(i, tuple)]
        keywords = [i for i in items[1:] if isinstance(i, tuple)]
        return Call(items[0], tuple(arguments), tuple(keywords), _span(meta))

    @_rule
    def binary(self, meta: Meta, items: list[Any]) -> Binary:
        operator = "**" if items[1] == "^" else str(items[1])
        return Binary(operator, items[0], items[2], _span(meta))

    @_rule
    def negation(self, meta: Meta, items: list[Any]) -> Expression:
        (operand,) = items
        if isinstance(operand, Number):
            return Number(-operand.value, _span(meta), operand.integer)
        return Negation(operand, _span(meta))

    @_rule
    def bound(self, meta: Meta, items: list[Any]) -> Chain:
        return Chain(items[0], items[1], (), _span(meta))

    @_rule
    def chain(self, meta: Meta, items: list[Any]) -> Chain:
        head, *rest = items
        steps = tuple(i for i in rest if isinstance(i, Step))
        if isinstance(head, Chain) and not head.steps:
            return Chain(head.head, head.head_name, steps, _span(meta))
        return Chain(head, None, steps, _span(meta))

    def step(self, items: list[Any]) -> Step:
        return Step(items[0], items[1])

    # statements

    def network(self, items: list[Any]) -> NetworkName:
        return NetworkName(items[0])

    @_rule
    def weights_file(self, meta: Meta, items: list[Any]) -> WeightsFile:
        secrecy, path, *axes = items
        names = None if axes[0] is None else tuple(Name(str(a), _token_span(a)) for a in axes)
        return WeightsFile(_unquoted(path), _secrecy(secrecy, Secrecy.PUBLIC), names, _token_span(path))  # type: ignore[arg-type]

    def weights_init(self, items: list[Any]) -> WeightsInit:
        return WeightsInit(items[1], _secrecy(items[0], Secrecy.PUBLIC))

    def batch(self, items: list[Any]) -> BatchSize:
        return BatchSize(self.number(items))

    def shape(self, items: list[Any]) -> tuple[Number, ...]:
        return tuple(self.number([i]) for i in items if i is not None)

    @_rule
    def input(self, meta: Meta, items: list[Any]) -> InputTensor:
        return InputTensor(items[0], _secrecy(items[1], Secrecy.ENCRYPTED), items[2], _span(meta))

    def result(self, items: list[Any]) -> OutputValue:
        return OutputValue(items[0], items[1])

    def output(self, items: list[Any]) -> list[OutputValue]:
        return list(items)

    def secrecy(self, items: list[Any]) -> SecretTensors:
        return SecretTensors(Secrecy(str(items[0])), tuple(items[1:]))

    @_rule
    def minus_number(self, meta: Meta, items: list[Any]) -> Number:
        number = self.number(items)
        return Number(-number.value, _span(meta), number.integer)

    def interval(self, items: list[Any]) -> tuple[Number, Number]:
        return items[0], items[1]

    @_rule
    def formula(self, meta: Meta, items: list[Any]) -> Activation:
        name, variable, (lo, hi), points, formula = items
        count = None if points is None else self.number([points])
        by = Name(str(variable), _token_span(variable))
        return Activation(name, by, lo, hi, count, formula, None, None, None, _span(meta))

    @_rule
    def table(self, meta: Meta, items: list[Any]) -> Activation:
        name, (lo, hi), *rest = items
        if isinstance(rest[0], Listing):
            return Activation(name, None, lo, hi, None, None, rest[0], None, None, _span(meta))
        path, member = _unquoted(rest[0]), None if rest[1] is None else _unquoted(rest[1])
        return Activation(name, None, lo, hi, None, None, None, path, member, _token_span(rest[0]))

    def setting(self, items: list[Any]) -> tuple[str, Name, Number]:
        return "setting", Name(str(items[0]), _token_span(items[0])), items[1]

    def precision(self, items: list[Any]) -> tuple[str, Name, Number]:
        return "precision", items[0], self.number([items[1]])

    def quantize(self, items: list[Any]) -> Quantize:
        settings = tuple((n, v) for kind, n, v in items if kind == "setting")
        return Quantize(settings, tuple((n, v) for kind, n, v in items if kind == "precision"))

    def loss(self, items: list[Any]) -> tuple[str, Call]:
        return "loss", items[0]

    def optimizer(self, items: list[Any]) -> tuple[str, Call]:
        return "optimizer", items[0]

    def schedule(self, items: list[Any]) -> tuple[str, Call]:
        return "schedule", items[0]

    def epochs(self, items: list[Any]) -> tuple[str, Number]:
        return "epochs", self.number(items)

    def freeze(self, items: list[Any]) -> tuple[str, tuple[Name, ...]]:
        return "freeze", tuple(items)

    @_rule
    def training(self, meta: Meta, items: list[Any]) -> TrainingSection:
        return TrainingSection(tuple(items), _span(meta))

    def location(self, items: list[Any]) -> str:
        return _unquoted(items[0])

    def let(self, items: list[Any]) -> Let:
        return Let(items[0], items[1], items[2])
