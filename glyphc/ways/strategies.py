"""Strategies: frozen policies over the ways of the registry. No code path asks for one by its name.

A strategy is four choices: which ways of computing a network may be taken, what replaces nonlinearities, which numbers
are computed with, and who refreshes ciphertexts. Those with a paper stand for the systems of that paper, with today's
schemes: what is the same is how linear maps and nonlinearities are computed, and who sees what.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.client_requests import MOST_TABLE_BITS
from glyphc.ir.series import FEWEST_LOOKUP_BITS, MOST_LOOKUP_BITS
from glyphc.ir.word_parameters import MOST_WORD_BITS

from .base import Way
from .client import ClientTail
from .integers import COMMON_WAYS, POLYNOMIAL_WAYS, TABLE_WAYS
from .registry import BOOTSTRAP_WAYS, COEFFICIENT_WAYS, GRAY_WAYS, UNAVAILABLE_WAYS
from .slots import WAYS as SLOT_WAYS
from .words import WAYS as WORD_WAYS

# Polynomials of higher degree than this take more levels than any ring has.
HIGHEST_DEGREE = 32


class Replacement(Enum):
    """What stands for a nonlinearity."""

    CHEAPEST = "a series or a polynomial, whichever is cheaper"
    SERIES = "a trigonometric series in a functional bootstrap"
    POLYNOMIAL = "a polynomial, by least squares"
    SQUARE = "a multiple of the square"
    IDENTITY = "the identity: values stay as they are"
    NOTHING = "nothing: functions have to be polynomials already"
    TABLE = "a table"
    CIRCUIT = "a table of words, as a circuit of gates"


class Numbers(Enum):
    """What is computed with."""

    COEFFICIENTS = "integers modulo t in coefficients (BGV), and on the torus"
    REALS = "approximate numbers in slots (CKKS)"
    INTEGERS = "integers modulo t in slots (BFV)"
    BITS = "words of bits"
    EITHER = "whatever is cheapest"


class Refresh(Enum):
    """Who makes room for more noise."""

    NONE = "nobody"
    BOOTSTRAP = "the server, by bootstraps"
    CLIENT = "the client, which sees what it refreshes"


class Size(Enum):
    """A number that the user may choose, by the name of its option and of the strategy's own value."""

    DEGREE = "degree"
    TABLE_BITS = "table_bits"
    WORD_BITS = "word_bits"


@dataclass(frozen=True)
class _Sized:
    """Which strategies take a size, from where to where; in words, what the others lack, and what is of that size."""

    replacement: Replacement
    possible: range
    lacking: str
    what: str


_SIZES = {
    Size.DEGREE: _Sized(
        Replacement.POLYNOMIAL, range(1, HIGHEST_DEGREE + 1), "takes no degree of polynomials", "polynomials of degree"
    ),
    Size.TABLE_BITS: _Sized(
        Replacement.TABLE, range(1, MOST_TABLE_BITS + 1), "looks up no tables", "tables by an index whose bits are"
    ),
    Size.WORD_BITS: _Sized(
        Replacement.CIRCUIT, range(2, MOST_WORD_BITS + 1), "has no words of bits", "words whose bits are"
    ),
}


@dataclass(frozen=True)
class Strategy:
    """A policy.

    names: of the ways that a program may take, None for all. degree: of polynomials where the user names none; 0: as
    the tolerance asks. table_bits: of the index of its tables, word_bits: of its words, where the user names none.
    possible: which of these the user may name, where that is not what all such strategies take.
    without_trips: the strategy that does the same where no trips to the client are allowed; needs_trips: why there is
    none. Both are empty where the client is not asked.
    """

    name: str
    summary: str
    names: frozenset[str] | None
    replacement: Replacement
    numbers: Numbers
    refresh: Refresh = Refresh.NONE
    degree: int = 0
    table_bits: int = 0
    word_bits: int = 0
    possible: range = range(0)
    without_trips: str = ""
    needs_trips: str = ""
    paper: str = ""

    def allows(self, way: Way) -> bool:
        return self.names is None or way.name in self.names

    @property
    def size(self) -> Size | None:
        """Which number of its is the user's to choose."""
        return next((size for size, what in _SIZES.items() if what.replacement is self.replacement), None)

    @property
    def changes_network(self) -> bool:
        """Whether it computes another network, which has to be trained again to be of use."""
        exact = self.replacement is Replacement.POLYNOMIAL and self.numbers is Numbers.INTEGERS
        return exact or self.replacement in (Replacement.SQUARE, Replacement.IDENTITY)


def _names(*ways: Way) -> frozenset[str]:
    return frozenset(way.name for way in ways)


