"""Tangent updates and momentum transport: orthogonal where they must be, and equal to the oracle."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import EPS64, LAYOUTS, MATRICES, doubles, gradients, lengths, muon, order, points, tensors, trace, update
from oracles import optimizers as oracle
from oracles import sphere as sphere_oracle
from torch import Tensor

from ngpt import polar
from ngpt.optim import steps

Array = np.ndarray
HOW: list[Any] = ["project", "parallel", "rotate"]
transport = steps.transport
Transport = Callable[..., Tensor]


# --- tangent updates -------------------------------------------------------------------------------------------------


def along(x: Array, v: Array, dim: int) -> float:
    """Return the largest cosine between a vector of x and its v."""
    return float(np.abs((sphere_oracle.project(x, dim) * sphere_oracle.project(v, dim)).sum(dim)).max())


@pytest.mark.parametrize("drifted", [1.0, 1.5])
@pytest.mark.parametrize("tangent", ["none", "before", "after", "both"])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_input_and_update_lose_their_part_along_the_vectors(
    shape: tuple[int, int], dim: int, tangent: str, drifted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds where the weights have drifted off the sphere."""
    W = points(shape, dim)
    W = W * np.random.default_rng(4).uniform(1 / drifted, drifted, lengths(W, dim).shape)
    given = gradients(shape, 3)
    inputs: list[Array] = []
    orthogonalize = polar.orthogonalize

    def watched(G: Tensor, **options: Any) -> Tensor:
        inputs.append(G.numpy()[0].copy())
        return orthogonalize(G, **options)

    monkeypatch.setattr(polar, "orthogonalize", watched)
    after = trace(W, given, dim, tangent=tangent, lr=0.1, momentum=0.9)
    for before, X, got in zip([W, *after[:-1]], inputs, after, strict=True):
        # 1e-3: two random directions of 12 dimensions are not orthogonal; 64: the quotient with a step of 0.1
        assert (along(before, X, dim) < 16 * EPS64) == (tangent in ("before", "both"))
        assert (along(before, X, dim) > 1e-3) == (tangent in ("none", "after"))
        assert (along(before, got - before, dim) < 64 * EPS64) == (tangent in ("after", "both"))
        assert (along(before, got - before, dim) > 1e-3) == (tangent in ("none", "before"))


@pytest.mark.parametrize("tangent", ["before", "after", "both"])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_tangent_update_is_the_oracles(shape: tuple[int, int], dim: int, tangent: Any) -> None:
    """Along the other axis it does not match."""
    W = points(shape, dim)
    given = gradients(shape, 3)
    rule: dict[str, Any] = {"tangent": tangent, "lr": 0.1, "momentum": 0.9}
    want = oracle.sphere_muon(W, given, dim=dim, orthogonalize=oracle.polar_exact, **rule)[-1][0]
    np.testing.assert_allclose(trace(W, given, dim, **rule)[-1], want, rtol=0, atol=64 * EPS64)
    assert np.abs(trace(W, given, -1 - dim, **rule)[-1] - want).max() > 1e-3


# --- transport -------------------------------------------------------------------------------------------------------


def moved_weights(shape: tuple[int, ...], dim: int, theta: float, drifted: float = 1.0) -> tuple[Array, Array, Array]:
    """Return weights, weights rotated by up to theta, both off the sphere, and a momentum."""
    x = points(shape, dim)
    rng = np.random.default_rng(7)
    y = oracle.geodesic_step(x, update(x, dim, radial=0.0), theta, "lr-norm", dim)
    far, further = (rng.uniform(1 / drifted, drifted, lengths(x, dim).shape) for _ in range(2))
    return far * x, further * y, 3 * rng.normal(size=shape)


