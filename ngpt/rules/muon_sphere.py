"""MuonSphere: Muon on the spectral sphere, where the largest singular value of a matrix is fixed."""

from typing import Any

import torch
from torch import Tensor

from ngpt import polar
from ngpt.rules.base import Group, MatrixRule, State, require


class MuonSphere(MatrixRule):
    """Scale the matrix to a fixed largest singular value R, then step relative to R.

        W <- W R / sigma,   W <- W - lr R polar(X),   R = c sqrt(m / n)

    sigma is estimated by power iteration from the last singular vector. Use `--constraint none`.

    Source: SSO with lambda = 0, there called MuonSphere (arXiv 2601.08393). Differs: 5 steps of Polar Express in
    float32 instead of 8 in bfloat16. The power steps and c are those of its sso.py; its version for Megatron has 20 and
    1. With 5, the norm is up to 8% above R in the first steps.
    """

    keeps_norm = True

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.9, nesterov: bool = True, c: float = 2.0, ns_steps: int = 5,
        power_steps: int = 5,
    ):  # fmt: skip
        require(c > 0, f"c must be positive: {c}")
        super().__init__(
            params, lr, momentum=momentum, nesterov=nesterov, c=c, ns_steps=ns_steps, power_steps=power_steps
        )

    def update_momentum(self, W: Tensor, G: Tensor, state: State, group: Group) -> Tensor:
        """Bring the matrix to its sphere, then update the momentum."""
        v = state.setdefault("right_vector", torch.ones_like(W[0]) / W.size(1) ** 0.5)
        sigma, v_new = largest_singular_value(W, v, group["power_steps"])
        v.copy_(torch.where(sigma > 0, v_new, v))  # a vector of zeros would stay one
        W.mul_(torch.where(sigma > 0, radius(W, group) / sigma, 1.0))
        return super().update_momentum(W, G, state, group)

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return the polar factor times the radius."""
        O = polar.orthogonalize(X, method="polar-express", steps=group["ns_steps"], dtype=X.dtype)
        return radius(W, group) * O


def radius(W: Tensor, group: Group) -> float:
    """Return the spectral norm that a matrix is kept at."""
    m, n = W.shape
    return float(group["c"] * (m / n) ** 0.5)


def largest_singular_value(W: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return an estimate of the largest singular value of W (m, n), from below, and of its right vector (n,)."""
    for _ in range(steps):
        u = torch.nn.functional.normalize(W @ v, dim=0)
        v = torch.nn.functional.normalize(W.mT @ u, dim=0)
    return torch.linalg.vector_norm(W @ v), v
