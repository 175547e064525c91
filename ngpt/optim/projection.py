"""Lazy projection: bring the weights back to the sphere every K steps, whichever optimizer moved them.

The whole policy: weights start on the sphere; they are projected after every K-th step, counted from the start of the
run; a validation sees them projected and leaves them as they were; after the last step they are projected. Skipped
steps count, so a resumed run projects at the same steps.

A geodesic step keeps its parameters on the sphere. They are projected at the start; after that only their drift is
measured. With another `--constraint`, hidden matrices start as unit vectors and are later rescaled whole or left alone.

The arch gated-literal follows the earlier attempt instead: weights start as they are drawn, and are projected after
step 1 and every K-th step from there. Only if an option of the step needs unit vectors, or weights come from another
run, does it start on the sphere.

Parameters may be sharded (DTensor). The length of a vector that is split over ranks is summed over them, so all ranks
call every method together.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor

from ngpt import kernels, sphere
from ngpt.config import Constraint
from ngpt.model.roles import ParameterSpec, Role
from ngpt.optim.sharded import local_of, splits_vectors, vector_lengths

Vectors = tuple[Role, Tensor, int]
"""Role of a parameter, the parameter, and the dimension of its unit vectors"""


class LazyProjection:
    """Projects every parameter that has a sphere axis and one of `roles`, along its own axis, every `every` steps.

    parameters, specs: by name. `LazyProjection.of(optimizer, every=7)` takes the parameters from the groups of an
    optimizer instead.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        specs: Mapping[str, ParameterSpec],
        *,
        every: int,
        first: int | None = None,
        roles: Collection[Role] = tuple(Role),
        constraint: Constraint = "vectors",
    ) -> None:
        """first: the first step after which weights are projected; None: the `every`-th.

        constraint: what is kept of the hidden matrices. Anything but "vectors" needs whole matrices.
        """
        self.every, self.first, self.constraint = every, every if first is None else first, constraint
        self.points: list[Vectors] = [
            (spec.role, parameter, spec.sphere_dim)
            for name, parameter in parameters.items()
            if (spec := specs[name]).sphere_dim is not None
        ]
        self.constrained = [point for point in self.points if constraint != "none" or point[0] != Role.HIDDEN]
        """Those of `points` that a projection acts on"""
        self.leaving = [point for point in self.constrained if point[0] in roles]
        """Those of `points` that a step moves off the sphere"""
        self.seen_drift: dict[Role, Tensor] = {}
        """`drift` just before the latest projection of `after_step` that was measured"""

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, *, every: int) -> Self:
        """Project the parameters in the groups of `optimizer` that have a `sphere_dim`, and bring them to the sphere.

        A group with `geodesic` stays on the sphere by itself and is only brought there now. Raises ValueError if
        `every` is no positive integer, or if no group has a `sphere_dim`.
        """
        if type(every) is not int or every < 1:
            raise ValueError(f"every must be a positive number of steps, not {every!r}")
        groups = [group for group in optimizer.param_groups if group.get("sphere_dim") is not None]
        if not groups:
            raise ValueError("there is nothing to project: no group of the optimizer has a sphere_dim")
        for group in groups:
            for parameter in group["params"]:
                if not -parameter.ndim <= group["sphere_dim"] < parameter.ndim:
                    shape, dim = tuple(parameter.shape), group["sphere_dim"]
                    raise ValueError(f"sphere_dim={dim} is no dimension of a parameter of shape {shape}")
        vectors = [(Role.HIDDEN, parameter, group) for group in groups for parameter in group["params"]]
        made = cls({}, {}, every=every)
        made.points = [(role, parameter, group["sphere_dim"]) for role, parameter, group in vectors]
        made.constrained = made.points
        made.leaving = [
            point for point, (*_, group) in zip(made.points, vectors, strict=True) if group.get("geodesic") is None
        ]
        made.start()
        return made

    def start(self) -> None:
        """Project all vectors in place, those included that steps keep on the sphere: a run starts on it."""
        _project(self.points)

    def project(self, *, all_of_them: bool = False) -> None:
        """Project now, in place; with `all_of_them`, also what steps keep on the sphere but something else may not."""
        points = self.constrained if all_of_them else self.leaving
        if self.constraint == "vectors":
            _project(points)
            return
        _project([point for point in points if point[0] != Role.HIDDEN])
        for role, W, dim in points:
            if role == Role.HIDDEN:
                rescale_(W, dim, self.constraint)

    def after_step(self, step: int, *, measure: bool = True) -> None:
        """Project if it is the turn of `step`, the number of steps made; with `measure`, keep the drift before it."""
        if step >= self.first and (step - self.first) % self.every == 0:
            if measure:
                self.seen_drift = self.drift()
            self.project()

    @contextmanager
    def projected(self, *, all_of_them: bool = False) -> Iterator[None]:
        """Hold the weights projected inside the context and restore them afterwards, to the bit."""
        points = self.constrained if all_of_them else self.leaving
        weights = [local_of(parameter).detach() for _, parameter, _ in points]
        kept = [weight.clone() for weight in weights]
        self.project(all_of_them=all_of_them)
        try:
            yield
        finally:
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)

    @torch.no_grad()
    def drift(self) -> dict[Role, Tensor]:
        """Return the largest | |w| - 1 | over the unit vectors of each role: how far off the sphere the weights are.

        For sharded parameters, over the vectors that this rank has at least a part of.
        """
        largest: dict[Role, list[Tensor]] = {}
        found = vector_lengths([(parameter, dim) for _, parameter, dim in self.points])
        for (role, *_), length in zip(self.points, found, strict=True):
            off = (length - 1).abs()
            largest.setdefault(role, []).append(off.max() if off.numel() else off.new_zeros(()))
        return {role: torch.stack(values).max() for role, values in largest.items()}


@torch.no_grad()
def rescale_(W: Tensor, dim: int, constraint: Constraint) -> None:
    """Scale a matrix of N vectors of n entries, in place, to the norm that its constraint sets.

    "frobenius": |W|_F = sqrt(N), that of unit vectors. "spectral": the largest singular value is 1 + sqrt(N / n), where
    that of random unit vectors lies for large N and n (Bai and Yin 1993). A zero matrix stays zero.
    """
    n = W.size(dim)
    N = W.numel() / n
    norm = torch.linalg.matrix_norm(W)
    if constraint == "frobenius" or not norm.isfinite():  # a decomposition would raise; the run is about to diverge
        W.mul_(N**0.5 * sphere.inverse(norm))
    else:
        W.mul_((1 + (N / n) ** 0.5) * sphere.inverse(torch.linalg.matrix_norm(W, 2)))


@torch.no_grad()
def _project(points: list[Vectors]) -> None:
    split = [(parameter, dim) for _, parameter, dim in points if splits_vectors(parameter, dim)]
    for _, parameter, dim in points:
        if not splits_vectors(parameter, dim):
            kernels.project_(local_of(parameter), dim=dim)
    for (parameter, _), length in zip(split, vector_lengths(split), strict=True):
        shard = local_of(parameter)
        shard.copy_(shard * sphere.inverse(length))
