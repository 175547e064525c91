"""Batches as a pure function of (seed, step): resumable without stored state, and the same for every arm."""

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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
    kept: tuple[int, ...] | None = None
    """if given, only these of the windows, by their numbers"""

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
        if self.kept is not None:
            return len(self.kept)
        return (len(self.tokens) - 1) // self.seq_len if self.record is None else len(self.tokens) // self.record

    def spread(self, number: int) -> "Windows":
        """`number` of them, at most all, at equal distances through the whole stream; a prefix would be one document's.

        Raises ValueError if `number` is not positive.
        """
        if number < 1:
            raise ValueError(f"no windows: {number}")
        number = min(number, self.count)
        return dataclasses.replace(self, kept=self._numbers(i * self.count // number for i in range(number)))

    def _numbers(self, chosen: Iterable[int]) -> tuple[int, ...]:
        """Among all windows of the stream."""
        return tuple(chosen) if self.kept is None else tuple(self.kept[w] for w in chosen)

    def starts(self, chosen: Iterable[int]) -> NDArray[np.int64]:
        """Where some windows begin in the stream, (number chosen,)."""
        return np.array(self._numbers(chosen), dtype=np.int64) * (self.record or self.seq_len)

    def at(self, chosen: Iterable[int]) -> tuple[Ids, Ids]:
        """Inputs and targets of some windows, int64 (number chosen, T) each."""
        starts = self.starts(chosen).tolist()
        span = np.stack([self.tokens[start : start + self.seq_len + 1] for start in starts]).astype(np.int64)
        x, y = span[:, :-1], span[:, 1:].copy()
        self.hide_context(y)
        return x, y

    def hide_context(self, targets_BT: Any) -> None:
        """Mark what is no target, in place, in an array or a tensor."""
        targets_BT[:, : max(0, self.context - 1)] = UNSCORED


class Batches:
    """Training windows in a shuffled order that visits every window once before any window again.

    Epoch e of `seed` visits them in a permutation drawn by Philox(seed, e); step s takes the positions
    s B ... s B + B - 1. Of `parts` equal parts of each batch, these are the `part`-th.
    """

    def __init__(self, windows: Windows, *, batch_size: int, seed: int, part: int = 0, parts: int = 1) -> None:
        """Raises ValueError unless `parts` divides the batch."""
        if batch_size % parts or not 0 <= part < parts:
            raise ValueError(f"no part {part} of {parts} equal ones of a batch of {batch_size}")
        self.windows = windows
        self.batch_size, self.rows = batch_size, range(batch_size * part // parts, batch_size * (part + 1) // parts)
        self.seed = seed

    @functools.lru_cache(maxsize=2)  # noqa: B019 (a Batches lives as long as its run)
    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.windows.count)

    def at(self, step: int) -> tuple[Ids, Ids]:
        """Inputs and targets of one step, int64 (B, T) each."""
        return self.windows.at(self._chosen(step))

    def starts(self, step: int) -> NDArray[np.int64]:
        """Where the windows of one step begin in the stream, (B,)."""
        return self.windows.starts(self._chosen(step))

    def _chosen(self, step: int) -> list[int]:
        count = self.windows.count
        positions = (step * self.batch_size + row for row in self.rows)
        return [int(self._order(i // count)[i % count]) for i in positions]


def validation_batches(windows: Windows, *, eval_tokens: int, batch_size: int) -> list[tuple[Ids, Ids]]:
    """Windows of `eval_tokens` targets, spread through the whole stream, the same for every run.

    Whole windows only: eval_tokens // T of them, at least 1 and at most all. Every target counts once.
    """
    spread = windows.spread(max(1, eval_tokens // windows.seq_len))
    return [
        spread.at(range(first, min(first + batch_size, spread.count))) for first in range(0, spread.count, batch_size)
    ]
