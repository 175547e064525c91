"""Validation on a fixed set of windows spread over the validation split, the same for every run."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ngpt.data.batches import IGNORE_INDEX, Windows, validation_batches
from ngpt.model.loss import cross_entropy
from ngpt.ranks import SINGLE_PROCESS, Ranks

BATCH_TOKENS = 4096
"""Tokens in one forward pass of a validation: the same for all runs, since it can change the last bits of a sum."""


class Evaluator:
    """Holds the validation batches of a run and measures a model on them."""

    def __init__(
        self, windows: Windows, byte_lengths: NDArray[np.int64] | None, *, eval_tokens: int, device: torch.device,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:  # fmt: skip
        """byte_lengths: of each token, (vocabulary,); None if they are not known."""
        self.ranks = ranks
        batch_size = max(1, BATCH_TOKENS // windows.seq_len)
        batches = validation_batches(windows, eval_tokens=eval_tokens, batch_size=batch_size)
        self.batches = [(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)) for x, y in batches]
        self.tokens = sum(int((y != IGNORE_INDEX).sum()) for _, y in batches)
        self.text_bytes = None if byte_lengths is None else int(sum(np.sum(byte_lengths[y]) for _, y in batches))

    @torch.no_grad()
    def measure(self, model: nn.Module, autocast: torch.autocast) -> dict[str, float]:
        """Return `val_loss`, in nats per token, and `val_bpb`, in bits per byte, if byte lengths are known.

        Both are means over all validation tokens, summed in float64; ranks take turns with the batches. Every rank
        makes the same number of forward passes, since FSDP gathers weights in them; a surplus pass does not count.
        """
        sums = torch.zeros(len(self.batches), dtype=torch.float64)
        for first in range(0, len(self.batches), self.ranks.count):
            number = first + self.ranks.index
            x_BT, y_BT = self.batches[min(number, len(self.batches) - 1)]
            with autocast:
                logits_BTV = model(x_BT)
            if number < len(self.batches):
                sums[number] = cross_entropy(logits_BTV, y_BT, reduction="sum").double()
        total = sum(self.ranks.all_reduce(sums).tolist())
        bpb = {"val_bpb": total / math.log(2) / self.text_bytes} if self.text_bytes else {}
        return {"val_loss": total / self.tokens} | bpb
