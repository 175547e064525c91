"""The geodesic step: equal to the float64 oracle per vector, always on the sphere, the limit of projected steps."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import EPS32, EPS64, LAYOUTS, MATRICES, PLAIN, doubles, lengths, order, points, tensors, trace, update
from oracles import optimizers as oracle
from oracles import sphere as sphere_oracle
from torch import Tensor, nn

from ngpt import sphere
from ngpt.optim import steps
from ngpt.optim.muon import SimpleMuon

Array = np.ndarray
Move = Callable[..., Tensor]
MODES = ["lr", "lr-norm"]
THETAS = [1e-6, 1e-3, 0.01, 0.1, 1.0, math.pi / 2]
geodesic_move = steps.geodesic_move


# --- the oracle ------------------------------------------------------------------------------------------------------

NEAR = {torch.float32: 3e-7, torch.float64: 8 * EPS64}
"""Euclidean distance of a new unit vector from the oracle's."""

STORED = EPS32 / 2
"""Entries are stored to half a unit in the last place; a stored unit vector is off by at most this much"""


def agrees(move: Move, shape: tuple[int, ...], dim: int, mode: str, theta: float, dtype: torch.dtype) -> bool:
    """Return whether every vector lands where the oracle's does, with the same direction and angle of motion.

    The displacement, of length theta, is measured from N(w): a stored w is off the sphere by its rounding, which a step
    removes. From 0.01 radians on, direction and angle may be off by 1e-5. Below that, storage matters more: the angle
    may be off by STORED / theta, and the direction by twice that, as |w| itself is known only to EPS32 / 2.
    """
    W, O = tensors(dtype, points(shape, dim), update(points(shape, dim), dim))
    W_64, O_64 = doubles(W, O)
    before = sphere_oracle.project(W_64, dim)
    (got,) = doubles(move(W, O, theta, mode, dim=dim))
    want = oracle.geodesic_step(before, -O_64, theta, mode, dim)
    moved, wanted = got - before, want - before
    turned, turn = (
        np.expand_dims(sphere_oracle.angle(before, sphere_oracle.project(after, dim), dim), dim)
        for after in (got, want)
    )
    if dtype == torch.float32:
        allowed = np.where(turn >= 0.01, 1e-5, STORED / turn)
    else:
        allowed = 4 * EPS64 / turn + 4 * EPS64  # the oracle's rounding as well
    with np.errstate(invalid="ignore"):  # a mutation may leave a vector
        direction = lengths(moved / lengths(moved, dim) - wanted / lengths(wanted, dim), dim)
    return bool(
        lengths(got - want, dim).max() <= NEAR[dtype]
        and (direction <= np.where(turn >= 0.01, allowed, 2 * allowed)).all()
        and (np.abs(turned / turn - 1) <= allowed).all()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_every_vector_turns_as_the_oracles(
    shape: tuple[int, ...], dim: int, mode: str, theta: float, dtype: torch.dtype
) -> None:
    assert agrees(geodesic_move, shape, dim, mode, theta, dtype)


def flipped(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    return geodesic_move(W, -O, lr, mode, dim=dim)


def thirty_times(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    return geodesic_move(W, O, 30 * lr, mode, dim=dim)


def random_direction(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    noise = torch.randn(O.shape, dtype=O.dtype, generator=torch.Generator().manual_seed(0))
    u = sphere.tangent(W, O, dim=dim)
    v = sphere.project(sphere.tangent(W, noise, dim=dim), dim=dim)
    return geodesic_move(W, sphere.norm(u, dim=dim) * v, lr, mode, dim=dim)


def wrong_axis(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    return geodesic_move(W, O, lr, mode, dim=-3 - dim)


def no_tangent(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    theta = lr if mode == "lr" else lr * sphere.norm(O, dim=dim)
    return sphere.geodesic(W, -O, theta, dim=dim)


def angle_of_the_whole_update(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    theta = lr * (1.0 if mode == "lr" else sphere.norm(O, dim=dim))
    return sphere.geodesic(W, -sphere.tangent(W, O, dim=dim), theta, dim=dim)


def angle_of_the_matrix(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    u = sphere.tangent(W, -O, dim=dim)
    return sphere.geodesic(W, u, lr * torch.linalg.matrix_norm(u, keepdim=True), dim=dim)


def other_mode(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    return geodesic_move(W, O, lr, "lr" if mode == "lr-norm" else "lr-norm", dim=dim)


def straight(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    u = sphere.tangent(W, O, dim=dim)
    return W - lr * (sphere.project(u, dim=dim) if mode == "lr" else u)


MUTATIONS = [flipped, thirty_times, random_direction, wrong_axis, no_tangent, angle_of_the_whole_update,
             angle_of_the_matrix, other_mode, straight]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_a_wrong_step_is_rejected(shape: tuple[int, ...], dim: int, mutation: Move, mode: str) -> None:
    if mutation is angle_of_the_whole_update and mode == "lr":
        return  # then it is none
    # a straight step leaves the sphere by theta^2 / 2 only, and its angle by theta^3 / 3
    for theta in (0.1, 1.0) if mutation is straight else (1e-6, 0.1, math.pi / 2):
        assert not agrees(mutation, shape, dim, mode, theta, torch.float32), theta


# --- no direction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 1.0, -1.0, 1e-3, -7.3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_an_update_without_tangent_leaves_the_weights_to_the_bit(
    shape: tuple[int, ...], dim: int, mode: Any, dtype: torch.dtype, factor: float
) -> None:
    (W,) = tensors(dtype, points(shape, dim))
    assert torch.equal(geodesic_move(W, factor * W, 0.3, mode, dim=dim), W)


@pytest.mark.parametrize("share", [1e-2, 1e-4])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_a_small_tangent_beside_a_large_radial_part_is_a_direction(
    shape: tuple[int, ...], dim: int, mode: str, share: float
) -> None:
    """It is known to a few roundings of the whole direction; its vector stays on the sphere like any other."""
    W = points(shape, dim)
    W_32, O_32 = tensors(torch.float32, W, W + share * update(W, dim, radial=0.0))
    before, O_64 = doubles(W_32, O_32)
    lr = 0.3 if mode == "lr" else 0.3 / share
    (got,) = doubles(geodesic_move(W_32, O_32, lr, mode, dim=dim))
    want = oracle.geodesic_step(sphere_oracle.project(before, dim), -O_64, lr, mode, dim)
    # 8 roundings of |D| = 1 beside the shortest tangent, a quarter of `share`
    assert lengths(got - want, dim).max() < 8 * EPS32 / (share / 4)
    assert np.abs(lengths(got, dim) - 1).max() < 4 * EPS32


def test_without_its_threshold_rounding_would_be_a_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    (W,) = tensors(torch.float32, points((48, 48), -1))
    monkeypatch.setattr(sphere, "NOISE", 0.0)
    moved = geodesic_move(W, -7.3 * W, 0.3, "lr", dim=-1)
    assert sphere.angle(W, moved, dim=-1).max() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_zero_gradient_with_zero_momentum_moves_nothing(shape: tuple[int, int], dim: int, mode: str) -> None:
    options: dict[str, Any] = {"dtype": torch.float32, "geodesic": mode, "lr": 0.3, "momentum": 0.95}
    for more in ({}, {"weight_decay": 0.5, "cautious_wd": True}, {"normuon": "rows"}, {"tangent": "before"}):
        (before,) = doubles(*tensors(torch.float32, points(shape, dim)))
        for after in trace(before, [0 * before] * 2, dim, **options, **more):
            np.testing.assert_array_equal(after, before, err_msg=str(more))


# --- descent ---------------------------------------------------------------------------------------------------------


def loss_of(W: Tensor) -> Tensor:
    """Return a smooth loss that is neither linear nor a function of the lengths alone."""
    T = torch.tensor(np.random.default_rng(5).normal(size=(7, *W.shape)), dtype=W.dtype)
    return torch.logsumexp((T * W).sum((-2, -1)), 0) + (T[0] * W**2).sum() / 3


@pytest.mark.parametrize("tangent", ["none", "before"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_smooth_loss_falls_by_the_predicted_amount(shape: tuple[int, int], dim: int, mode: str, tangent: Any) -> None:
    """sum of theta_i <g_i, e_i>, e_i the unit tangent of descent of vector i."""
    W, lr = points(shape, dim), 1e-4
    parameter = nn.Parameter(torch.tensor(W))
    optimizer = SimpleMuon(
        [parameter], lr=lr, geodesic=mode, tangent=tangent, sphere_dim=dim, polar_dtype=torch.float64, **PLAIN
    )
    loss = loss_of(parameter)
    loss.backward()
    assert parameter.grad is not None
    G = parameter.grad.numpy().copy()
    optimizer.step()
    change = (loss_of(parameter) - loss).item()
    used = sphere_oracle.tangent(W, G, dim) if tangent == "before" else G
    u = sphere_oracle.tangent(W, -oracle.polar_exact(used), dim)
    theta = lr if mode == "lr" else lr * lengths(u, dim)
    predicted = float((theta * G * u / lengths(u, dim)).sum())
    assert predicted < 0 and change == pytest.approx(predicted, rel=0.01)  # the second order is lr, 1e-4
    if tangent == "before" and mode == "lr-norm":  # then it is descent whatever the gradient
        assert predicted == pytest.approx(-lr * np.linalg.svd(used, compute_uv=False).sum(), rel=1e-12)


# --- on the sphere for ever ------------------------------------------------------------------------------------------

COUNT = 10_000
KINDS = {
    "tangent": (0.0, False), "inwards": (-1.0, False), "outwards": (1.0, False), "far inwards": (-1e3, False),
    "far outwards": (1e3, False), "one direction": (0.0, True),
}  # fmt: skip
"""Radial part of the direction beside a tangent of length 1; whether the direction is the same at every step.

To one direction the weights converge, so that it is radial up to a theta. Beside 1e3 a tangent is known to 1e-4 only,
part of it radial: taken as it is, it would lengthen w by as much."""


def largest_drift(lr: float, mode: Any, dim: int, *, move: Move = geodesic_move, count: int = COUNT) -> float:
    """Return the largest | |w| - 1 | over `count` steps in float32, for all kinds of direction at once."""
    radial = torch.tensor([kind[0] for kind in KINDS.values()]).reshape(-1, 1, 1)
    fixed = torch.tensor([kind[1] for kind in KINDS.values()]).reshape(-1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    shape = (len(KINDS), 4, 6)
    bank = torch.randn((100, *shape), generator=generator) / math.sqrt(shape[dim] - 1)
    W = sphere.project(torch.randn(shape, generator=generator), dim=dim)
    largest = 0.0
    for number in range(count):
        D = torch.where(fixed, bank[0], bank[number % 100]) + radial * W
        W = move(W, -D, lr, mode, dim=dim)
        if number % 100 == 99:
            largest = max(largest, (sphere.norm(W.double(), dim=dim) - 1).abs().max().item())
    return largest


@pytest.mark.parametrize(("theta", "mode", "dim"), [(1e-3, "lr", -1), (3e-2, "lr-norm", -2), (0.3, "lr", -1)])
def test_ten_thousand_steps_stay_on_the_sphere(theta: float, mode: str, dim: int) -> None:
    drift = largest_drift(theta, mode, dim)
    assert drift < 1e-5, f"measured: {drift}"


def once_projected(W: Tensor, O: Tensor, lr: float, mode: Any, *, dim: int) -> Tensor:
    u = sphere.tangent(W, -O, dim=dim)
    return sphere.geodesic(W, u, lr if mode == "lr" else lr * sphere.norm(u, dim=dim), dim=dim)


@pytest.mark.parametrize("mutation", [once_projected, no_tangent, straight])
def test_a_step_that_leaves_the_sphere_is_seen(mutation: Move) -> None:
    assert largest_drift(0.3, "lr", -1, move=mutation, count=500) > 5e-5


def test_simple_muon_stays_on_the_sphere_for_ten_thousand_steps() -> None:
    """Repeating gradients repeat their roundings: without a restoring force the columns drift by 1.3e-5 here."""
    W = nn.Parameter(torch.tensor(points((4, 6), 0), dtype=torch.float32))
    optimizer = SimpleMuon(
        [W], lr=0.03, weight_decay=0.0, geodesic="lr-norm", sphere_dim=0, ns_steps=3, polar_dtype=torch.float32
    )
    gradients = torch.randn((100, *W.shape), generator=torch.Generator().manual_seed(0))
    drift = 0.0
    for number in range(COUNT):
        W.grad = gradients[number % 100]
        optimizer.step()
        if number % 100 == 99:
            drift = max(drift, (sphere.norm(W.detach().double(), dim=0) - 1).abs().max().item())
    assert drift < 1e-5, f"measured: {drift}"


@pytest.mark.parametrize("lr", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_a_linear_step_leaves_the_sphere_by_its_law(shape: tuple[int, ...], dim: int, lr: float) -> None:
    """|w|^2 becomes 1 + lr^2 |o|^2 - 2 lr <w, o>, with exactly this sign."""
    W = points(shape, dim)
    O = update(W, dim)
    (got,) = doubles(steps.linear_move(*tensors(torch.float64, W, O), lr))
    along, square = ((factor * O).sum(dim, keepdims=True) for factor in (W, O))
    law, wrong = (1 + lr**2 * square + sign * 2 * lr * along for sign in (-1, 1))
    np.testing.assert_allclose(lengths(got, dim) ** 2, law, rtol=16 * EPS64)
    assert np.abs(lengths(got, dim) ** 2 - wrong).max() > lr


# --- the limit of projected steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [1e-4, 0.1, 1.0])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_lr_norm_is_the_exponential_map(shape: tuple[int, int], dim: int, lr: float) -> None:
    W, G = points(shape, dim), np.random.default_rng(3).normal(size=shape)
    (got,) = trace(W, [G], dim, geodesic="lr-norm", lr=lr)
    v = sphere_oracle.tangent(W, -lr * oracle.polar_exact(G), dim)
    np.testing.assert_allclose(got, sphere_oracle.exp(W, v, dim), rtol=0, atol=16 * EPS64)


@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_projected_tangent_step_agrees_with_the_geodesic_to_second_order(shape: tuple[int, int], dim: int) -> None:
    """Positions differ by (lr |u|)^3 / 3, and without the tangent projection by lr^2 |u| |<w, o>|."""
    W, G = points(shape, dim), np.random.default_rng(3).normal(size=shape)
    O = oracle.polar_exact(G)
    u = lengths(sphere_oracle.tangent(W, O, dim), dim)
    radial = np.abs((W * O).sum(dim, keepdims=True))
    rates = 2.0 ** -np.arange(4.0, 11.0)
    for tangent, expected, leading in (("after", 3, (u**3 / 3).max()), ("none", 2, (u * radial).max())):
        errors = []
        for lr in rates:
            (geodesic,) = trace(W, [G], dim, geodesic="lr-norm", lr=lr)
            (linear,) = trace(W, [G], dim, tangent=tangent, lr=lr)
            errors.append(lengths(sphere_oracle.project(linear, dim) - geodesic, dim).max())
        slope, constant = order(rates, errors)
        # at 1/16 the next order is a few percent
        assert slope == pytest.approx(expected, abs=0.05), tangent
        assert constant == pytest.approx(leading, rel=0.1), tangent
