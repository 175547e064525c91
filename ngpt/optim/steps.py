"""The steps of SimpleMuon: one pure function each, on stacks of same-shape matrices (..., m, n).

`W` weights, `G` gradients, `M` momentum, `O` orthogonalised momentum, `D = -O` the descent direction. No argument is
written to. The order in which an optimizer applies them is `ngpt.optim.muon.SimpleMuon.step`.
"""

import math
from typing import Literal

import torch
from torch import Tensor

AdjustLr = Literal["none", "original", "match_rms_adamw"]


def momentum(M: Tensor, G: Tensor, mu: float) -> Tensor:
    """M <- mu M + (1 - mu) G, an exponential moving average, as in torch.optim.Muon."""
    return torch.lerp(M, G, 1 - mu)


def nesterov(M: Tensor, G: Tensor, mu: float) -> Tensor:
    """(1 - mu) G + mu M with the already updated M: what Nesterov's momentum hands to the orthogonaliser."""
    return torch.lerp(G, M, mu)


def shape_factor(shape: torch.Size, rule: AdjustLr | None) -> float:
    """Factor on the step of a matrix (..., m, n), as `adjust_lr_fn` in torch.optim.Muon.

    None, "original": sqrt(max(1, m/n)), K. Jordan 2024. "match_rms_adamw": 0.2 sqrt(max(m, n)), arXiv 2502.16982.
    "none", which torch does not have: 1.
    """
    m, n = shape[-2:]
    match rule:
        case "none":
            return 1.0
        case None | "original":
            return math.sqrt(max(1, m / n))
        case "match_rms_adamw":
            return 0.2 * math.sqrt(max(m, n))
    raise ValueError(f"unknown adjust_lr_fn: {rule!r}")


def decay(W: Tensor, lr: float, weight_decay: float) -> Tensor:
    """Decoupled weight decay with the unadjusted rate: W (1 - lr wd), as in torch.optim.Muon and AdamW.

    On the sphere, followed by projection, it only lengthens the step to lr / (1 - lr wd).
    """
    return W * (1 - lr * weight_decay) if weight_decay else W


def linear_move(W: Tensor, O: Tensor, lr: float) -> Tensor:
    """W + lr D, the straight step; it leaves the sphere by lr^2 |u|^2 / 2 where O is tangent, by more where not."""
    return torch.add(W, O.to(W.dtype), alpha=-lr)
