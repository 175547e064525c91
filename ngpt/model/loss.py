"""The loss of a language model: next-token cross-entropy."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats, computed in float32: its mean over the targets or, with "sum", its sum.

    Targets of -100, PyTorch's default `ignore_index`, do not count (`ngpt.data.batches.IGNORE_INDEX`).
    """
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction=reduction)
