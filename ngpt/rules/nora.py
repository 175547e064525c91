"""Nora: the momentum of each vector, made tangent and brought to length 1. No polar factor."""

from typing import Any

from torch import Tensor

from ngpt import sphere
from ngpt.rules.base import Axis, Group, MatrixRule, dim_of, require_axis


class Nora(MatrixRule):
    """Turn each vector along the tangent part of its own momentum by about lr radians.

        u = M_w - <M_w, w> w / <w, w>,   D_w = u / |u|

    Source: Yuan et al., arXiv 2605.03769, for rows: `axis="rows"`. Differs: no weight decay, which only lengthens the
    step of a vector that is projected. A vector whose u is zero stays.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, nesterov: bool = False, axis: Axis = "vectors"):
        require_axis(axis)
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, axis=axis)

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return unit vectors tangent to those of W."""
        dim = dim_of(group)
        return sphere.project(sphere.tangent(W, X, dim=dim), dim=dim)
