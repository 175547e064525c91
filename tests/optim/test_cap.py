"""`max_angle`: no unit vector turns by more in a step."""

from typing import Any

import numpy as np
import pytest
import torch
from cases import EPS32, MATRICES, gradients, points
from oracles import optimizers as oracle
from oracles import sphere
from test_chain import ACCEPTED, COUNT, PAIR, ROUNDING, RULE, error, fields, oracle_rule, orthogonalized
from torch import Tensor, nn

from ngpt.config import OptimConfig
from ngpt.errors import InputError
from ngpt.optim import steps
from ngpt.optim.muon import SimpleMuon

Array = np.ndarray
CAP = 0.05
"""Between the angles that the vectors of `PAIR` turn by"""


def moved(W: Array, dim: int, seed: int) -> Array:
    """Return vectors at 0.01 to 3.1 radians from those of W, of lengths from 0.5 to 2."""
    rng = np.random.default_rng(seed)
    one_each = np.sum(W, axis=dim, keepdims=True).shape
    u = sphere.project(sphere.tangent(W, rng.normal(size=W.shape), dim), dim)
    theta = rng.permutation(np.geomspace(0.01, 3.1, int(np.prod(one_each)))).reshape(one_each)
    result: Array = rng.uniform(0.5, 2.0, one_each) * (np.cos(theta) * W + np.sin(theta) * u)
    return result


def capped(W: Array, W_next: Array, most: float, dim: int, dtype: torch.dtype = torch.float64) -> Array:
    given = (torch.tensor(array, dtype=dtype) for array in (W, W_next))
    return steps.cap_angle(*given, most, dim=dim).double().numpy()


@pytest.mark.parametrize("most", [1e-3, 0.05, 0.5, 2.0])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_the_cap_is_the_oracles(shape: tuple[int, int], dim: int, most: float) -> None:
    lengths = np.random.default_rng(5).uniform(0.8, 1.2, np.sum(points(shape, dim), axis=dim, keepdims=True).shape)
    W = lengths * points(shape, dim)
    W_next = moved(points(shape, dim), dim, 2)
    got = capped(W, W_next, most, dim)
    np.testing.assert_allclose(got, oracle.capped(W, W_next, most, dim), atol=1e-13)
    turned = sphere.angle(sphere.project(W, dim), sphere.project(got, dim), dim)
    before = sphere.angle(sphere.project(W, dim), sphere.project(W_next, dim), dim)
    np.testing.assert_allclose(turned, np.minimum(before, most), atol=1e-12)
    free = np.broadcast_to(np.expand_dims(before < most, dim), got.shape)
    assert np.array_equal(got[free], W_next[free]), "what is within it is left as it is, its length too"
    np.testing.assert_allclose(capped(W, W_next, most, dim, torch.float32), got, atol=32 * EPS32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_vector_turned_by_pi_stays_as_it_was(shape: tuple[int, int], dim: int, dtype: torch.dtype) -> None:
    """Its direction of rotation is nothing but rounding."""
    W = points(shape, dim)
    assert np.array_equal(capped(W, -W, 0.3, dim, dtype), W.astype(np.float32) if dtype == torch.float32 else W)


@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_cap_of_pi_caps_nothing(shape: tuple[int, int], dim: int) -> None:
    W, W_next = points(shape, dim), moved(points(shape, dim), dim, 2)
    assert np.array_equal(capped(W, W_next, np.pi, dim), W_next)


def test_what_has_no_direction_is_finite() -> None:
    x, zero = np.eye(3)[:1], np.zeros((1, 3))
    assert np.array_equal(capped(zero, x, 0.1, -1), x), "a vector without direction may take any"
    assert np.array_equal(capped(x, zero, 0.1, -1), zero), "a vector that vanished has not turned"
    for most in (0.1, 2.0):
        assert np.array_equal(capped(x, -2 * x, most, -1), x), "turned by pi, it has no direction to turn back to"


# --- in the rule -----------------------------------------------------------------------------------------------------


def ours(options: dict[str, Any], most: float | None) -> list[list[Array]]:
    given = fields(options)
    given["geodesic"] = given.pop("geodesic_muon")
    trace: list[list[Array]] = []
    for shape, dim in PAIR:
        parameter = nn.Parameter(torch.tensor(points(shape, dim)))
        settings = {"weight_decay": 0.0, **RULE, **given, "sphere_dim": dim, "max_angle": most}
        optimizer = SimpleMuon([parameter], polar_dtype=torch.float64, **settings)
        trace.append([])
        for G in gradients(shape, COUNT):
            parameter.grad = torch.tensor(G)
            optimizer.step()
            trace[-1].append(torch.stack([parameter.detach(), optimizer.state[parameter]["momentum_buffer"]]).numpy())
    return trace


def wanted(options: dict[str, Any], most: float | None) -> list[list[Array]]:
    rule = oracle_rule(options)
    return [
        [np.stack(pair) for pair in oracle.sphere_muon(
            points(shape, dim), gradients(shape, COUNT), dim=dim, orthogonalize=orthogonalized, max_angle=most, **rule)]
        for shape, dim in PAIR
    ]  # fmt: skip


CAPPED = [options for options in ACCEPTED if options["geodesic_muon"] != "lr"]


@pytest.mark.parametrize("part", range(4))
def test_every_combination_with_a_cap_is_the_oracles_chain(part: int) -> None:
    for options in CAPPED[part::4]:
        want = wanted(options, CAP)
        assert error(ours(options, CAP), want) < ROUNDING, options
        assert error(ours(options, None), want) > 1e-6, options


def uncapped(W: Tensor, W_next: Tensor, most: float, *, dim: int) -> Tensor:
    return W_next


def unit_length(W: Tensor, W_next: Tensor, most: float, *, dim: int) -> Tensor:
    made = CAP_ANGLE(W, W_next, most, dim=dim)
    return made / made.norm(dim=dim, keepdim=True)


def wrong_axis(W: Tensor, W_next: Tensor, most: float, *, dim: int) -> Tensor:
    return CAP_ANGLE(W, W_next, most, dim=-1 if dim != -1 else -2)


def by_arccos_of_the_step(W: Tensor, W_next: Tensor, most: float, *, dim: int) -> Tensor:
    u = W_next - W
    return W + u * (most / u.norm(dim=dim, keepdim=True)).clamp_max(1.0)


CAP_ANGLE = steps.cap_angle


@pytest.mark.parametrize("mutation", [uncapped, unit_length, wrong_axis, by_arccos_of_the_step])
def test_a_wrong_cap_is_rejected(mutation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "cap_angle", mutation)
    errors = [error(ours(options, CAP), wanted(options, CAP)) for options in CAPPED[::23]]
    assert max(errors) > 1e-6


def test_with_a_fixed_angle_it_is_refused() -> None:
    with pytest.raises(InputError, match="^--max-angle has no effect of its own with --geodesic-muon lr"):
        OptimConfig(geodesic_muon="lr", max_angle=0.1)
    for wrong in (0.0, -1.0):
        with pytest.raises(InputError, match="--max-angle must be positive"):
            OptimConfig(max_angle=wrong)
