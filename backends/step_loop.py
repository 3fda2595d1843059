"""The server's loop over steps. It has evaluation keys and ciphertexts, on one of the backends, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from glyphc.ir.instructions.ckks import Code

from .base import Observer, execute_named

Ciphertexts = dict[str, Any]


class StepCode(Protocol):
    """What the server knows of a run: the instructions of every step."""

    def code(self, step: int) -> Code:
        """From the batch's and the state's ciphertexts to the state's next ones."""


def train_steps(
    plan: StepCode,
    machine_of: Callable[[int], Any],
    batch_of: Callable[[int], Mapping[str, Any]],
    state: Ciphertexts,
    steps: range,
    after: Callable[[int, Ciphertexts], None],
    observe: Observer = lambda instruction, seconds: None,
) -> Ciphertexts:
    """Ciphertexts of the state after the last of ``steps``, by name.

    machine_of, batch_of: the machine and the batch's ciphertexts for a step; each of these is asked for when it is
    loaded. after: told the number of steps done and the state's ciphertexts, after every step.
    """
    for step in steps:
        state = execute_named(plan.code(step), machine_of(step), _Inputs(state, batch_of(step)), observe)
        after(step + 1, state)
    return state


class _Inputs(Mapping[str, Any]):
    """The state's ciphertexts, then the batch's, which may be read from a file one by one."""

    def __init__(self, state: Ciphertexts, batch: Mapping[str, Any]) -> None:
        self._state, self._batch = state, batch

    def __getitem__(self, name: str) -> Any:
        return self._state[name] if name in self._state else self._batch[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._batch), **self._state})

    def __len__(self) -> int:
        return len({*self._state, *self._batch})
