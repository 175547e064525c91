"""`match_step`: equal step sizes for every orthogonalizer, by the norm of the update or by the mean rotation."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import EPS16, EPS32, EPS64, LAYOUTS, MATRICES, doubles, lengths, order, points, tensors, trace, update
from oracles import sphere as oracle
from torch import Tensor

from ngpt import polar, sphere
from ngpt.optim import steps

Array = np.ndarray
METHODS: list[Any] = ["newton-schulz-cubic", "newton-schulz", "you", "polar-express", "svd"]
match_angle, match_rms = steps.match_angle, steps.match_rms


# --- the norm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(5, 48), (48, 5), (12, 12), (3, 8, 20), (243, 768)], ids=str)
def test_rms_gives_the_norm_of_a_polar_factor(shape: tuple[int, ...], method: Any, dtype: torch.dtype) -> None:
    G = torch.tensor(np.random.default_rng(0).normal(size=shape))
    O = polar.orthogonalize(G, method=method, steps=5, dtype=dtype)
    matched = match_rms(O)
    target = math.sqrt(min(shape[-2:]))
    norms = np.linalg.norm(doubles(matched)[0], axis=(-2, -1))
    np.testing.assert_allclose(norms, target, rtol=16 * EPS64 if dtype == torch.float64 else 4 * EPS32)
    cosine = (matched.double() * O.double()).sum() / (matched.double().norm() * O.double().norm())
    if len(shape) == 2:
        assert cosine > 1 - EPS16**2, "only the length changes"
    if method == "newton-schulz-cubic" and shape == (243, 768):
        assert np.linalg.norm(doubles(O)[0]) < 0.7 * target, "the contrast"


def test_rms_leaves_a_zero_matrix() -> None:
    O = torch.zeros(2, 3, 4)
    O[1] = 1.0
    assert torch.equal(match_rms(O)[0], O[0]) and match_rms(O)[1].norm().item() == pytest.approx(math.sqrt(3))
    assert torch.equal(match_angle(torch.ones(2, 3, 4), 0 * O, dim=-1), 0 * O)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_step_matched_by_its_norm(shape: tuple[int, int], dim: int, method: Any) -> None:
    W, G = points(shape, dim), np.random.default_rng(3).normal(size=shape)
    for lr in (0.01, 0.1):
        (after,) = trace(W, [G], dim, match_step="rms", orthogonalizer=method, lr=lr)
        assert np.linalg.norm(after - W) == pytest.approx(lr * math.sqrt(min(shape)), rel=1e-12)


# --- the rotation ----------------------------------------------------------------------------------------------------


def mean_rotation(W: Array, after: Array, dim: int) -> float:
    return float(oracle.angle(*(oracle.project(weights, dim) for weights in (W, after)), dim).mean())


def exact(shape: tuple[int, int], dim: int) -> bool:
    """Return whether the mean rotation of a geodesic step of angle lr |u| is lr, for every shape factor."""
    W, G = points(shape, dim), np.random.default_rng(3).normal(size=shape)
    return all(
        abs(mean_rotation(W, trace(W, [G], dim, lr=lr, **options, geodesic="lr-norm", match_step="angle")[0], dim) - lr)
        < 1e-12 * lr
        for lr in (1e-3, 0.3)
        for options in ROTATING
    )


ROTATING: list[dict[str, Any]] = [
    {"orthogonalizer": "newton-schulz-cubic"},
    {"adjust_lr_fn": "original"},
    {"adjust_lr_fn": "match_rms_adamw", "orthogonalizer": "newton-schulz"},
    {"normuon": "rows", "tangent": "before"},
    {"normuon": "short-axis"},
]


@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_angle_is_the_mean_rotation_of_a_geodesic_step(shape: tuple[int, int], dim: int) -> None:
    assert exact(shape, dim)


def errors_of_linear_steps(shape: tuple[int, int], dim: int, rates: Array, tangent: str, drifted: float) -> list[float]:
    """Return | mean rotation / lr - 1 | for weights whose lengths lie between 1 / drifted and drifted."""
    W, G = points(shape, dim), np.random.default_rng(3).normal(size=shape)
    W = W * np.random.default_rng(4).uniform(1 / drifted, drifted, lengths(W, dim).shape)
    options: dict[str, Any] = {"match_step": "angle", "tangent": tangent, "adjust_lr_fn": "original"}
    return [abs(mean_rotation(W, trace(W, [G], dim, lr=lr, **options)[0], dim) / lr - 1) for lr in rates]


@pytest.mark.parametrize("drifted", [1.0, 1.5])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_angle_is_the_mean_rotation_of_a_linear_step_to_first_order(
    shape: tuple[int, int], dim: int, drifted: float
) -> None:
    """The relative error is of order lr; for a tangent update it is atan(lr) / lr - 1, of order lr^2."""
    rates = 2.0 ** -np.arange(8.0, 13.0)
    for tangent, expected in (("none", 1), ("after", 2)):
        errors = errors_of_linear_steps(shape, dim, rates, tangent, drifted)
        assert errors[0] < 0.02
        assert order(list(rates), errors)[0] == pytest.approx(expected, abs=0.1), tangent


def without_the_length_of_w(W: Tensor, O: Tensor, *, dim: int) -> Tensor:
    turn = sphere.norm(sphere.tangent(W, O, dim=dim), dim=dim)
    return O / turn.mean(dim=(-2, -1), keepdim=True)


def without_the_tangent(W: Tensor, O: Tensor, *, dim: int) -> Tensor:
    turn = sphere.norm(O, dim=dim) / sphere.norm(W, dim=dim)
    return O / turn.mean(dim=(-2, -1), keepdim=True)


def by_the_root_mean_square(W: Tensor, O: Tensor, *, dim: int) -> Tensor:
    turn = sphere.norm(sphere.tangent(W, O, dim=dim), dim=dim) / sphere.norm(W, dim=dim)
    return O / turn.square().mean(dim=(-2, -1), keepdim=True).sqrt()


def every_vector(W: Tensor, O: Tensor, *, dim: int) -> Tensor:
    return sphere.project(O, dim=dim)


def wrong_axis(W: Tensor, O: Tensor, *, dim: int) -> Tensor:
    return match_angle(W, O, dim=-3 - dim)


Matching = Callable[..., Tensor]


@pytest.mark.parametrize("mutation", [without_the_tangent, by_the_root_mean_square, every_vector, wrong_axis])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_wrong_rotation_is_rejected(
    shape: tuple[int, int], dim: int, mutation: Matching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "match_angle", mutation)
    assert not exact(shape, dim)


@pytest.mark.parametrize("mutation", [without_the_length_of_w, without_the_tangent, every_vector, wrong_axis])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_wrong_rotation_of_drifted_weights_is_rejected(
    shape: tuple[int, int], dim: int, mutation: Matching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "match_angle", mutation)
    rates = 2.0 ** -np.arange(8.0, 13.0)
    assert errors_of_linear_steps(shape, dim, rates, "none", 1.5)[-1] > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_every_matrix_of_a_stack_has_its_own_rotation(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    W, O = tensors(torch.float32, points(shape, dim), update(points(shape, dim), dim))
    O = (O * torch.linspace(0.1, 3, O.numel() // O[..., :, :].size(-1) // O.size(-2)).reshape(-1, 1, 1)).reshape(shape)
    matched = match_angle(W, O.to(dtype), dim=dim)
    u = oracle.tangent(oracle.project(doubles(W)[0], dim), doubles(matched)[0], dim)
    np.testing.assert_allclose(lengths(u, dim).mean(axis=(-2, -1)), 1.0, rtol=16 * EPS32)
