"""`--tail-average`: the run is judged at its weights mixed with their average over its last part."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ngpt.config import OptimConfig
from ngpt.optim.sharded import local_of


class TailAverage:
    """An average E of all weights W of the last part of a run. Training never sees it.

        E <- W at first, then E + (W - E) / n after each step,   read out: (1 - a) W + a E

    n: `--tail-average`; a: `--tail-weight`. Vectors of the read-out are shorter than 1; the projection that comes
    before every validation makes unit vectors of them, which are means on the sphere to first order.

    Source: modded-nanogpt, track 3, record 45 (Tail-EMA).
    """

    def __init__(self, optim: OptimConfig, parameters: Mapping[str, Tensor]) -> None:
        self.optim, self.parameters = optim, parameters
        self.tensors: dict[str, Tensor] = {}
        """E by name of the parameter; empty before its first step"""

    def begin(self) -> None:
        """Start the average at the present weights."""
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def forget(self) -> None:
        """Start anew at the next step."""
        self.tensors = {}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Add the present weights to the average if the last part has begun. progress: share of the run done."""
        if self.optim.tail_average is None or progress < self.optim.tail_start:
            return
        if not self.tensors:
            self.begin()
        torch._foreach_lerp_(self._averages(), self._weights(), 1 / self.optim.tail_average)

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the weights by what is read out."""
        if self.tensors:
            torch._foreach_lerp_(self._weights(), self._averages(), self.optim.tail_weight)

    @contextmanager
    def read_out(self) -> Iterator[None]:
        """Hold the weights as they are read out inside the context, and restore them afterwards, to the bit."""
        kept = [weight.clone() for weight in self._weights()] if self.tensors else []
        self.apply()
        try:
            yield
        finally:
            if kept:
                torch._foreach_copy_(self._weights(), kept)

    def _weights(self) -> list[Tensor]:
        return [local_of(parameter).detach() for parameter in self.parameters.values()]

    def _averages(self) -> list[Tensor]:
        return [local_of(self.tensors[name]) for name in self.parameters]
