"""Batches as a pure function of (seed, step): resumable without stored state, and the same for every arm."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ngpt.data.tokenizers import Tokens

Ids = NDArray[np.int64]

UNSCORED = -100
"""Stands for a target that counts in no loss."""


@dataclass(frozen=True)
class Windows:
    """Inputs and targets of `seq_len` tokens each, cut out of a stream (n,).

    Without `record` the stream is cut into (n - 1) // T windows that follow each other. With it, the stream consists of
    records of that many tokens, and each gives one window, its beginning; its first `context` tokens are no targets.
    """

    tokens: Tokens
    seq_len: int
    record: int | None = None
    context: int = 0

    def __post_init__(self) -> None:
        if self.record is not None and self.record <= self.seq_len:
            raise ValueError(f"a record of {self.record} tokens holds no window of {self.seq_len}")
        if self.context > self.seq_len:
            raise ValueError(f"a window of {self.seq_len} has no target behind {self.context} tokens of context")
        if self.count < 1:
            raise ValueError(f"{len(self.tokens)} tokens hold no window of {self.seq_len}")

    @property
    def count(self) -> int:
        """Number of windows."""
        return (len(self.tokens) - 1) // self.seq_len if self.record is None else len(self.tokens) // self.record

    def at(self, chosen: list[int]) -> tuple[Ids, Ids]:
        """Inputs and targets of some windows, int64 (len(chosen), T) each."""
        starts = (w * (self.record or self.seq_len) for w in chosen)
        span = np.stack([self.tokens[start : start + self.seq_len + 1] for start in starts]).astype(np.int64)
        x, y = span[:, :-1], span[:, 1:].copy()
        y[:, : max(0, self.context - 1)] = UNSCORED
        return x, y


class Batches:
    """Training windows in a shuffled order that visits every window once before any window again.

    Epoch e of `seed` visits them in a permutation drawn by Philox(seed, e); step s takes the positions
    s B ... s B + B - 1.
    """

    def __init__(self, windows: Windows, *, batch_size: int, seed: int) -> None:
        self.windows = windows
        self.batch_size = batch_size
        self.seed = seed

    @functools.lru_cache(maxsize=2)  # noqa: B019 (a Batches lives as long as its run)
    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.windows.count)

    def at(self, step: int) -> tuple[Ids, Ids]:
        """Inputs and targets of one step, int64 (B, T) each."""
        first, count = step * self.batch_size, self.windows.count
        return self.windows.at([self._order(i // count)[i % count] for i in range(first, first + self.batch_size)])


def validation_batches(windows: Windows, *, eval_tokens: int, batch_size: int) -> list[tuple[Ids, Ids]]:
    """Windows of `eval_tokens` targets at equal distances through the whole stream, the same for every run.

    A prefix would be the head of one or two documents. Whole windows only: eval_tokens // T of them, at least 1 and at
    most all. Every target counts once.
    """
    count = min(windows.count, max(1, eval_tokens // windows.seq_len))
    chosen = [i * windows.count // count for i in range(count)]
    return [windows.at(chosen[first : first + batch_size]) for first in range(0, count, batch_size)]
