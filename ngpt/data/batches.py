"""Batches as a pure function of (seed, step): resumable without stored state, and the same for every arm."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngpt.data.tokenizers import Tokens

Ids = NDArray[np.int64]
Take = Callable[[Ids], Any]
"""As `Windows.take`, also into a tensor on a device"""

IGNORE_INDEX = -100
"""A target that does not count in a loss; the default `ignore_index` of PyTorch's cross-entropy."""


@dataclass(frozen=True)
class Windows:
    """Windows of `seq_len` inputs and as many targets in a stream of tokens (n,).

    Without `record` the stream is cut into (n - 1) // seq_len consecutive windows. With it, the stream consists of
    records of `record` tokens, each of which gives one window, from its start; its first `context` tokens are never
    targets.
    """

    tokens: Tokens
    seq_len: int
    record: int | None = None
    context: int = 0
    subset: tuple[int, ...] | None = None
    """the numbers of the windows to use; None: all"""

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
        if self.subset is not None:
            return len(self.subset)
        return (len(self.tokens) - 1) // self.seq_len if self.record is None else len(self.tokens) // self.record

    def spread(self, number: int) -> "Windows":
        """Return `number` windows, or all if there are fewer, evenly spaced over the whole stream.

        A prefix of the stream might be a single document. Raises ValueError if `number` is not positive.
        """
        if number < 1:
            raise ValueError(f"no windows: {number}")
        number = min(number, self.count)
        return dataclasses.replace(self, subset=self._numbers(i * self.count // number for i in range(number)))

    def _numbers(self, indices: Iterable[int]) -> tuple[int, ...]:
        """Return the numbers, among all windows of the stream, of windows of the subset."""
        return tuple(indices) if self.subset is None else tuple(self.subset[index] for index in indices)

    def at(self, indices: Iterable[int], take: Take | None = None) -> tuple[Any, Any]:
        """Return inputs and targets of the windows at `indices`, int64 (windows, seq_len) each, read with `take`."""
        starts_B = np.array(self._numbers(indices), dtype=np.int64) * (self.record or self.seq_len)
        x_BT, y_BT = map(take or self.take, (starts_B, starts_B + 1))
        y_BT[:, : max(0, self.context - 1)] = IGNORE_INDEX
        return x_BT, y_BT

    def take(self, starts_B: Ids) -> Ids:
        """Return the `seq_len` tokens that follow each of some positions, int64 (B, seq_len)."""
        return self.tokens[starts_B[:, None] + np.arange(self.seq_len)].astype(np.int64)


class Batches:
    """Training windows in a shuffled order that visits every window once before any window again.

    Epoch e of `seed` visits them in a permutation drawn by Philox(seed, e); another `order` than 0 replaces the seed by
    one drawn from both. Step s takes the positions s B ... s B + B - 1. With `parts`, each batch is split into that
    many equal parts, and these are the `part`-th.
    """

    def __init__(
        self, windows: Windows, *, batch_size: int, seed: int, order: int = 0, part: int = 0, parts: int = 1
    ) -> None:  # fmt: skip
        """Raise ValueError unless `parts` divides the batch."""
        if batch_size % parts or not 0 <= part < parts:
            raise ValueError(f"no part {part} of {parts} equal ones of a batch of {batch_size}")
        if order:
            seed = int(np.random.SeedSequence([seed, order]).generate_state(1, np.uint64)[0])
        self.windows, self.batch_size, self.seed = windows, batch_size, seed
        self.rows = range(batch_size * part // parts, batch_size * (part + 1) // parts)

    @functools.lru_cache(maxsize=2)  # noqa: B019 (a Batches lives as long as its run)
    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.windows.count)

    def at(self, step: int, take: Take | None = None) -> tuple[Any, Any]:
        """Return the inputs and targets of one step, int64 (B, seq_len) each; `take` as in `Windows.at`."""
        count = self.windows.count
        positions = (step * self.batch_size + row for row in self.rows)
        return self.windows.at([int(self._order(i // count)[i % count]) for i in positions], take)


def validation_batches(windows: Windows, *, eval_tokens: int, batch_size: int) -> list[tuple[Ids, Ids]]:
    """Return windows of `eval_tokens` targets, spread over the whole stream, in batches; the same for every run.

    Whole windows only: eval_tokens // seq_len of them, at least 1 and at most all. Every target counts once.
    """
    spread = windows.spread(max(1, eval_tokens // windows.seq_len))
    starts = range(0, spread.count, batch_size)
    return [spread.at(range(first, min(first + batch_size, spread.count))) for first in starts]
