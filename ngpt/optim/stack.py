"""Matrices of one group, shape and dtype in one step of SimpleMuon: whole ones here, shards in `sharded_stack`.

`SimpleMuon.step` takes both kinds through the same calls: `start`, `write_polar_input`, `apply`, `finish`. Between the
middle two it orthogonalizes all stacks of a shape as one batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ngpt import kernels
from ngpt.optim import rule, steps

ALONE_FROM = 2**15
"""Matrices with at least this many entries are moved one by one on a CPU. Stacks save calls, which is what the move of
smaller matrices costs; of larger ones the passes over memory count, which are faster within a cache."""


@dataclass
class Stack:
    """Whole matrices (m, n) on this rank. A step writes to parameters and states, never to gradients."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    states: list[dict[str, Tensor]]
    group: dict[str, Any]

    @property
    def shape(self) -> torch.Size:
        """Shape of each matrix."""
        return self.parameters[0].shape

    @property
    def count(self) -> int:
        """Number of matrices that this rank orthogonalizes."""
        return len(self.parameters)

    @property
    def input_dtype(self) -> torch.dtype:
        """Dtype of the polar factor's input: that of the gradients, unless a kernel rounds it on the way."""
        M = self.states[0]["momentum_buffer"]
        rounded = kernels.elementwise_runs(M) and steps.may_round_input(self.group)
        return steps.polar_dtype(self.group) if rounded else M.dtype

    def start(self) -> None:
        """Do nothing: whole matrices need no transfer."""

    def write_polar_input(self, X: Tensor) -> list[Tensor]:
        """Write the polar factor's input to X (count, m, n); return its norms if a kernel computed them."""
        momenta = [state["momentum_buffer"] for state in self.states]
        return rule.before_polar(self.parameters, self.gradients, momenta, self.group, out=X)

    def apply(self, O: Tensor) -> None:
        """Apply the rest of the rule with the polar factors O (count, m, n); write weights and state."""
        O = self.refine(O)
        if steps.moves_in_place(self.parameters[0], self.group):
            for W_i, O_i in zip(self.parameters, O, strict=True):
                rule.apply(W_i, O_i, {}, self.group)
            return
        first = self.parameters[0]
        if self.count == 1 or (first.device.type == "cpu" and first.numel() >= ALONE_FROM):
            for W_i, O_i, state_i in zip(self.parameters, O, self.states, strict=True):
                rule.apply(W_i[None], O_i[None], {key: value[None] for key, value in state_i.items()}, self.group)
            return
        W = torch.stack(self.parameters)
        _, applied = steps.state_after_polar(self.group)
        with self._stacked(applied) as state:
            rule.apply(W, O, state, self.group)
        torch._foreach_copy_(self.parameters, list(W))

    def refine(self, O: Tensor) -> Tensor:
        """Apply the steps that do not read the weights and return the new O; write the second moments."""
        refined, _ = steps.state_after_polar(self.group)
        with self._stacked(refined) as state:
            return rule.refine(O, state, self.group)

    @contextmanager
    def _stacked(self, keys: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Hold the states of all matrices under each key as one tensor, and write it back."""
        values = {key: [state[key] for state in self.states] for key in keys}
        stacked = {key: torch.stack(of) for key, of in values.items()}
        yield stacked
        for key, of in values.items():
            torch._foreach_copy_(of, list(stacked[key]))

    def finish(self) -> None:
        """Do nothing: no transfer is in flight."""
