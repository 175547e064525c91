"""Kaon: Muon with random singular values, a control for claims about the even spectrum of its update."""

from typing import Any, Literal

import torch
from torch import Tensor

from ngpt.rules.base import Group, MatrixRule, require


class Kaon(MatrixRule):
    """Keep the singular vectors of the momentum and redraw its singular values at every step.

        X = U S V',   D = U R V',   R diagonal with `values`: "uniform" on (0, 1), or "signs", +1 or -1 with equal odds

    With "signs", D is as orthogonal as Muon's but does not descend: a control for the control.

    Source: Shumaylov et al., arXiv 2605.11181, for "uniform"; "signs" is ours. Differs: a singular value decomposition
    and PyTorch's random numbers instead of a chaotic iteration. Directions that are null to rounding stay null. On a
    GPU the decomposition does not have the same bits twice, and neither does a run.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.95, nesterov: bool = True,
        values: Literal["uniform", "signs"] = "uniform",
    ):  # fmt: skip
        require(values in ("uniform", "signs"), f"values must be uniform or signs: {values}")
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, values=values)

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return the momentum with other singular values."""
        U, S, Vh = torch.linalg.svd(X, full_matrices=False)
        R = torch.rand(S.shape, dtype=S.dtype, device=S.device)
        if group["values"] == "signs":
            R = torch.where(R < 0.5, -1.0, 1.0)
        full = S > S.amax() * max(X.shape) * torch.finfo(S.dtype).eps
        return (U * (R * full)) @ Vh
