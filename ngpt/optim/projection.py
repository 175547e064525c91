"""Lazy projection: bring the weights back to the sphere every K steps, whichever optimizer moved them.

The policy, in full: weights start on the sphere; after every K-th step counted from the start of the run they are
projected; a validation sees them projected and leaves them untouched; after the last step they are projected. The
phase is the number of steps, skipped ones included, so a resumed run projects at the same steps.

Parameters that a geodesic step moves do not leave the sphere. After the start they are never projected, only watched.

Parameters may lie in shards (DTensor); the length of a vector that is cut is summed over the ranks, which then call
every method together.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ngpt import kernels, sphere
from ngpt.model.roles import ParameterSpec, Role
from ngpt.optim.sharded import cuts_vectors, lengths, local_of


class LazyProjection:
    """Projects every one of `parameters` that has a sphere axis and one of `roles`, each along its own axis."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        specs: Mapping[str, ParameterSpec],
        *,
        every: int,
        roles: Collection[Role] = tuple(Role),
    ) -> None:
        self.every = every
        self.points: list[tuple[Role, Tensor, int]] = [
            (spec.role, parameter, spec.sphere_dim)
            for name, parameter in parameters.items()
            if (spec := specs[name]).sphere_dim is not None
        ]
        self.leaving = [point for point in self.points if point[0] in roles]
        """Those of `points` that steps move off the sphere"""
        self.seen_drift: dict[Role, Tensor] = {}
        """`drift` when the latest measured projection of `after_step` came, just before it"""

    def start(self) -> None:
        """Bring all parameters to the sphere, those that steps will keep there too. In place."""
        _project(self.points)

    def project(self) -> None:
        """Project now, in place."""
        _project(self.leaving)

    def after_step(self, step: int, *, measure: bool = True) -> None:
        """Project if `step`, the number of steps made, is a multiple of K; see the drift first if `measure`."""
        if step % self.every == 0:
            if measure:
                self.seen_drift = self.drift()
            self.project()

    @contextmanager
    def projected(self) -> Iterator[None]:
        """Inside, the weights are projected; afterwards they are what they were, to the bit."""
        weights = [local_of(parameter).detach() for _, parameter, _ in self.leaving]
        kept = [weight.clone() for weight in weights]
        self.project()
        try:
            yield
        finally:
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)

    @torch.no_grad()
    def drift(self) -> dict[Role, Tensor]:
        """Largest | |w| - 1 | over the unit vectors of each role: how far the weights are off the sphere now.

        Of sharded parameters, over those that are on this rank at least in part.
        """
        largest: dict[Role, list[Tensor]] = {}
        found = lengths([(parameter, dim) for _, parameter, dim in self.points])
        for (role, *_), length in zip(self.points, found, strict=True):
            off = (length - 1).abs()
            largest.setdefault(role, []).append(off.max() if off.numel() else off.new_zeros(()))
        return {role: torch.stack(values).max() for role, values in largest.items()}


@torch.no_grad()
def _project(points: list[tuple[Role, Tensor, int]]) -> None:
    cut = [(parameter, dim) for _, parameter, dim in points if cuts_vectors(parameter, dim)]
    for _, parameter, dim in points:
        if not cuts_vectors(parameter, dim):
            here = local_of(parameter)
            kernels.elementwise(here, here.size(dim)).project_(here, dim=dim)
    for (parameter, _), length in zip(cut, lengths(cut), strict=True):
        here = local_of(parameter)
        here.copy_(here * sphere.inverse(length))
