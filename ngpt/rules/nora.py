"""Nora: the momentum of each vector, tangent and normalized. No polar factor."""

from typing import Any

import torch
from torch import Tensor

from ngpt import sphere
from ngpt.rules.base import Axis, Group, MatrixRule, line_dim, require_axis


class Nora(MatrixRule):
    """Turn each vector w against the tangent part of its momentum by arctan(lr / |w|) radians.

        u = X_w - <X_w, w> w / <w, w>,   D_w = u / |u|

    Source: Yuan et al., arXiv 2605.03769, for rows: `axis="rows"`. Differs: no weight decay, which only lengthens the
    step of a vector that is projected. A vector whose u is zero, or only the rounding of an X_w parallel to w, stays.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, nesterov: bool = False, axis: Axis = "vectors"):
        require_axis(axis)
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, axis=axis)

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return unit vectors tangent to those of W."""
        dim = line_dim(group)
        u = sphere.tangent(W, X, dim=dim)
        rounding = sphere.NOISE * torch.finfo(torch.promote_types(X.dtype, torch.float32)).eps * sphere.norm(X, dim=dim)
        return sphere.project(torch.where(sphere.norm(u, dim=dim) > rounding, u, 0.0), dim=dim)
