"""A training run's evaluation keys from parts of plain residues. No secret, and no way to decrypt; for the server.

As ``load``, but for the two contexts of training: the bootstrapping one has the parts of inference, the linear one keys
of its own. See ``keymoulds`` for the form of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glyphc.ir.parameters import Parameters

from .ckks_contexts import make_training_contexts, setup_training_bootstrap
from .ckks_evaluator import TrainingKeys, automorphisms_of
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
    return (*torus, LINEAR_MULTIPLICATION, *map(linear_part, automorphisms_of(parameters.ring, periods)))


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
    linear, n = contexts.linear, parameters.ring
    pair = linear.KeyGen()
    zero = linear.Encrypt(pair.publicKey, linear.MakeCKKSPackedPlaintext([0.0], 1, 0, None, n // 2))
    tag = zero.GetKeyTag()
    indices = automorphisms_of(n, periods)
    # moulds before all keys: making one empties OpenFHE's tables
    automorphism = automorphism_mould(linear, pair.secretKey, indices[0])
    multiplication = multiplication_mould(linear, n)
    public_key = load_torus(
        contexts.torus, parameters, lambda key: setup_training_bootstrap(contexts, key), seed, read, observe
    )
    shape = key_shape(multiplication.moduli)
    towers = shape.decode(LINEAR_MULTIPLICATION, read(LINEAR_MULTIPLICATION), n, seed)
    insert_multiplication(linear, multiplication, towers, tag)
    observe(LINEAR_MULTIPLICATION)
    shape = key_shape(automorphism.moduli)
    for index in indices:
        towers = shape.decode(linear_part(index), read(linear_part(index)), n, seed)
        linear.InsertEvalAutomorphismKey(cast_map(reindexed(automorphism, index), towers), tag)
        observe(linear_part(index))
    return TrainingKeys(contexts, public_key, zero)
