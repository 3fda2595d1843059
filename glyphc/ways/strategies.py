"""Strategies: frozen policies over the ways of the registry. No code path asks for one by its name.

A strategy is four choices: which ways of computing a network may be taken, what replaces nonlinearities, which numbers
are computed with, and who refreshes ciphertexts. Those with a paper stand for the systems of that paper, with today's
schemes: what is the same is how linear maps and nonlinearities are computed, and who sees what.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from glyphc.errors import GlyphcError
from glyphc.ir.client_requests import MOST_TABLE_BITS
from glyphc.ir.word_parameters import MOST_WORD_BITS

from .base import Way
from .client import ClientTail
from .integers import COMMON_WAYS, POLYNOMIAL_WAYS, TABLE_WAYS
from .registry import GLYPH_WAYS, UNAVAILABLE_WAYS
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


@dataclass(frozen=True)
class Strategy:
    """A policy.

    names: of the ways that a program may take, None for all. degree: of polynomials where the user names none; 0: as
    the tolerance asks. table_bits: of the index of its tables, word_bits: of its words, where the user names none.
    needs_trips: why it cannot do without the client; empty where it can.
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
    needs_trips: str = ""
    paper: str = ""

    def allows(self, way: Way) -> bool:
        return self.names is None or way.name in self.names

    @property
    def takes_degree(self) -> bool:
        """Whether the degree of its polynomials is the user's to choose."""
        return self.replacement is Replacement.POLYNOMIAL

    @property
    def takes_table_bits(self) -> bool:
        """Whether the size of its tables is the user's to choose."""
        return self.replacement is Replacement.TABLE

    @property
    def takes_word_bits(self) -> bool:
        """Whether the size of its words is the user's to choose."""
        return self.replacement is Replacement.CIRCUIT

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
_ALL = (
    Strategy("auto", "whatever is cheapest and keeps to the tolerance", None, Replacement.CHEAPEST, Numbers.EITHER),
    Strategy(
        "glyph",
        "BGV for linear maps, functional bootstraps for nonlinearities",
        _names(*GLYPH_WAYS, *UNAVAILABLE_WAYS),
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
        needs_trips="bits of an index by functional bootstraps on the server (Gray code) would keep to the bound of "
        "128-bit security, with log QP = 1396 of 1462 at degree 27 and four levels for products of bits, but no engine "
        "has such products in programs for inference yet",
        paper="Nandakumar, Ratha, Pankanti, Halevi: Towards Deep Neural Network Training on Encrypted Data, 2019",
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


def degree_of(chosen: Strategy, degree: int | None) -> int:
    """The degree that a strategy's polynomials get; GlyphcError for one that it does not take.

    degree: the user's, None where there is none.
    """
    if degree is None:
        return chosen.degree
    if not chosen.takes_degree:
        takers = ", ".join(name for name, each in STRATEGIES.items() if each.takes_degree)
        raise GlyphcError(f"the strategy {chosen.name!r} takes no degree of polynomials; these do: {takers}")
    if not 1 <= degree <= HIGHEST_DEGREE:
        raise GlyphcError(f"polynomials of degree 1 to {HIGHEST_DEGREE} can be computed, not {degree}")
    return degree


def table_bits_of(chosen: Strategy, bits: int | None) -> int:
    """The bits of the index of a strategy's tables, 0 where it has none; GlyphcError for bits that it does not take.

    bits: the user's, None where there are none.
    """
    if bits is None:
        return chosen.table_bits
    if not chosen.takes_table_bits:
        takers = ", ".join(name for name, each in STRATEGIES.items() if each.takes_table_bits)
        raise GlyphcError(f"the strategy {chosen.name!r} looks up no tables; these do: {takers}")
    if not 1 <= bits <= MOST_TABLE_BITS:
        raise GlyphcError(f"tables with an index of 1 to {MOST_TABLE_BITS} bits can be looked up, not of {bits}")
    return bits


def word_bits_of(chosen: Strategy, bits: int | None) -> int:
    """The bits of a strategy's words, 0 where it has none; GlyphcError for bits that it does not take.

    bits: the user's, None where there are none.
    """
    if bits is None:
        return chosen.word_bits
    if not chosen.takes_word_bits:
        takers = ", ".join(name for name, each in STRATEGIES.items() if each.takes_word_bits)
        raise GlyphcError(f"the strategy {chosen.name!r} has no words of bits; these do: {takers}")
    if not 2 <= bits <= MOST_WORD_BITS:
        raise GlyphcError(f"words have 2 to {MOST_WORD_BITS} bits, not {bits}")
    return bits
