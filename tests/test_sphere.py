"""The geometry of the sphere against float64 oracles, vector by vector, and its geometric laws."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import sphere as oracle
from torch import Tensor

from ngpt import sphere

LAYOUTS = [
    pytest.param(shape, dim, id=f"{name}-dim{dim}")
    for name, shape, dims in (
        ("wide", (5, 48), (-1, 0)),
        ("tall", (48, 5), (-1, 0)),
        ("square", (12, 12), (-1, 0)),
        ("stacked", (3, 8, 20), (-1, -2)),
    )
    for dim in dims
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
FUNCTIONS = ["project", "tangent", "exp", "retract", "log", "transport", "angle", "geodesic"]

EPS = {dtype: torch.finfo(dtype).eps for dtype in DTYPES}
HALF_ULP = {torch.float64: 0.0, torch.float32: 0.0, torch.bfloat16: EPS[torch.bfloat16] / 2}
"""Relative error of the one rounding that a bfloat16 caller pays; other dtypes compute in their own precision"""


def arithmetic(dtype: torch.dtype) -> float:
    """Return the error of a few operations on numbers of order one, including a sum of up to 48 terms."""
    return 8 * EPS[torch.float64 if dtype == torch.float64 else torch.float32]


def geometry(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return points x and y, an ambient v, a tangent u at x of 0.1 to 2.5 radians, and an angle theta per vector."""
    rng = np.random.default_rng(len(shape) + shape[dim])
    x, y = (oracle.project(rng.normal(size=shape), dim) for _ in range(2))
    one_each = np.sum(x, axis=dim, keepdims=True).shape
    u = oracle.project(oracle.tangent(x, rng.normal(size=shape), dim), dim) * rng.uniform(0.1, 2.5, one_each)
    arrays = {"x": x, "y": y, "v": rng.normal(size=shape), "u": u, "theta": rng.uniform(0.1, 3.0, one_each)}
    return {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}


def arguments(name: str, g: dict[str, Any]) -> list[Any]:
    """Return the arguments of `ngpt.sphere.<name>` except `dim`."""
    letters = {"project": "v", "tangent": "xv", "exp": "xu", "retract": "xv", "log": "xy", "angle": "xy"}
    if name in letters:
        return [g[letter] for letter in letters[name]]
    return [g["x"], g["u"], g["theta"], g["v"]] if name == "transport" else [g["x"], g["u"], g["theta"]]


def truth(name: str, arrays: list[Any], dim: int) -> np.ndarray:
    """Return the oracle's result for the same arguments in float64."""
    if name == "geodesic":
        x, u, theta = arrays
        return oracle.exp(oracle.project(x, dim), theta * oracle.project(u, dim), dim)
    if name == "transport":
        x, u, theta, v = arrays
        return oracle.transport(x, oracle.project(u, dim), theta, v, dim)
    if name == "tangent":  # a bfloat16 x is off the sphere by its rounding; the tangent space is that at N(x)
        return oracle.tangent(oracle.project(arrays[0], dim), arrays[1], dim)
    if name == "log":  # and the angle is that of the points as rounded
        v = oracle.log(*(oracle.project(point, dim) for point in arrays), dim)
        return oracle.project(v, dim) * np.expand_dims(oracle.angle(*arrays, dim), dim)
    return getattr(oracle, name)(*arrays, dim)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_agrees_with_the_oracle(name: str, shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    given = arguments(name, geometry(shape, dim, dtype))
    before = [tensor.clone() for tensor in given]
    got = getattr(sphere, name)(*given, dim=dim)
    want = truth(name, [tensor.double().numpy() for tensor in given], dim)
    measured = name == "angle"  # a number in at least float32, not a tensor of the caller's
    assert got.dtype == (torch.float32 if measured and dtype == torch.bfloat16 else dtype)
    assert got.shape == want.shape
    largest = float(np.abs(want).max())
    rtol = 0.0 if measured else HALF_ULP[dtype]
    np.testing.assert_allclose(got.double().numpy(), want, rtol=rtol, atol=arithmetic(dtype) * largest)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True)), "an argument was written to"


@pytest.mark.parametrize("length", [0.5, 1 + 1e-6, 3.0])
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_the_tangent_of_a_drifted_weight_is_that_of_its_direction(
    shape: tuple[int, ...], dim: int, length: float
) -> None:
    g = geometry(shape, dim, torch.float64)
    got = sphere.tangent(length * g["x"], g["v"], dim=dim)
    torch.testing.assert_close(got, sphere.tangent(g["x"], g["v"], dim=dim), rtol=0, atol=arithmetic(torch.float64))
    assert sphere.inner(g["x"], got, dim=dim).abs().max() < arithmetic(torch.float64)


