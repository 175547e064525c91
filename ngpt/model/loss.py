"""The loss of a language model: next-token cross-entropy."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats, computed in float32: its mean over the targets or, with "sum", its sum.

    Targets of -100, PyTorch's default `ignore_index`, do not count (`ngpt.data.batches.IGNORE_INDEX`).
    """
    loss: Tensor = _CrossEntropy.apply(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """F.cross_entropy with a backward pass of two passes over the logits: softmax - onehot, in place."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, reduction: str) -> Tensor:
        log_p = F.log_softmax(logits_NV, dim=-1, dtype=torch.float32)
        ctx.save_for_backward(log_p, targets_N)
        ctx.mean, ctx.dtype = reduction == "mean", logits_NV.dtype
        return F.nll_loss(log_p, targets_N, reduction=reduction)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor, None, None]:
        log_p, targets_N = ctx.saved_tensors
        counts = targets_N >= 0
        scale = d_loss / counts.sum() if ctx.mean else d_loss
        index = targets_N.clamp_min(0).unsqueeze(-1)
        p = log_p.exp_()
        p.scatter_add_(-1, index, p.new_full((1,), -1.0).expand_as(index))
        return p.mul_((scale * counts).unsqueeze(-1)).to(ctx.dtype), None, None