def agrees(move: Transport, shape: tuple[int, ...], dim: int, how: str, theta: float, dtype: torch.dtype) -> bool:
    """Return whether the momentum matches the oracle, with and without drifted weights."""
    eps = torch.finfo(dtype).eps
    nearly_opposite = 1 / np.sin(theta) if theta > np.pi / 2 else 1.0  # then y says as much less of the direction
    for drifted in (1.0, 1.5):
        x, y, M = moved_weights(shape, dim, theta, drifted)
        W, W_next, buffer = tensors(dtype, x, y, M)
        (got,) = doubles(move(buffer, W, W_next, how, dim=dim))
        want = oracle.carried(*doubles(buffer, W, W_next), how, dim)
        # a few roundings of |M|; the direction of a small rotation is known to eps / theta, and enters times theta
        if not (lengths(got - want, dim) <= 16 * eps * nearly_opposite * lengths(M, dim)).all():
            return False
    return True


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("theta", [1e-6, 1e-3, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_agrees_with_the_oracle(shape: tuple[int, ...], dim: int, how: str, theta: float, dtype: torch.dtype) -> None:
    assert agrees(transport, shape, dim, how, theta, dtype)


def backwards(M: Tensor, W: Tensor, W_next: Tensor, how: Any, *, dim: int) -> Tensor:
    return transport(M, W_next, W, how, dim=dim)


def wrong_axis(M: Tensor, W: Tensor, W_next: Tensor, how: Any, *, dim: int) -> Tensor:
    return transport(M, W, W_next, how, dim=-3 - dim)


def idle(M: Tensor, W: Tensor, W_next: Tensor, how: Any, *, dim: int) -> Tensor:
    return M


def at_the_old_place(M: Tensor, W: Tensor, W_next: Tensor, how: Any, *, dim: int) -> Tensor:
    return transport(M, W, W, how, dim=dim)


def another_kind(M: Tensor, W: Tensor, W_next: Tensor, how: Any, *, dim: int) -> Tensor:
    return transport(M, W, W_next, HOW[HOW.index(how) - 1], dim=dim)


@pytest.mark.parametrize("mutation", [backwards, wrong_axis, idle, at_the_old_place, another_kind])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_a_wrong_transport_is_rejected(shape: tuple[int, ...], dim: int, how: str, mutation: Transport) -> None:
    for theta in (1e-3, 0.1, 1.0):
        assert not agrees(mutation, shape, dim, how, theta, torch.float32)


@pytest.mark.parametrize("theta", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_the_laws_of_transport(shape: tuple[int, ...], dim: int, theta: float) -> None:
    x, y, M = moved_weights(shape, dim, theta)
    N = np.random.default_rng(8).normal(size=shape)
    tangents = [sphere_oracle.tangent(x, v, dim) for v in (M, N)]
    given = tensors(torch.float64, x, y)
    by = {how: doubles(*(transport(v, *given, how, dim=dim) for v in tensors(torch.float64, M, N))) for how in HOW}
    largest = float(np.abs(M).max() * np.abs(N).max() * shape[dim])
    for how in ("project", "parallel"):
        for v in by[how]:
            np.testing.assert_allclose((v * y).sum(dim), 0.0, atol=16 * EPS64 * np.abs(v).max() * shape[dim])
    for how, kept in (("parallel", tangents), ("rotate", [M, N])):
        for a, b in ((0, 1), (0, 0)):
            inner, before = (by[how][a] * by[how][b]).sum(dim), (kept[a] * kept[b]).sum(dim)
            np.testing.assert_allclose(inner, before, atol=16 * EPS64 * largest)
    np.testing.assert_allclose((by["rotate"][0] * y).sum(dim), (M * x).sum(dim), atol=16 * EPS64 * largest)
    if theta == 0.0:
        np.testing.assert_allclose(by["rotate"][0], M, atol=8 * EPS64 * np.abs(M).max())
        for how in ("project", "parallel"):
            np.testing.assert_allclose(by[how][0], tangents[0], atol=8 * EPS64 * np.abs(M).max())


@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_of_a_tangent_momentum_projection_and_parallel_transport_differ_to_second_order(
    shape: tuple[int, ...], dim: int
) -> None:
    """The difference is |<e, v>| theta^2 / 2, e the direction of motion; otherwise first order, by the part along x."""
    x = points(shape, dim)
    e = sphere_oracle.project(update(x, dim, radial=0.0), dim)
    v = sphere_oracle.tangent(x, np.random.default_rng(8).normal(size=shape), dim)
    thetas = 2.0 ** -np.arange(4.0, 10.0)
    leading = float(np.abs((e * v).sum(dim)).max())
    for momentum, expected, constant in ((v, 2, leading / 2), (v + x, 1, 1.0)):
        errors = []
        for theta in thetas:
            y = sphere_oracle.exp(x, theta * e, dim)
            parallel, projected = (
                transport(*tensors(torch.float64, momentum, x, y), how, dim=dim).numpy() for how in HOW[1::-1]
            )
            errors.append(lengths(parallel - projected, dim).max())
        slope, found = order(list(thetas), errors)
        assert slope == pytest.approx(expected, abs=0.1)
        assert expected == 1 or found == pytest.approx(constant, rel=0.1)


@pytest.mark.parametrize("options", [{}, {"geodesic": "lr"}, {"geodesic": "lr-norm"}, {"tangent": "after"}], ids=str)
@pytest.mark.parametrize("how", ["none", *HOW])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_the_momentum_of_simple_muon_is_carried_along(
    shape: tuple[int, int], dim: int, how: Any, options: dict[str, Any]
) -> None:
    given = gradients(shape, 4)
    rule: dict[str, Any] = {"momentum": 0.9, "lr": 0.2, "momentum_transport": how, **options}
    parameter, optimizer = muon(points(shape, dim), dim, **rule)
    want = oracle.sphere_muon(points(shape, dim), given, dim=dim, orthogonalize=oracle.polar_exact, **rule)
    for G, (W_want, M_want) in zip(given, want, strict=True):
        parameter.grad = torch.tensor(G)
        optimizer.step()
        buffer = optimizer.state[parameter]["momentum_buffer"]
        for got, wanted in ((parameter.detach(), W_want), (buffer, M_want)):
            np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=256 * EPS64)
    assert torch.equal(parameter.grad, torch.tensor(given[-1])), "the gradient is not carried"