@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_one_angle_for_all_vectors_and_kept_dimensions(shape: tuple[int, ...], dim: int) -> None:
    g = geometry(shape, dim, torch.float64)
    same = torch.full_like(g["theta"], 0.7)
    assert torch.equal(sphere.geodesic(g["x"], g["u"], 0.7, dim=dim), sphere.geodesic(g["x"], g["u"], same, dim=dim))
    assert torch.equal(
        sphere.transport(g["x"], g["u"], 0.7, g["v"], dim=dim), sphere.transport(g["x"], g["u"], same, g["v"], dim=dim)
    )
    flat = sphere.angle(g["x"], g["y"], dim=dim)
    assert torch.equal(sphere.angle(g["x"], g["y"], dim=dim, keepdim=True), flat.unsqueeze(dim))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_a_zero_tangent_moves_nothing_to_the_bit(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    g = geometry(shape, dim, dtype)
    zero = torch.zeros_like(g["x"])
    assert torch.equal(sphere.exp(g["x"], zero, dim=dim), g["x"])
    assert torch.equal(sphere.geodesic(g["x"], zero, g["theta"], dim=dim), g["x"])
    assert torch.equal(sphere.transport(g["x"], zero, g["theta"], g["v"], dim=dim), g["v"])
    assert torch.equal(sphere.log(g["x"], g["x"], dim=dim), zero)
    assert torch.equal(sphere.angle(g["x"], g["x"], dim=dim), torch.zeros_like(g["theta"].squeeze(dim)).to(zero.dtype))
    assert torch.equal(sphere.project(zero, dim=dim), zero)


@pytest.mark.parametrize("length", [1e-31, 1e-29, 1e-25, 1e-20, 1e-12, 1.0, 1e12, 1e18])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_project_divides_by_the_length_or_leaves_the_vector_as_it_is(dtype: torch.dtype, length: float) -> None:
    x = torch.tensor([[3.0, -4.0, 0.0]], dtype=dtype) / 5
    landed = sphere.project(x * length, dim=-1)
    expected = x if length > sphere.UNIT_TINY else x * length
    torch.testing.assert_close(landed, expected, rtol=arithmetic(dtype), atol=0.0)


def test_the_inverse_of_a_length() -> None:
    lengths = torch.tensor([0.5, sphere.UNIT_TINY, 0.0, torch.inf, torch.nan])
    expected = torch.tensor([2.0, 1.0, 1.0, 0.0, torch.nan])
    torch.testing.assert_close(sphere.inverse(lengths), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_the_retraction_agrees_with_exp_to_third_order_in_position(shape: tuple[int, ...], dim: int) -> None:
    g = geometry(shape, dim, torch.float64)
    direction = sphere.project(g["u"], dim=dim)
    lengths = 2.0 ** -np.arange(3.0, 9.0)  # below 2^-9 the cube nears float64's rounding
    errors = []
    for length in lengths:
        moved = sphere.retract(g["x"], length * direction, dim=dim)
        errors.append((moved - sphere.exp(g["x"], length * direction, dim=dim)).norm(dim=dim).max().item())
    order, log_constant = np.polyfit(np.log(lengths), np.log(errors), 1)
    # atan(t) - t = -t^3/3 + t^5/5: at t = 1/8 the second term is 1% of the first
    assert order == pytest.approx(3.0, abs=0.01)
    assert math.exp(log_constant) == pytest.approx(1 / 3, rel=0.03)


@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_exp_and_log_are_inverse_to_each_other(shape: tuple[int, ...], dim: int) -> None:
    g = geometry(shape, dim, torch.float64)
    x, y, u = g["x"], g["y"], g["u"]
    v = sphere.log(x, y, dim=dim)
    # log amplifies by theta / sin(theta), at most 4.2 at 2.5 radians
    tolerance = 5 * arithmetic(torch.float64)
    torch.testing.assert_close(sphere.exp(x, v, dim=dim), y, rtol=0.0, atol=tolerance)
    torch.testing.assert_close(sphere.log(x, sphere.exp(x, u, dim=dim), dim=dim), u, rtol=0.0, atol=tolerance)
    torch.testing.assert_close(v.norm(dim=dim), sphere.angle(x, y, dim=dim), rtol=0.0, atol=tolerance)
    assert sphere.inner(x, v, dim=dim).abs().max() < tolerance


def test_antipodal_points_have_a_log_of_finite_length() -> None:
    x = geometry((5, 48), -1, torch.float32)["x"]
    lengths = sphere.log(x, -x, dim=-1).norm(dim=-1)
    assert torch.isfinite(lengths).all() and (lengths <= math.pi * (1 + arithmetic(torch.float32))).all()


@pytest.mark.parametrize("theta", [1e-3, 1e-2, 1.0, math.pi - 1e-3])
def test_angle_is_accurate_in_float32_at_the_width_of_a_model(theta: float) -> None:
    rng = np.random.default_rng(0)
    x = oracle.project(rng.normal(size=(64, 768)), -1)
    u = oracle.project(oracle.tangent(x, rng.normal(size=x.shape), -1), -1)
    pair = [torch.from_numpy(point).float() for point in (x, oracle.exp(x, theta * u, -1))]
    got = sphere.angle(*pair, dim=-1).double().numpy()
    np.testing.assert_allclose(got, theta, rtol=1e-5)
    exact = oracle.angle(*(point.double().numpy() for point in pair), dim=-1)  # of the points as rounded
    np.testing.assert_allclose(got, exact, rtol=arithmetic(torch.float32))
    if theta == 1e-3:
        naive = (pair[0] * pair[1]).sum(-1).clamp(-1, 1).arccos().double().numpy()
        assert np.abs(naive / theta - 1).max() > 0.05, "the contrast of the docstring"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_finite_where_a_direction_vanishes(dtype: torch.dtype) -> None:
    g = geometry((5, 48), -1, dtype)
    zero = torch.zeros_like(g["x"])
    degenerate = {
        "project": (zero,),
        "retract": (g["x"], zero),
        "exp": (g["x"], zero),
        "log": (g["x"], g["x"].clone()),
        "angle": (g["x"], g["x"].clone()),
        "geodesic": (g["x"], zero, g["theta"]),
        "transport": (g["x"], zero, g["theta"], g["v"]),
    }
    for name, values in degenerate.items():
        leaves = [value.clone().requires_grad_() for value in values]
        getattr(sphere, name)(*leaves, dim=-1).sum().backward()
        assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in leaves), name
    x, v = g["x"].clone(), zero.clone().requires_grad_()
    sphere.exp(x, v, dim=-1).sum().backward()
    assert torch.equal(v.grad, torch.ones_like(v)), "exp(x, v) = x + v to first order at v = 0"


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dim", [-1, 0])
def test_gradients_agree_with_finite_differences(name: str, dim: int) -> None:
    leaves = [value.requires_grad_() for value in arguments(name, geometry((3, 4), dim, torch.float64))]
    function: Callable[..., Tensor] = getattr(sphere, name)
    assert torch.autograd.gradcheck(lambda *values: function(*values, dim=dim), leaves)


# --- the fused rotations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed_angle", [True, False])
@pytest.mark.parametrize("share", [1.0, 1e-3])
@pytest.mark.parametrize("size", [1e-14, 1.0, 1e14])
@pytest.mark.parametrize(
    ("dtype", "v_dtype"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float32, torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_turn_is_two_tangents_and_a_geodesic(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype, v_dtype: torch.dtype, size: float, share: float,
    fixed_angle: bool,
) -> None:  # fmt: skip
    """For tiny and huge directions, zero ones, and such that are radial but for a part in a thousand."""
    g = geometry(shape, dim, torch.float64)
    x = g["x"].to(dtype)
    v = (size * (g["x"] + share * sphere.project(g["u"], dim=dim))).to(v_dtype)
    v.select(0 if dim == -1 else -1, 1).zero_()
    x_64, v_64 = sphere.project(x.double(), dim=dim), v.double()
    u = sphere.tangent(x_64, sphere.tangent(x_64, v_64, dim=dim), dim=dim)
    rate = -0.3 if fixed_angle else 0.3 / (size * share)
    theta = rate * (torch.ones_like(g["theta"]) if fixed_angle else sphere.norm(u, dim=dim))
    want = sphere.geodesic(x_64, u, theta, dim=dim)
    got = sphere.turn(x, v, rate, fixed_angle=fixed_angle, dim=dim)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=0, atol=arithmetic(dtype) / share)
    assert (sphere.norm(got.double(), dim=dim) - 1).abs().max() < 4 * EPS[dtype]
    idle = v_64.abs().sum(dim=dim, keepdim=True) == 0
    assert idle.any() and torch.equal(torch.where(idle, got, x), x), "a zero direction moves nothing to the bit"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_rotate_takes_x_to_y_and_is_the_transport_of_a_tangent(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype
) -> None:
    g = geometry(shape, dim, dtype)
    x, y, v = g["x"], g["y"], g["v"]
    allowed = 16 * EPS[dtype] * float(v.abs().max())
    torch.testing.assert_close(sphere.rotate(x, y, x, dim=dim), y, rtol=0, atol=allowed)
    u, flat = sphere.log(x, y, dim=dim), sphere.tangent(x, v, dim=dim)
    want = sphere.transport(x, u, sphere.norm(u, dim=dim), flat, dim=dim)
    if dtype != torch.bfloat16:
        for radial in (True, False):
            torch.testing.assert_close(sphere.rotate(x, y, flat, dim=dim, radial=radial), want, rtol=0, atol=allowed)
        torch.testing.assert_close(sphere.rotate(x, y, v, dim=dim, radial=False), want, rtol=0, atol=allowed)
    assert torch.isfinite(sphere.rotate(x, -x, v, dim=dim)).all()
