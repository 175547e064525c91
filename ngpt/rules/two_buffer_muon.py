"""Muon with two memories: a fast and a slow average of the gradients."""

from typing import Any

import torch
from torch import Tensor

from ngpt import polar
from ngpt.optim.steps import shape_factor
from ngpt.rules.base import Group, MatrixRule, State, require


class TwoBufferMuon(MatrixRule):
    """Orthogonalize a mixture of Muon's look-ahead X with a slow average S.

        S <- nu S + (1 - nu) G
        W <- W - lr sqrt(max(1, m / n)) polar((1 - a) X + a S / (1 - nu^t))

    nu: `slow_momentum`; a: `slow_weight`; t: number of this step, from 1. 1 - nu^t corrects for S starting at zero,
    since a mixture depends on scale. With a = 0 this is Muon.

    Source: modded-nanogpt, track 3, pull requests 339 and 340, which go from one average to two during the run.
    Differs: both from the first step; the look-ahead is taken of the fast average, before the mixture; and the slow one
    alone is corrected for its start, so that with a = 0.5 it has 91% of the weight in the first step, 53% in the 40th.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.95, nesterov: bool = True, slow_momentum: float = 0.99,
        slow_weight: float = 0.5, ns_steps: int = 5,
    ):  # fmt: skip
        require(0 <= slow_momentum < 1, f"slow_momentum must lie in [0, 1): {slow_momentum}")
        require(0 <= slow_weight <= 1, f"slow_weight must lie in [0, 1]: {slow_weight}")
        super().__init__(
            params, lr, momentum=momentum, nesterov=nesterov, slow_momentum=slow_momentum, slow_weight=slow_weight,
            ns_steps=ns_steps,
        )  # fmt: skip

    def update_momentum(self, W: Tensor, G: Tensor, state: State, group: Group) -> Tensor:
        """Update both averages and return their mixture."""
        X = super().update_momentum(W, G, state, group)
        S = state.setdefault("slow_momentum_buffer", torch.zeros_like(W))
        S.lerp_(G, 1 - group["slow_momentum"])
        state["steps"] = state.get("steps", 0) + 1
        return X.lerp(S / (1 - group["slow_momentum"] ** state["steps"]), group["slow_weight"])

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return the polar factor as Muon does."""
        O = polar.orthogonalize(X, method="newton-schulz", steps=group["ns_steps"], dtype=X.dtype)
        return shape_factor(W.shape, None) * O
