"""Measured figures of gates on encrypted bits."""

from __future__ import annotations

from math import log2

from glyphc.ir.word_parameters import WordParameters

# Wall seconds on two cores of an AMD EPYC at OpenFHE's STD128 with GINX: a gate (a process computes one on each core),
# of the 2,832 of ``benchmarks/gates.py``; and a set of keys.
GATE_SECONDS = 0.031
KEY_SECONDS = 8.0
# Of what both sides hold at STD128 beside the process: the bootstrapping key and the one of key switching, in memory.
KEY_BYTES = 0.95e9
# To encrypt or decrypt a bit.
BIT_SECONDS = 2e-5
# Python's and OpenFHE's objects around the numbers of a ciphertext, and what an instruction takes.
OBJECT_BYTES, INSTRUCTION_BYTES = 400.0, 700.0
SECURE_WORDS = WordParameters(8)


def gate_seconds(p: WordParameters) -> float:
    """Of one gate: n products in a ring of dimension N."""
    return GATE_SECONDS * work(p) / work(SECURE_WORDS)


def key_seconds(p: WordParameters) -> float:
    """Of making all keys."""
    return KEY_SECONDS * work(p) / work(SECURE_WORDS)


def work(p: WordParameters) -> float:
    return p.dimension * p.ring * log2(p.ring)
