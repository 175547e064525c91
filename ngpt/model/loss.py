"""The loss of a language model: next-token cross-entropy."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats, computed in float32: its mean over the targets or, with "sum", its sum.

    Targets of -100, PyTorch's default `ignore_index`, do not count (`ngpt.data.batches.IGNORE_INDEX`).
    """
    loss: Tensor = _CrossEntropy.apply(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """F.cross_entropy in fewer passes over the logits z: log p = z - max z + log max p, and dz = p - onehot."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, reduction: str) -> Tensor:
        p = torch.softmax(logits_NV, dim=-1, dtype=torch.float32)
        counts = targets_N >= 0
        index = targets_N.clamp_min(0).unsqueeze(-1)
        ctx.save_for_backward(p, counts, index)
        ctx.mean, ctx.dtype = reduction == "mean", logits_NV.dtype
        z, z_max = logits_NV.gather(-1, index).float(), logits_NV.amax(dim=-1, keepdim=True).float()
        total = torch.where(counts, (z_max - z - p.amax(dim=-1, keepdim=True).log()).squeeze(-1), 0.0).sum()
        return total / counts.sum() if ctx.mean else total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor, None, None]:
        p, counts, index = ctx.saved_tensors
        scale = d_loss / counts.sum() if ctx.mean else d_loss
        p.scatter_add_(-1, index, p.new_full((1,), -1.0).expand_as(index))
        return p.mul_((scale * counts).unsqueeze(-1)).to(ctx.dtype), None, None
