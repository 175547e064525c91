"""Projection and rotation in Triton's interpreter against independent float64 formulas and against their twins."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("triton")
import torch
from helpers import EPS, EPS32, GAP, altered, drawn, laid_out
from torch import Tensor

from ngpt.kernels import LONGEST, launch, twins, vectors

SHAPES = [(1, 1), (1, 9), (9, 1), (5, 7), (33, 20), (300, 17), (3, 33, 20), (2, 2, 5, 12)]
DIMS = [-1, -2]
Array = np.ndarray
Check = Callable[[ModuleType], None]


def unit_vectors(*shape: int, dim: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    W = drawn(*shape, seed=seed).double()
    return (W / W.norm(dim=dim, keepdim=True)).to(dtype)


def projected(W: Tensor, dim: int) -> Array:
    w = W.double().numpy()
    length = np.sqrt((w * w).sum(axis=dim, keepdims=True))
    return np.divide(w, length, out=w.copy(), where=length > 1e-18)


def rotated(W: Tensor, O: Tensor, lr: float, scale: float, *, fixed_angle: bool, dim: int) -> Array:
    """Return N(w) cos(theta) + (u / |u|) sin(theta), the textbook formula, or w where nothing rotates it."""
    w, d = W.double().numpy(), -scale * O.double().numpy()
    inner = lambda x, y: (x * y).sum(axis=dim, keepdims=True)  # noqa: E731
    ww = inner(w, w)
    u = d - inner(w, d) / np.where(ww > 0, ww, 1.0) * w
    length = np.sqrt(inner(u, u))
    turns = length > 1e-18
    theta = np.where(turns, lr if fixed_angle else lr * length, 0.0)
    moved = w / np.sqrt(np.where(ww > 0, ww, 1.0)) * np.cos(theta) + u / np.where(turns, length, 1.0) * np.sin(theta)
    return np.where(theta != 0, moved, w)


def rotation_error(W: Tensor, O: Tensor, angle: float, dtype: torch.dtype, dim: int) -> float:
    """Return the allowed error: float32 roundings of a number near 1, amplified by the cancellation |d| / |u| in the
    tangent, and of an angle; plus one rounding of the storage dtype at the largest weight."""
    w, d = W.double(), O.double()
    u = d - (w * d).sum(dim, keepdim=True) / (w * w).sum(dim, keepdim=True) * w
    cancelled = (d.norm(dim=dim) / u.norm(dim=dim)).nan_to_num(1.0, posinf=1.0).max().item() if u.size(dim) > 1 else 1.0
    return (2 + angle) * cancelled * EPS32 + EPS[dtype] * w.abs().max().item()


# --- projection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_projection(shape: tuple[int, ...], dim: int) -> None:
    """Relative to each element: half a rounding each of the squared length, its root, the quotient and the product."""
    for dtype in EPS:
        exact = projected(drawn(*shape, dtype=dtype), dim)
        for name, W, gaps in laid_out(drawn(*shape, dtype=dtype)):
            at = W.data_ptr()
            assert vectors.project_(W, dim=dim) is W and W.data_ptr() == at
            error = np.abs(W.double().numpy() - exact) - (4 * EPS32 + (dtype != torch.float32) * EPS[dtype]) * abs(
                exact
            )
            assert error.max() <= 2.0**-24, (name, dtype)  # half's smallest
            assert (gaps == GAP).all(), name


def test_projection_along_dimensions_from_the_front() -> None:
    W = drawn(6, 11)
    for dim in (0, 1):
        assert torch.equal(vectors.project_(W.clone(), dim=dim), vectors.project_(W.clone(), dim=dim - 2))


def test_a_vector_without_direction_stays_when_projected() -> None:
    W = drawn(6, 11)
    W[1], W[4] = 0, 1e-20
    result = vectors.project_(W.clone(), dim=-1)
    assert torch.equal(result[[1, 4]], W[[1, 4]]) and torch.isfinite(result).all()
    torch.testing.assert_close(result, twins.project_(W.clone(), dim=-1), rtol=4 * EPS32, atol=0)
    small = W * 1e-15
    torch.testing.assert_close(vectors.project_(small, dim=-1)[0], result[0], rtol=8 * EPS32, atol=0)


def test_a_projected_vector_projects_to_itself() -> None:
    once = vectors.project_(drawn(20, 50), dim=-1)
    torch.testing.assert_close(vectors.project_(once.clone(), dim=-1), once, rtol=2 * EPS32, atol=0)


# --- rotation --------------------------------------------------------------------------------------------------------


def check_rotation(
    module: ModuleType,
    shape: tuple[int, ...] = (300, 17),
    dim: int = -1,
    dtype: torch.dtype = torch.float32,
    o_dtype: torch.dtype = torch.float32,
) -> None:
    """Check weights in every layout, with the direction in another one, and both definitions of the angle."""
    lr, start, O = 0.3, unit_vectors(*shape, dim=dim, dtype=dtype), 0.5 * drawn(*shape, seed=1).to(o_dtype)
    O_views = [view for _, view, _ in laid_out(O)]
    for number, (name, W, gaps) in enumerate(laid_out(start)):
        direction = O_views[number - 1] if number else O_views[0]
        for fixed_angle in (True, False):
            W.copy_(start)
            exact = rotated(start, O, lr, 0.7, fixed_angle=fixed_angle, dim=dim)
            assert module.geodesic_move_(W, direction, lr, 0.7, fixed_angle=fixed_angle, dim=dim) is W
            angle = lr if fixed_angle else lr * 0.7 * O.double().norm(dim=dim).max().item()
            error = np.abs(W.double().numpy() - exact).max()
            assert error <= rotation_error(start, O, angle, dtype, dim), (name, fixed_angle, error)
            assert torch.equal(direction, O) and (gaps == GAP).all(), name


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != (1, 1)], ids=str)
def test_rotation(shape: tuple[int, ...], dim: int) -> None:
    check_rotation(vectors, shape, dim)


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("o_dtype", [*EPS, torch.float64], ids=str)
def test_rotation_of_every_dtype(dtype: torch.dtype, o_dtype: torch.dtype) -> None:
    check_rotation(vectors, (12, 21), -1, dtype, o_dtype)


ANGLES = [0.0, 1e-30, 1e-6, 1e-3, math.pi / 4, math.pi / 2, 2.0, math.pi, 3 * math.pi / 2, 7.0, 100.0, -0.3, -2.0]


@pytest.mark.parametrize("lr", ANGLES)
def test_rotation_by_every_angle(lr: float) -> None:
    """The angle is rounded to float32, as pi is not exact; a zero angle changes no bit."""
    lr = float(np.float32(lr))
    W, O = unit_vectors(6, 40, dim=-1), drawn(6, 40, seed=1)
    for fixed_angle in (True, False):
        moved = vectors.geodesic_move_(W.clone(), O, lr, 1.0, fixed_angle=fixed_angle, dim=-1)
        exact = rotated(W, O, lr, 1.0, fixed_angle=fixed_angle, dim=-1)
        angle = abs(lr) * (1.0 if fixed_angle else O.norm(dim=-1).max().item())
        assert np.abs(moved.double().numpy() - exact).max() <= rotation_error(W, O, angle, W.dtype, -1)
        if lr in (0.0, float(np.float32(1e-30))):
            assert torch.equal(moved, W)


def check_sine(module: ModuleType) -> None:
    """Check sin(theta) and cos(theta) along a coordinate over many turns, the sine to relative accuracy."""
    theta = torch.tensor([1e-12, 1e-4, 0.1, 0.7853, 0.7854, 1.5707, 1.5708, 1.6, 3.0, 4.7, 4.72, 6.3, 50.0, 1000.0])
    W, O = torch.zeros(len(theta), 2), torch.zeros(len(theta), 2)
    W[:, 0], O[:, 1] = 1.0, theta
    module.geodesic_move_(W, -O, 1.0, 1.0, fixed_angle=False, dim=-1)
    exact = theta.double()
    torch.testing.assert_close(W[:, 1].double(), exact.sin(), rtol=3 * EPS32, atol=0)
    torch.testing.assert_close(W[:, 0].double(), exact.cos(), rtol=0, atol=EPS32)


def test_a_small_step_is_as_accurate_as_storage_allows() -> None:
    check_sine(vectors)


def parallel_to(W: Tensor) -> Tensor:
    return W * torch.linspace(-3, 5, len(W))[:, None]


def check_radial(module: ModuleType) -> None:
    W = unit_vectors(64, 50, dim=-1)
    for fixed_angle in (True, False):
        moved = module.geodesic_move_(W.clone(), parallel_to(W), 0.3, 1.0, fixed_angle=fixed_angle, dim=-1)
        assert torch.equal(moved, W)


def test_a_radial_direction_rotates_nothing() -> None:
    check_radial(vectors)


def check_nearly_radial(module: ModuleType) -> None:
    """Check that a tangent part 10,000 times shorter than its direction still sets where a fixed angle leads.

    One subtraction leaves an error along w of 1e4 roundings of the tangent. The second removes it, so the vector stays
    a unit vector to a few roundings however short its tangent is.
    """
    W = unit_vectors(64, 50, dim=-1)
    u = drawn(64, 50, seed=5)
    u -= (u * W).sum(-1, keepdim=True) * W
    D = 3 * W + 3e-4 * u / u.norm(dim=-1, keepdim=True)
    moved = module.geodesic_move_(W.clone(), D, 1.5, 1.0, fixed_angle=True, dim=-1)
    exact = rotated(W, D, 1.5, 1.0, fixed_angle=True, dim=-1)
    assert np.abs(moved.double().numpy() - exact).max() <= rotation_error(W, D, 1.5, W.dtype, -1)
    assert (moved.double().norm(dim=-1) - 1).abs().max() <= 2 * EPS32


def test_a_nearly_radial_direction_rotates_along_its_tangent() -> None:
    check_nearly_radial(vectors)


def check_zero(module: ModuleType) -> None:
    """Check that a zero direction rotates nothing, on the sphere or off, and a zero weight moves as in the twin."""
    W, O = unit_vectors(6, 11, dim=-1), drawn(6, 11, seed=1)
    O[2], O[3] = 0, 0
    W[3], W[4] = 1.5 * W[3], 0
    for fixed_angle in (True, False):
        moved = module.geodesic_move_(W.clone(), O, 0.3, 1.0, fixed_angle=fixed_angle, dim=-1)
        twin = twins.geodesic_move_(W.double(), O.double(), 0.3, 1.0, fixed_angle=fixed_angle, dim=-1)
        assert torch.equal(moved[2:4], W[2:4])
        torch.testing.assert_close(moved.double(), twin, rtol=0, atol=4 * EPS32)


def test_zero_vectors() -> None:
    check_zero(vectors)


def check_drifted(module: ModuleType) -> None:
    W = unit_vectors(20, 30, dim=-1) * torch.linspace(0.5, 1.5, 20)[:, None]
    O = drawn(20, 30, seed=1)
    moved = module.geodesic_move_(W.clone(), O, 0.2, 1.0, fixed_angle=True, dim=-1)
    assert (moved.double().norm(dim=-1) - 1).abs().max() <= 4 * EPS32
    twin = twins.geodesic_move_(W.double(), O.double(), 0.2, 1.0, fixed_angle=True, dim=-1)
    torch.testing.assert_close(moved.double(), twin, rtol=0, atol=8 * EPS32)


def test_a_drifted_vector_lands_on_the_sphere() -> None:
    check_drifted(vectors)


@pytest.mark.parametrize("fixed_angle", [True, False])
def test_the_rate_may_be_a_tensor(fixed_angle: bool) -> None:
    W, O = unit_vectors(5, 9, dim=0), drawn(5, 9, seed=1)
    by_number = vectors.geodesic_move_(W.clone(), O, 0.25, 1.0, fixed_angle=fixed_angle, dim=0)
    for rate in (torch.tensor(0.25), torch.tensor([0.25]), torch.tensor(0.25, dtype=torch.float64)):
        assert torch.equal(vectors.geodesic_move_(W.clone(), O, rate, 1.0, fixed_angle=fixed_angle, dim=0), by_number)
    with pytest.raises(ValueError, match="one number"):
        vectors.geodesic_move_(W, O, torch.tensor([0.1, 0.2]), 1.0, fixed_angle=fixed_angle, dim=0)


# --- mutants ---------------------------------------------------------------------------------------------------------

SECOND = "    u -= tl.sum(w * u, axis=1, keep_dims=True) / tl.maximum(ww, TINY * TINY) * w"
MUTANTS = [
    pytest.param(check_rotation, "d = -scale * tl.load", "d = scale * tl.load", id="uphill"),
    pytest.param(check_rotation, "- shrink * w)", "+ shrink * w)", id="longer"),
    pytest.param(check_rotation, "tl.where(has_direction, lr * norm, 0.0)", "lr", id="fixed angle"),
    pytest.param(check_rotation, "o_ptr + o_offsets", "o_ptr + offsets", id="strides of the other tensor"),
    pytest.param(check_rotation, "stack, stack_O,", "stack, O.contiguous(),", id="copied, strides kept"),
    pytest.param(check_rotation, "programs) * VECTORS", "programs) * 1", id="overlapping programs"),
    pytest.param(check_drifted, "(excess / (root * (1.0 + root)))", "excess", id="length not mended"),
    pytest.param(check_sine, "tl.where(odd, -2.0, 2.0) * sine", "2.0 * sine", id="half a turn"),
    pytest.param(check_sine, "(-1.0 / 5040 + hh * (1.0 / 362880))", "(-1.0 / 5040)", id="short series"),
    pytest.param(check_nearly_radial, SECOND, "    u = u", id="one tangent"),
    pytest.param(check_radial, "keep_dims=True)) * ROUNDING)", "keep_dims=True)) * 0.0)", id="rounding is a direction"),
    pytest.param(check_zero, "tl.where(theta != 0.0, ", "tl.where(theta != -1.0, ", id="moved by no angle"),
]


@pytest.mark.parametrize(("check", "text", "replacement"), MUTANTS)
def test_a_mutant_is_rejected(check: Check, text: str, replacement: str, tmp_path: Path) -> None:
    mutant = altered(vectors, text, replacement, tmp_path)
    with pytest.raises(AssertionError):
        check(mutant)


# --- launches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [-1, -2])
def test_deterministic(dim: int) -> None:
    W, O = unit_vectors(40, 30, dim=dim), drawn(40, 30, seed=1)
    one, other = (vectors.geodesic_move_(W.clone(), O, 0.3, 1.0, fixed_angle=False, dim=dim) for _ in range(2))
    assert torch.equal(one, other)


def test_vectors_are_shared_among_programs() -> None:
    """Short vectors share a program, so do neighbors in memory, and no program holds more than its limit."""
    assert launch.vectors_together(768, 768) == 2 and launch.vectors_together(2048, 2048) == 1
    assert launch.vectors_together(768, 1) == 8 and launch.vectors_together(768, 768, 1) == 8
    for length in (1, 2, 3, 17, 64, 768, 1024, 1025, 2048, 5000, LONGEST):
        for between in (1, length):
            together, block = launch.vectors_together(length, between), launch.block_of(length)
            assert length <= block < 2 * length and launch.WORK <= together * block <= launch.MOST
            assert launch.warps_for(together * block) * 32 * 16 >= min(together * block, 8192)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    for dim in DIMS:
        W = torch.empty(shape)
        assert vectors.project_(W, dim=dim) is W
        assert vectors.geodesic_move_(W, torch.empty(shape), 0.1, 1.0, fixed_angle=True, dim=dim) is W


def test_the_longest_vector() -> None:
    for dim, shape in ((-1, (1, LONGEST)), (-2, (LONGEST, 2))):
        W, O = unit_vectors(*shape, dim=dim), drawn(*shape, seed=1) / LONGEST**0.5
        moved = vectors.geodesic_move_(W.clone(), O, 0.3, 1.0, fixed_angle=False, dim=dim)
        exact = rotated(W, O, 0.3, 1.0, fixed_angle=False, dim=dim)
        assert np.abs(moved.double().numpy() - exact).max() <= rotation_error(W, O, 0.3, W.dtype, dim)


def test_offsets_beyond_32_bits() -> None:
    """Rows, then matrices, 2^31 elements apart; the memory between them is reserved but never touched."""
    try:
        memory = torch.empty(2**31 + 64, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("this machine reserves no 4 GiB")
    for size, stride in (((2, 8), (2**31, 1)), ((2, 1, 8), (2**31, 8, 1))):
        W = memory.as_strided(size, stride)
        W.copy_(unit_vectors(*size, dim=-1))
        expected = vectors.geodesic_move_(W.clone(), W.flip(-1).clone(), 0.3, 1.0, fixed_angle=True, dim=-1)
        vectors.geodesic_move_(W, W.flip(-1).clone(), 0.3, 1.0, fixed_angle=True, dim=-1)
        assert torch.equal(W, expected)


def test_autograd_knows_that_a_weight_was_written_to() -> None:
    W = torch.nn.Parameter(drawn(3, 4))
    loss = (W * W).sum()
    with torch.no_grad():
        vectors.project_(W, dim=-1)
        vectors.geodesic_move_(W, drawn(3, 4, seed=1), 0.1, 1.0, fixed_angle=True, dim=-1)
    assert W._version == 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_refusals() -> None:
    W = drawn(3, 4)
    move = {"lr": 0.1, "scale": 1.0, "fixed_angle": True}
    for dtype in (torch.float64, torch.int32):
        with pytest.raises(TypeError, match=f"in float32, which {dtype} does not fit"):
            vectors.project_(W.to(dtype), dim=-1)
        with pytest.raises(TypeError, match=f"in float32, which {dtype} does not fit"):
            vectors.geodesic_move_(W.to(dtype), W, dim=-1, **move)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"1 to {LONGEST} numbers, not {LONGEST + 1}"):
        vectors.project_(torch.ones(1, LONGEST + 1), dim=-1)
    with pytest.raises(ValueError, match=r"weights \(3, 4\) and direction \(4, 3\) differ"):
        vectors.geodesic_move_(W, W.mT, dim=-1, **move)  # type: ignore[arg-type]
    for tensor, dim in ((W, -3), (W, 2), (drawn(2, 3, 4), 0), (drawn(4), 0)):
        with pytest.raises(ValueError, match="one of the last two dimensions"):
            vectors.project_(tensor, dim=dim)
