"""`--constraint`: what projection keeps of the hidden matrices instead of unit vectors."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from ngpt.config import OptimConfig
from ngpt.errors import InputError
from ngpt.model import build_model
from ngpt.model.roles import Role
from ngpt.optim.build import Optimizers, build_optimizers
from ngpt.optim.projection import rescale_
from ngpt.presets import resolve


def built(constraint: str, **fields: Any) -> Optimizers:
    """Return the optimizers of a small model."""
    config = resolve("tiny", n_layer=1, n_embd=12, n_head=2, seq_len=8, constraint=constraint, **fields)
    return build_optimizers(build_model(config.model, 17, seed=0), config)


def grown(optimizers: Optimizers, seed: int = 0) -> None:
    """Move every parameter off its sphere."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, W, _ in optimizers.projection.points:
            W.mul_(1 + 0.5 * torch.rand(W.shape, generator=draw))


def shape_of(constraint: str, W: torch.Tensor, dim: int) -> tuple[float, float]:
    """Return the norm of a constraint and what it should be, by numpy."""
    array = W.detach().double().numpy()
    D = array.shape[dim]
    N = array.size / D
    if constraint == "frobenius":
        return float(np.sqrt((array**2).sum())), math.sqrt(N)
    return float(np.linalg.svd(array, compute_uv=False)[0]), 1 + math.sqrt(N / D)


@pytest.mark.parametrize("constraint", ["frobenius", "spectral"])
def test_projection_scales_each_hidden_matrix_as_a_whole(constraint: str) -> None:
    optimizers = built(constraint)
    grown(optimizers)
    before = [W.detach().clone() for _, W, _ in optimizers.projection.points]
    optimizers.projection.project()
    for (role, W, dim), old in zip(optimizers.projection.points, before, strict=True):
        if role == Role.HIDDEN:
            norm, want = shape_of(constraint, W, dim)
            assert norm == pytest.approx(want, rel=1e-6)
            assert (W / old).std() < 1e-6 * (W / old).mean(), "one factor for all entries"
            assert (W.norm(dim=dim) - 1).abs().max() > 0.01, "single vectors are free"
        else:
            assert (W.norm(dim=dim) - 1).abs().max() < 1e-6, "embedding and head keep unit vectors"


def test_none_leaves_hidden_matrices_alone() -> None:
    optimizers = built("none", lazy_proj_freq=1)
    grown(optimizers)
    before = {W: W.detach().clone() for _, W, _ in optimizers.projection.points}
    optimizers.projection.after_step(1)
    optimizers.projection.project()
    with optimizers.projection.projected():
        pass
    for role, W, _ in optimizers.projection.points:
        assert W.equal(before[W]) == (role == Role.HIDDEN)
    drift = optimizers.projection.seen_drift
    assert drift[Role.HIDDEN] > 0.2, "how far its vectors are from unit length is measured all the same"


def test_validation_sees_the_constraint_and_leaves_the_weights() -> None:
    optimizers = built("frobenius")
    grown(optimizers)
    before = {W: W.detach().clone() for _, W, _ in optimizers.projection.points}
    with optimizers.projection.projected():
        for role, W, dim in optimizers.projection.points:
            if role == Role.HIDDEN:
                assert shape_of("frobenius", W, dim)[0] == pytest.approx(shape_of("frobenius", W, dim)[1], rel=1e-6)
    assert all(W.equal(old) for W, old in before.items())


def test_random_unit_vectors_have_about_the_norms_of_the_constraints() -> None:
    for shape, dim in (((400, 150), -1), ((150, 400), -1), ((400, 150), 0), ((200, 200), -1)):
        W = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        W /= W.norm(dim=dim, keepdim=True)
        for constraint, tolerance in (("frobenius", 1e-5), ("spectral", 0.03)):
            norm, want = shape_of(constraint, W, dim)
            assert norm == pytest.approx(want, rel=tolerance)


def test_a_zero_matrix_stays_zero() -> None:
    for constraint in ("frobenius", "spectral"):
        W = torch.zeros(3, 4)
        rescale_(W, -1, constraint)  # type: ignore[arg-type]
        assert W.equal(torch.zeros(3, 4))


@pytest.mark.parametrize("constraint", ["frobenius", "spectral"])
def test_weights_that_are_not_finite_raise_nothing(constraint: Any) -> None:
    """The run then diverges or falls back, as it does without projection."""
    for broken in (math.nan, math.inf):
        W = torch.ones(4, 3)
        W[0, 0] = broken
        rescale_(W, -1, constraint)
        assert not W.isfinite().all()


def test_the_earlier_attempts_model_starts_with_unit_vectors_too() -> None:
    optimizers = built("none", arch="gated-literal")
    for _, W, dim in optimizers.projection.points:
        assert (W.detach().norm(dim=dim) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("mode", ["lr", "lr-norm"])
def test_beside_a_step_that_keeps_unit_vectors_it_is_refused(mode: Any) -> None:
    with pytest.raises(InputError, match="--constraint none has no effect with --geodesic-muon"):
        OptimConfig(geodesic_muon=mode, constraint="none")
    with pytest.raises(InputError, match="--constraint has no effect with --arch gpt"):
        resolve(arch="gpt", constraint="none")
