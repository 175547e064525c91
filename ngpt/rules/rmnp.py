"""RMNP: the momentum of each vector, brought to length 1. No polar factor, no tangent."""

from typing import Any

from torch import Tensor

from ngpt import sphere
from ngpt.rules.base import Axis, Group, MatrixRule, State, dim_of, require_axis


class RMNP(MatrixRule):
    """Move each vector by lr against its own momentum: D_w = M_w / |M_w|.

    A vector without momentum stays; with `rest`, so does one whose gradient is zero, as those of tokens that are not in
    a batch: at unit length even a fading momentum would move them by a whole step.

    Source: Deng et al., arXiv 2603.20527, for rows: `axis="rows"`; for embedding and head Lau and Su, arXiv 2605.18106
    (RowNormM), who add a small number to |M_w| instead of `rest`.
    """

    def __init__(
        self, params: Any, lr: float | Tensor, momentum: float = 0.95, nesterov: bool = False, axis: Axis = "vectors",
        rest: bool = False,
    ):  # fmt: skip
        require_axis(axis)
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, axis=axis, rest=rest)

    def average(self, W: Tensor, G: Tensor, state: State, group: Group) -> Tensor:
        """Update the momentum and return it, or the look-ahead, without the vectors that rest."""
        X = super().average(W, G, state, group)
        return X * (G != 0).any(dim=dim_of(group), keepdim=True) if group["rest"] else X

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return unit vectors along the momentum."""
        return sphere.project(X, dim=dim_of(group))
