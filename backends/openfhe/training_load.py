"""A training run's evaluation keys from parts of plain residues. No secret, and no way to decrypt; for the server.

As ``load``, but for the two contexts of training: the bootstrapping one has the parts of inference, the linear one keys
of its own. See ``keymoulds`` for the form of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glyphc.ir.parameters import Parameters

from .ckks_contexts import LinearContexts, make_training_contexts, setup_training_bootstrap
from .ckks_evaluator import TrainingKeys
from .ckks_linear import LinearKeys, automorphisms_of
from .contexts import bootstrap_automorphisms
from .keymoulds import MULTIPLICATION, automorphism_mould, cast_map, key_shape, reindexed, torus_part
from .load import Read, insert_multiplication, load_torus, multiplication_mould

LINEAR_MULTIPLICATION = "linear/multiplication"


def linear_part(index: int) -> str:
    """Name of the part with one automorphism key of the linear context."""
    return f"linear/automorphism-{index}"


def training_part_names(parameters: Parameters, periods: Sequence[int]) -> tuple[str, ...]:
    """All parts of a run's evaluation keys, in the order in which they are written and read."""
    torus = (MULTIPLICATION, *map(torus_part, bootstrap_automorphisms(parameters)))
    return (*torus, *linear_part_names(parameters, periods))


def linear_part_names(parameters: Parameters, periods: Sequence[int]) -> tuple[str, ...]:
    """Those of the linear context's keys, which are OpenFHE's whatever bootstraps."""
    return (LINEAR_MULTIPLICATION, *map(linear_part, automorphisms_of(parameters.ring, periods)))


class LinearLoader:
    """Makes the forms of the linear context's keys, which empties OpenFHE's tables, and then loads them."""

    def __init__(self, contexts: LinearContexts, periods: Sequence[int]) -> None:
        self._contexts, linear, n = contexts, contexts.linear, contexts.parameters.ring
        pair = linear.KeyGen()
        self._zero = linear.Encrypt(pair.publicKey, linear.MakeCKKSPackedPlaintext([0.0], 1, 0, None, n // 2))
        self._indices = automorphisms_of(n, periods)
        self._automorphism = automorphism_mould(linear, pair.secretKey, self._indices[0])
        self._multiplication = multiplication_mould(linear, n)

    def load(self, seed: bytes, read: Read, observe: Callable[[str], None]) -> LinearKeys:
        """From the parts of :func:`linear_part_names`; errors of :func:`load_training_keys`."""
        linear, n, tag = self._contexts.linear, self._contexts.parameters.ring, self._zero.GetKeyTag()
        shape = key_shape(self._multiplication.moduli)
        towers = shape.decode(LINEAR_MULTIPLICATION, read(LINEAR_MULTIPLICATION), n, seed)
        insert_multiplication(linear, self._multiplication, towers, tag)
        observe(LINEAR_MULTIPLICATION)
        shape = key_shape(self._automorphism.moduli)
        for index in self._indices:
            towers = shape.decode(linear_part(index), read(linear_part(index)), n, seed)
            linear.InsertEvalAutomorphismKey(cast_map(reindexed(self._automorphism, index), towers), tag)
            observe(linear_part(index))
        return LinearKeys(self._contexts, self._zero)


def load_training_keys(
    parameters: Parameters,
    periods: Sequence[int],
    seed: bytes,
    read: Read,
    observe: Callable[[str], None] = lambda name: None,
) -> TrainingKeys:
    """Evaluation keys from the parts of :func:`training_part_names`, which ``read`` returns one after another.

    The key pairs made here are thrown away, as in ``load``. ResidueError when a part does not hold what it should,
    BackendError when OpenFHE refuses the parameters; ``observe`` is told each part when it is done.
    """
    contexts = make_training_contexts(parameters)
    # before all keys
    loader = LinearLoader(contexts, periods)
    public_key = load_torus(
        contexts.torus, parameters, lambda key: setup_training_bootstrap(contexts, key), seed, read, observe
    )
    return TrainingKeys(contexts, loader.load(seed, read, observe).zero, public_key)
