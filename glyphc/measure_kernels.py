"""Measures what programs cost on the engine ``kernels``, for ``glyphc measure``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glyphc.analysis.kernels_cost import KERNELS
from glyphc.ir.parameters import Parameters
from glyphc.measuring import (
    FACTORS,
    PARTS,
    SUM_WEIGHTS,
    SUMS,
    SWITCHES,
    Measurement,
    Observer,
    bootstrap_cost,
    clock,
    step_seconds,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from glyphc.backends.kernels.client import Party


def measure_kernels(parameters: Parameters, observe: Observer = lambda step, seconds: None) -> Measurement:
    """As ``measure.measure``: in this process, which must be fresh. BackendError when the kernels cannot be used."""
    import numpy as np

    from glyphc.analysis.series import fit
    from glyphc.backends.errors import BackendError
    from glyphc.backends.kernels.bootstrap import Bootstrapper
    from glyphc.backends.kernels.client import generate_keys
    from glyphc.backends.kernels.engine import ENGINE
    from glyphc.backends.kernels.evaluator import Ciphertext, Evaluator
    from glyphc.backends.kernels.keyfiles import key_bytes
    from glyphc.backends.kernels.linear import LinearAlgebra
    from glyphc.backends.kernels.warm import exercise

    problem = ENGINE.problem()
    if problem is not None:
        raise BackendError(problem)
    exercise()
    series = fit(lambda x: np.tanh(8 * x) / 4, parameters.degree)
    with clock() as making:
        party = generate_keys(parameters)
        shape = party.server.shape
        evaluator = Evaluator(shape, party.server.basis, party.server.switching)
        bootstrapper = Bootstrapper(evaluator)
    observe("generate keys", making.seconds)
    edge = parameters.plaintext_modulus // 4
    message = np.random.default_rng(0).integers(-edge, edge, parameters.ring)
    linear = LinearAlgebra(evaluator, {}, {})
    torus = Ciphertext(linear.to_torus(party.encrypt(message)), 1.0)
    held = KERNELS.conjugate_bytes(parameters)
    made = making.seconds, key_bytes(shape) - held
    cost = bootstrap_cost(bootstrapper, torus, parameters.degree, series, made, held, observe)
    product, automorphism, switch, external, baby, giant = _linear_seconds(party, evaluator, message)
    return Measurement(cost, product, automorphism, switch, external, baby / automorphism, giant / automorphism)


def _linear_seconds(
    party: Party, evaluator: object, message: npt.NDArray[np.int64]
) -> tuple[float, float, float, float, float, float]:
    """Of one product with its addition, one automorphism of an unpacking, one scheme switch, one encrypted product, and
    of a baby and a giant step of a sum over conjugates."""
    import numpy as np

    from glyphc.backends.kernels.evaluator import Evaluator
    from glyphc.backends.kernels.keyfiles import weight_specs
    from glyphc.backends.kernels.keys import WeightKeys
    from glyphc.backends.kernels.linear import LinearAlgebra
    from glyphc.ir.instructions import Polynomials

    assert isinstance(evaluator, Evaluator)
    rows = FACTORS + 1
    weights = Polynomials(np.arange(rows + 1), np.arange(rows, dtype=np.int32), np.arange(1, rows + 1))
    keys = party.maker.weight_keys(weight_specs(party.server.shape, 0, 0), message % 3 - 1, party.seed)
    linear = LinearAlgebra(
        evaluator, {"weights": weights, SUMS: SUM_WEIGHTS}, {"hidden": WeightKeys((keys,) * SWITCHES, None)}
    )
    sources = [party.encrypt(message) for _ in range(FACTORS)]
    # once each beforehand, for what is made only at the first use
    total = linear.dot(sources, "weights", None)
    linear.split(total, PARTS, 1, PARTS)
    torus = linear.to_torus(total)
    with clock() as dot:
        linear.dot(sources, "weights", None)
    with clock() as split:
        linear.split(total, PARTS, 1, PARTS)
    with clock() as switch:
        for _ in range(SWITCHES):
            linear.from_torus(torus)
            torus = linear.to_torus(total)
    with clock() as external:
        linear.encrypted_dot(sources[:SWITCHES], "hidden", None)
    product = dot.seconds / rows
    return (
        product,
        split.seconds / (PARTS - 1),
        switch.seconds / (2 * SWITCHES),
        external.seconds / SWITCHES,
        *step_seconds(linear, total, len(message), product),
    )
