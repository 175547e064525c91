"""`--tail-ema-steps`: evaluate a run at its weights mixed with their average over its last part."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ngpt.config import OptimConfig
from ngpt.optim.sharded import local_of


class TailEma:
    """An average E of all weights W over the last part of a run. Training never sees it.

        E <- W at first, then E + (W - E) / n after each step,   evaluated: (1 - a) W + a E, projected

    n: `--tail-ema-steps`; a: `--tail-ema-weight`. The projection makes unit vectors of the mixture, which are means on
    the sphere to first order.

    Source: modded-nanogpt, track 3, record 45 (Tail-EMA).
    """

    def __init__(self, optim: OptimConfig, parameters: Mapping[str, Tensor]) -> None:
        self.optim, self.parameters = optim, parameters
        self.tensors: dict[str, Tensor] = {}
        """E by name of the parameter; empty before its first step"""

    @property
    def begun(self) -> bool:
        """Return whether there is an average."""
        return bool(self.tensors)

    def begin(self) -> None:
        """Start the average at the present weights."""
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def forget(self) -> None:
        """Drop the average; the next step starts a new one."""
        self.tensors = {}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Add the present weights to the average if the last part has begun. progress: share of the run done."""
        if self.optim.tail_ema_steps is None or progress < self.optim.tail_ema_start:
            return
        if not self.tensors:
            self.begin()
        torch._foreach_lerp_(self._averages(), self._weights(), 1 / self.optim.tail_ema_steps)

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the weights by the mixture, if there is an average; the caller projects all of them next."""
        if self.tensors:
            torch._foreach_lerp_(self._weights(), self._averages(), self.optim.tail_ema_weight)

    @contextmanager
    def mixed(self) -> Iterator[None]:
        """Swap in the mixture, for the caller to project, then restore the weights bit for bit."""
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
