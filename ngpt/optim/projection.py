"""Lazy projection: bring the weights back to the sphere every K steps, whichever optimizer moved them.

The policy, in full: weights start on the sphere; after every K-th step counted from the start of the run they are
projected; a validation sees them projected and leaves them untouched; after the last step they are projected. The
phase is the number of steps, so a resumed run projects at the same steps.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ngpt import sphere
from ngpt.model.roles import ParameterSpec


class LazyProjection:
    """Projects every parameter that has a sphere axis, each along its own."""

    def __init__(self, model: nn.Module, specs: Mapping[str, ParameterSpec], *, every: int) -> None:
        self.every = every
        self.points: list[tuple[str, Tensor, int]] = [
            (name, parameter, spec.sphere_dim)
            for name, parameter in model.named_parameters()
            if (spec := specs[name]).sphere_dim is not None
        ]
        self.removed_drift: Tensor | None = None
        """`drift` just before the latest projection of `after_step`"""

    def after_step(self, step: int) -> None:
        """Project if `step`, the number of steps made, is a multiple of K."""
        if step % self.every == 0:
            self.removed_drift = self._drift()
            self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Project now, in place."""
        for _, parameter, dim in self.points:
            parameter.copy_(sphere.project(parameter, dim=dim))

    @contextmanager
    def projected(self) -> Iterator[None]:
        """Inside, the weights are projected; afterwards they are what they were, to the bit."""
        kept = [parameter.detach().clone() for _, parameter, _ in self.points]
        self.project()
        try:
            yield
        finally:
            with torch.no_grad():
                for (_, parameter, _), weight in zip(self.points, kept, strict=True):
                    parameter.copy_(weight)

    def drift(self) -> float:
        """Largest | |w| - 1 | over all unit vectors: how far the weights are off the sphere now."""
        drift = self._drift()
        return 0.0 if drift is None else drift.item()

    @torch.no_grad()
    def _drift(self) -> Tensor | None:
        if not self.points:
            return None
        return torch.stack([(sphere.norm(w, dim=dim) - 1).abs().max() for _, w, dim in self.points]).max()