_SLOTS = _names(*SLOT_WAYS, ClientTail())
_POLYNOMIALS = _names(*COMMON_WAYS, *POLYNOMIAL_WAYS, ClientTail())
_TABLES = _names(*COMMON_WAYS, *TABLE_WAYS, ClientTail())
_WORDS = _names(*WORD_WAYS, ClientTail())
_NANDAKUMAR = "Nandakumar, Ratha, Pankanti, Halevi: Towards Deep Neural Network Training on Encrypted Data, 2019"
_ALL = (
    Strategy("auto", "whatever is cheapest and keeps to the tolerance", None, Replacement.CHEAPEST, Numbers.EITHER),
    Strategy(
        "glyph",
        "BGV for linear maps, functional bootstraps for nonlinearities",
        _names(*COEFFICIENT_WAYS, *BOOTSTRAP_WAYS, *UNAVAILABLE_WAYS),
        Replacement.SERIES,
        Numbers.COEFFICIENTS,
        Refresh.BOOTSTRAP,
        paper="Lou, Feng, Fox, Jiang: Glyph: Fast and Accurately Training Deep Neural Networks on Encrypted Data, 2020",
    ),
    Strategy(
        "slots",
        "leveled CKKS on numbers in slots, polynomials of the degree that the tolerance asks for",
        _SLOTS,
        Replacement.POLYNOMIAL,
        Numbers.REALS,
    ),
    Strategy(
        "integers",
        "BFV on integers in slots, for networks whose functions are polynomials, or that have none",
        _POLYNOMIALS,
        Replacement.NOTHING,
        Numbers.INTEGERS,
    ),
    Strategy(
        "onoufriou",
        "leveled CKKS on numbers in slots, polynomials of one degree",
        _SLOTS,
        Replacement.POLYNOMIAL,
        Numbers.REALS,
        degree=3,
        paper="Onoufriou, Mayfield, Leontidis: Fully Homomorphically Encrypted Deep Learning as a Service, 2021",
    ),
    Strategy(
        "cryptonets",
        "BFV on integers in slots, squares",
        _POLYNOMIALS,
        Replacement.SQUARE,
        Numbers.INTEGERS,
        paper="Gilad-Bachrach, Dowlin, Laine, Lauter, Naehrig, Wernsing: CryptoNets: Applying Neural Networks to "
        "Encrypted Data with High Throughput and Accuracy, 2016",
    ),
    Strategy(
        "ghimes",
        "BFV on integers in slots, layers without nonlinearities, computed one after another",
        _POLYNOMIALS,
        Replacement.IDENTITY,
        Numbers.INTEGERS,
        paper="Ghimes, Vladuta, Patriciu, Savu: Applying Neural Network Approach to Homomorphic Encrypted Data, 2018",
    ),
    Strategy(
        "hesamifard",
        "BFV on integers in slots, polynomials; the client decrypts their results and encrypts them again",
        _POLYNOMIALS,
        Replacement.POLYNOMIAL,
        Numbers.INTEGERS,
        Refresh.CLIENT,
        degree=2,
        needs_trips="its client makes room for more noise",
        paper="Hesamifard, Takabi, Ghasemi: CryptoDL: Deep Neural Networks over Encrypted Data, 2017",
    ),
    Strategy(
        "nandakumar",
        "BFV on integers in slots, a table in place of each nonlinearity, looked up by bits of the client's",
        _TABLES,
        Replacement.TABLE,
        Numbers.INTEGERS,
        Refresh.CLIENT,
        table_bits=7,
        without_trips="nandakumar-server",
        paper=_NANDAKUMAR,
    ),
    Strategy(
        "nandakumar-server",
        "BGV for linear maps, a table in place of each nonlinearity, looked up by bits that bootstraps give",
        _names(*COEFFICIENT_WAYS, *GRAY_WAYS, *UNAVAILABLE_WAYS),
        Replacement.TABLE,
        Numbers.COEFFICIENTS,
        Refresh.BOOTSTRAP,
        table_bits=6,
        possible=range(FEWEST_LOOKUP_BITS, MOST_LOOKUP_BITS + 1),
        paper=_NANDAKUMAR,
    ),
    Strategy(
        "tbmpnet",
        "words of encrypted bits, circuits of bootstrapped gates",
        _WORDS,
        Replacement.CIRCUIT,
        Numbers.BITS,
        Refresh.BOOTSTRAP,
        word_bits=8,
        paper="Yoo, Yoon: t-BMPNet: Trainable Bitwise Multilayer Perceptron Neural Network over Fully Homomorphic "
        "Encryption Scheme, 2021",
    ),
)
STRATEGIES = {strategy.name: strategy for strategy in _ALL}
# What computes a network as it is, for ``auto`` to choose among where there are constraints.
CANDIDATES = ("glyph", "slots", "integers", "nandakumar")


def strategy(name: str) -> Strategy:
    """GlyphcError when there is none of that name."""
    if name not in STRATEGIES:
        raise GlyphcError(f"there is no strategy {name!r}; there are: {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def size_of(chosen: Strategy, size: Size, asked: int | None) -> int:
    """A size of a strategy's, 0 where it has none; GlyphcError for one that it does not take.

    asked: the user's, None where there is none.
    """
    if asked is None:
        return int(getattr(chosen, size.value))
    known = _SIZES[size]
    if chosen.size is not size:
        takers = ", ".join(name for name, each in STRATEGIES.items() if each.size is size)
        raise GlyphcError(f"the strategy {chosen.name!r} {known.lacking}; these do: {takers}")
    possible = chosen.possible or known.possible
    if asked not in possible:
        raise GlyphcError(
            f"the strategy {chosen.name!r} takes {known.what} {possible[0]} to {possible[-1]}, not {asked}"
        )
    return asked


def allowed(name: str, trips: int | None) -> str:
    """The strategy of that name, or where no trips to the client are allowed the one that does without.

    ParameterError when it cannot, GlyphcError when there is none of that name.
    """
    chosen = strategy(name)
    if trips != 0:
        return name
    if chosen.needs_trips:
        reason = chosen.needs_trips
        raise ParameterError(f"the strategy {name!r} takes trips to the client, and none is allowed: {reason}")
    return chosen.without_trips or name
