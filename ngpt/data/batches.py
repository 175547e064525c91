"""Batches as a pure function of (seed, step): resumable without stored state, and the same for every arm."""

import functools

import numpy as np
from numpy.typing import NDArray

from ngpt.data.tokenizers import Tokens

Ids = NDArray[np.int64]


class Batches:
    """Training windows in a shuffled order that visits every window once before any window again.

    The token stream (n,) is cut into (n - 1) // T windows of T inputs, each with the T targets one further on. Epoch e
    of `seed` visits them in a permutation drawn by Philox(seed, e); step s takes the positions s B ... s B + B - 1.
    """

    def __init__(self, tokens: Tokens, *, batch_size: int, seq_len: int, seed: int) -> None:
        self.tokens = tokens
        self.batch_size = batch_size
        self.seq_len = seq_len
        self.seed = seed
        self.num_windows = (len(tokens) - 1) // seq_len
        if self.num_windows < 1:
            raise ValueError(f"{len(tokens)} tokens hold no window of {seq_len}")

    @functools.lru_cache(maxsize=2)  # noqa: B019 (a Batches lives as long as its run)
    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.num_windows)

    def at(self, step: int) -> tuple[Ids, Ids]:
        """Inputs and targets of one step, int64 (B, T) each."""
        first = step * self.batch_size
        windows = [
            self._order(i // self.num_windows)[i % self.num_windows] for i in range(first, first + self.batch_size)
        ]
        return _windows(self.tokens, windows, self.seq_len)


def validation_batches(tokens: Tokens, *, eval_tokens: int, batch_size: int, seq_len: int) -> list[tuple[Ids, Ids]]:
    """Windows of `eval_tokens` targets at equal distances through the whole stream, the same for every run.

    A prefix would be the head of one or two documents. Whole windows only: their number is
    min(eval_tokens, n - 1) // T, at least 1. Every target counts once, and where eval_tokens reaches n - 1 the windows
    are the whole stream.
    """
    whole = (len(tokens) - 1) // seq_len
    count = max(1, min(eval_tokens, len(tokens) - 1) // seq_len)
    chosen = [i * whole // count for i in range(count)]
    return [_windows(tokens, chosen[first : first + batch_size], seq_len) for first in range(0, count, batch_size)]


def _windows(tokens: Tokens, windows: list[int], seq_len: int) -> tuple[Ids, Ids]:
    span = np.stack([tokens[w * seq_len : (w + 1) * seq_len + 1] for w in windows]).astype(np.int64)
    return span[:, :-1], span[:, 1:]
