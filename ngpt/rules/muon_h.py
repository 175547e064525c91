"""MuonH, the hyperball: Muon on the sphere of whole matrices instead of that of single vectors."""

import math
from typing import Any

from torch import Tensor

from ngpt import polar
from ngpt.rules.base import Group, MatrixRule, vector_dim


class MuonH(MatrixRule):
    """Step by lr relative to the norm of the matrix and bring the matrix back to that norm.

        D = polar(X),   W <- R N(W - lr R N(D)),   R^2 = number of unit vectors,   N(Y) = Y / |Y|_F

    Vectors may change length. Use `--constraint none`.

    Source: arXiv 2606.16899. Differs: R is the Frobenius norm of a matrix of unit vectors, which is |W|_F at the start
    and follows from the shape, so that a resumed run has it too.
    """

    keeps_norm = True

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, nesterov: bool = True, ns_steps: int = 5):
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps)

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return the polar factor, brought to the Frobenius norm of the sphere."""
        D = polar.orthogonalize(X, method="newton-schulz", steps=group["ns_steps"], dtype=X.dtype)
        return to_norm(D, radius(W, group))

    def move(self, W: Tensor, D: Tensor, group: Group) -> None:
        """Step and return to the sphere."""
        W.copy_(to_norm(W - group["lr"] * D, radius(W, group)))


def radius(W: Tensor, group: Group) -> float:
    """Return the Frobenius norm of a matrix of unit vectors."""
    return math.sqrt(W.numel() / W.shape[vector_dim(group)])


def to_norm(X: Tensor, norm: float) -> Tensor:
    """Return X scaled to a Frobenius norm; zero stays zero."""
    length = X.double().square().sum().sqrt()
    return X * (norm / length if length > 0 else 1.0)
