"""Signum: the sign of the momentum, entry by entry."""

import math
from typing import Any

from torch import Tensor

from ngpt.rules.base import Group, MatrixRule, vector_dim


class Signum(MatrixRule):
    """Move every entry by the same amount against its momentum: D = sign(X) / sqrt(d), for d entries per vector.

    The entries of D are equal in size where Muon's D has equal singular values. Source: Bernstein et al., arXiv
    1802.04434. Differs: divided by sqrt(d), so that D has unit vectors.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, nesterov: bool = False):
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov)

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return signs, scaled to unit vectors."""
        return X.sign() / math.sqrt(W.shape[vector_dim(group)])
