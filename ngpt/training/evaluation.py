"""Validation on a fixed set of windows spread over the validation split, the same for every run."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ngpt.data.batches import UNSCORED, Windows, validation_batches
from ngpt.ranks import ALONE, Ranks

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
        self,
        windows: Windows,
        byte_lengths: NDArray[np.int64] | None,
        *,
        eval_tokens: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        """byte_lengths: of every token, (vocabulary,); None where they are not known."""
        self.ranks = ranks
        batch_size = max(1, BATCH_TOKENS // windows.seq_len)
        batches = validation_batches(windows, eval_tokens=eval_tokens, batch_size=batch_size)
        self.batches = [(torch.from_numpy(x).to(device), torch.from_numpy(y.copy()).to(device)) for x, y in batches]
        self.tokens = sum(int((y != UNSCORED).sum()) for _, y in batches)
        self.text_bytes = None if byte_lengths is None else int(sum(np.sum(byte_lengths[y]) for _, y in batches))

    @torch.no_grad()
    def measure(self, model: nn.Module, autocast: torch.autocast) -> Validation:
        """Mean loss over every validation token, summed in float64; ranks take the batches in turn.

        All ranks make as many forward passes, as weights may travel in them; a pass too many counts nothing.
        """
        sums = torch.zeros(len(self.batches), dtype=torch.float64)
        for first in range(0, len(self.batches), self.ranks.count):
            number = first + self.ranks.index
            x_BT, y_BT = self.batches[min(number, len(self.batches) - 1)]
            with autocast:
                logits_BTV = model(x_BT)
            if number < len(self.batches):
                sums[number] = loss_of(logits_BTV, y_BT, reduction="sum").double()
        total = sum(self.ranks.add(sums).tolist())
        loss = total / self.tokens
        return Validation(loss, total / math.log(2) / self.text_bytes if self.text_bytes else None)
