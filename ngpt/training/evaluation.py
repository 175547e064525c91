"""Validation on a fixed set of windows spread over the validation split, the same for every run."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ngpt.data.batches import UNSCORED, Windows, validation_batches

BATCH_TOKENS = 4096
"""Tokens in one forward pass of a validation: the same for all runs, since it can change the last bits of a sum."""


@dataclass(frozen=True)
class Validation:
    """Losses on the validation tokens."""

    loss: float
    """nats per token"""
    bpb: float | None
    """bits per byte of text; None where the tokens' byte lengths are not known"""


def loss_of(logits_BTV: Tensor, targets_BT: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats, computed in float32."""
    targets = targets_BT.flatten()
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), targets, ignore_index=UNSCORED, reduction=reduction)


class Evaluator:
    """Holds the validation batches of a run and measures a model on them."""

    def __init__(
        self, windows: Windows, byte_lengths: NDArray[np.int64] | None, *, eval_tokens: int, device: torch.device
    ) -> None:
        """byte_lengths: of every token, (vocabulary,); None where they are not known."""
        batch_size = max(1, BATCH_TOKENS // windows.seq_len)
        batches = validation_batches(windows, eval_tokens=eval_tokens, batch_size=batch_size)
        self.batches = [(torch.from_numpy(x).to(device), torch.from_numpy(y.copy()).to(device)) for x, y in batches]
        self.tokens = sum(int((y != UNSCORED).sum()) for _, y in batches)
        self.text_bytes = None if byte_lengths is None else int(sum(np.sum(byte_lengths[y]) for _, y in batches))

    @torch.no_grad()
    def measure(self, model: nn.Module, autocast: torch.autocast) -> Validation:
        """Mean loss over every validation token, summed in float64."""
        total = 0.0
        for x_BT, y_BT in self.batches:
            with autocast:
                logits_BTV = model(x_BT)
            total += loss_of(logits_BTV, y_BT, reduction="sum").double().item()
        loss = total / self.tokens
        return Validation(loss, total / math.log(2) / self.text_bytes if self.text_bytes else None)
