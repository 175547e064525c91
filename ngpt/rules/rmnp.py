"""RMNP: the momentum of each vector, brought to length 1. No polar factor, no tangent."""

from typing import Any

from torch import Tensor

from ngpt import sphere
from ngpt.rules.base import Axis, Group, MatrixRule, dim_of, require_axis


class RMNP(MatrixRule):
    """Move each vector by lr against its own momentum: D_w = M_w / |M_w|.

    Source: Deng et al., arXiv 2603.20527, for rows: `axis="rows"`. A vector without momentum stays.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, nesterov: bool = False, axis: Axis = "vectors"):
        require_axis(axis)
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, axis=axis)

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return unit vectors along the momentum."""
        return sphere.project(X, dim=dim_of(group))
