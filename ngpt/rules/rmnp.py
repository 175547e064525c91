"""RMNP: the momentum of each vector, normalized. No polar factor, no tangent."""

from typing import Any

from torch import Tensor

from ngpt import sphere
from ngpt.rules.base import Axis, Group, MatrixRule, State, line_dim, require_axis


class RMNP(MatrixRule):
    """Move each vector by lr against its normalized momentum: D_w = X_w / |X_w|.

    A vector with zero momentum stays. With `skip_zero_grad`, so does one with zero gradient, such as a token absent
    from the batch: normalized, even a fading momentum would move it by a full step.

    Source: Deng et al., arXiv 2603.20527, for rows: `axis="rows"`; for embedding and head Lau and Su, arXiv 2605.18106
    (RowNormM), who add a small number to |X_w| instead of `skip_zero_grad`.
    """

    def __init__(
        self, params: Any, lr: float | Tensor, momentum: float = 0.95, nesterov: bool = False, axis: Axis = "vectors",
        skip_zero_grad: bool = False,
    ):  # fmt: skip
        require_axis(axis)
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, axis=axis, skip_zero_grad=skip_zero_grad)

    def update_momentum(self, W: Tensor, G: Tensor, state: State, group: Group) -> Tensor:
        """Update the momentum and return X, with zeros for vectors that are skipped."""
        X = super().update_momentum(W, G, state, group)
        return X * (G != 0).any(dim=line_dim(group), keepdim=True) if group["skip_zero_grad"] else X

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return unit vectors along the momentum."""
        return sphere.project(X, dim=line_dim(group))
