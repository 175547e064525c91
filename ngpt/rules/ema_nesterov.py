"""EMA-Nesterov around Muon: gradients are taken ahead of the weights, along their recent path on the sphere."""

from typing import Any

import torch
from torch import Tensor

from ngpt import polar, sphere
from ngpt.optim.steps import shape_factor
from ngpt.rules.base import Group, MatrixRule, require, vector_dim


class EmaNesterov(MatrixRule):
    """Run Muon from a point ahead of the weights, along an average of past displacements.

        V <- Y - lr sqrt(max(1, m / n)) polar(X)      Y: the point ahead, where the gradient was taken
        e <- tangent part at x of gamma e + (1 - gamma) (x - x_before),   x = v / |v| for each vector v of V
        Y <- |v| N(x + beta e),   beta = `look_ahead` * lr / (lr at its peak)

    The matrix holds Y, where the next gradient is taken and validations measure. beta falls with the rate, so that with
    a rate that ends at zero the run ends at V. With `look_ahead` 0 this is Muon.

    Source: Yau et al., arXiv 2605.25395, for any optimizer of unconstrained weights, with beta at zero in a warmup and
    in the decay. Differs: lengths are left to projection, so displacements are taken between unit vectors, the average
    is kept tangent, and the look-ahead is a retraction; beta follows the rate alone.
    """

    keeps_position = True

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.95, nesterov: bool = True, gamma: float = 0.99,
        look_ahead: float = 0.6, ns_steps: int = 5,
    ):  # fmt: skip
        require(lr > 0, f"lr must be positive, as the look-ahead is relative to it: {lr}")
        require(0 <= gamma < 1, f"gamma must lie in [0, 1): {gamma}")
        require(look_ahead >= 0, f"look_ahead must not be negative: {look_ahead}")
        super().__init__(
            params, lr, momentum=momentum, nesterov=nesterov, gamma=gamma, look_ahead=look_ahead, ns_steps=ns_steps,
            peak_lr=lr,
        )  # fmt: skip

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return the polar factor as Muon does."""
        O = polar.orthogonalize(X, method="newton-schulz", steps=group["ns_steps"], dtype=X.dtype)
        return shape_factor(W.shape, None) * O

    def move(self, W: Tensor, D: Tensor, group: Group) -> None:
        """Step, average the displacement, and look ahead along it."""
        state, dim = self.state[W], vector_dim(group)
        last = state.setdefault("point", sphere.project(W, dim=dim))
        e = state.setdefault("trend", torch.zeros_like(W))
        super().move(W, D, group)
        x = sphere.project(W, dim=dim)
        e.copy_(sphere.tangent(x, e.lerp(x - last, 1 - group["gamma"]), dim=dim))
        last.copy_(x)
        beta = group["look_ahead"] * group["lr"] / group["peak_lr"]
        W.copy_(sphere.norm(W, dim=dim) * sphere.retract(x, beta * e, dim=dim))
