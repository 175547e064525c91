"""The momentum kernel in Triton's interpreter against float64, down to the smallest numbers, and its errors."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

pytest.importorskip("triton")
import torch
from helpers import EPS, EPS32, altered, drawn
from torch import Tensor

from ngpt.kernels import momentum, twins

SHAPES = [(1, 1), (1, 9), (5, 7), (33, 20), (64, 64), (4097, 1), (2, 65, 63)]
Check = Callable[[ModuleType], None]


class Step(NamedTuple):
    """The outcome of one step: momentum, result, and its norm."""

    M: Tensor
    X: Tensor
    norm: Tensor


def stepped(module: ModuleType, M: Tensor, G: Tensor, mu: object, *, nesterov: bool, dtype: torch.dtype) -> Step:
    M, X = M.clone(), torch.full_like(M, 7.0, dtype=dtype)
    kept = G.clone()
    norm = module.momentum_step_(M, G, mu, nesterov=nesterov, out=X)
    torch.testing.assert_close(G, kept, rtol=0, atol=0, equal_nan=True)
    assert norm.shape == () and norm.dtype == torch.float32
    return Step(M, X, norm)


def exact(M: Tensor, G: Tensor, mu: float, *, nesterov: bool) -> tuple[Tensor, Tensor]:
    """Return the exact step in float64, with mu rounded to float32 so that 1 - mu is exact too."""
    mu, M, G = torch.tensor(mu).item(), M.double(), G.double()
    M = mu * M + (1 - mu) * G
    return M, (1 - mu) * G + mu * M if nesterov else M


def check(
    module: ModuleType,
    shape: tuple[int, ...] = (33, 20),
    mu: float = 0.9,
    factor: float = 1.0,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 3,
) -> None:
    """Allow three roundings of the larger of momentum and gradient (the third has none to cancel), and storing.

    The norm is that of the stored values: half a rounding per square, which the root halves again, and half a rounding
    per product after it.
    """
    M, G = (factor * drawn(*shape, seed=seed).to(dtype) for seed, dtype in zip((1, 2), dtypes, strict=False))
    for nesterov in (True, False):
        step = stepped(module, M, G, mu, nesterov=nesterov, dtype=dtypes[2])
        M_exact, X_exact = exact(M, G, mu, nesterov=nesterov)
        size = torch.maximum(M.double().abs(), G.double().abs())
        for stored, wanted in ((step.M, M_exact), (step.X, X_exact)):
            storing = EPS[stored.dtype] * wanted.abs() if stored.dtype != torch.float32 else 0
            allowed = 2 * EPS32 * size + storing + torch.finfo(stored.dtype).smallest_normal * EPS[stored.dtype]
            error = (stored.double() - wanted).abs() - allowed
            assert error.max().item() <= 0, (nesterov, stored.dtype)
        norm = step.X.double().norm()
        assert abs(step.norm.double() - norm) <= 4 * EPS32 * norm + torch.finfo(torch.float32).smallest_normal * EPS32


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_momentum(shape: tuple[int, ...], mu: float) -> None:
    check(momentum, shape, mu)


@pytest.mark.parametrize("out", EPS, ids=str)
@pytest.mark.parametrize("gradient", EPS, ids=str)
@pytest.mark.parametrize("buffer", EPS, ids=str)
def test_momentum_of_every_dtype(buffer: torch.dtype, gradient: torch.dtype, out: torch.dtype) -> None:
    check(momentum, dtypes=(buffer, gradient, out))


@pytest.mark.parametrize("exponent", [-44, -40, -38, -30, -20, 15, 30, 34])
def test_small_and_large_gradients(exponent: int) -> None:
    """Squares leave the range of float32, as do inverses below 1e-38; zeros among them must not become NaN."""
    check(momentum, factor=10.0**exponent)
    G = torch.zeros(70, 70)
    G[3, 5] = 10.0**exponent
    step = stepped(momentum, torch.zeros(70, 70), G, 0.0, nesterov=True, dtype=torch.float32)
    torch.testing.assert_close(step.norm, G[3, 5], rtol=2 * EPS32, atol=0)


def test_blocks_of_different_sizes_have_one_norm() -> None:
    """1e-30, 1, 0 and 1e15 in four blocks, combined."""
    G = torch.zeros(4, momentum.BLOCK)
    G[0], G[1], G[3] = 1e-30, 1.0, 1e15
    for rows, norm in (([0, 2], 64e-30), ([1, 2], 64.0), ([0, 1, 2], 64.0), ([0, 1, 2, 3], 64e15)):
        part = G[rows].contiguous()
        step = stepped(momentum, torch.zeros_like(part), part, 0.0, nesterov=False, dtype=torch.float32)
        assert math.isclose(step.norm.item(), norm, rel_tol=8 * EPS32)


def test_the_norm_of_nothing_is_zero() -> None:
    for shape in ((5, 7), (0, 4), (4, 0)):
        step = stepped(momentum, torch.zeros(shape), torch.zeros(shape), 0.9, nesterov=True, dtype=torch.bfloat16)
        assert step.norm.item() == 0 and not step.X.any() and not step.M.any()


@pytest.mark.filterwarnings("ignore:.*invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_non_finite_gradients_give_a_non_finite_norm(wrong: float) -> None:
    G = drawn(70, 70)
    G[40, 3] = wrong
    step = stepped(momentum, torch.zeros(70, 70), G, 0.9, nesterov=True, dtype=torch.float32)
    assert not step.norm.isfinite() and not step.X[40, 3].isfinite() and step.X.isfinite().sum() == 70 * 70 - 1


def test_the_twin_gives_the_same() -> None:
    M, G = drawn(20, 30, seed=1), drawn(20, 30, seed=2)
    for nesterov in (True, False):
        for mu in (0.3, 0.95):
            one, other = (stepped(place, M, G, mu, nesterov=nesterov, dtype=M.dtype) for place in (momentum, twins))
            for kernel, twin in zip(one, other, strict=True):
                torch.testing.assert_close(kernel, twin, rtol=4 * EPS32, atol=8 * EPS32)


def test_mu_may_be_a_tensor() -> None:
    M, G = drawn(5, 9, seed=1), drawn(5, 9, seed=2)
    by_number = stepped(momentum, M, G, 0.95, nesterov=True, dtype=M.dtype)
    for mu in (torch.tensor(0.95), torch.tensor([0.95]), torch.tensor(0.95, dtype=torch.float64)):
        by_tensor = stepped(momentum, M, G, mu, nesterov=True, dtype=M.dtype)
        assert all(torch.equal(one, other) for one, other in zip(by_number, by_tensor, strict=True))
    with pytest.raises(ValueError, match="one number"):
        momentum.momentum_step_(M, G, torch.ones(2), nesterov=True, out=M.clone())


def test_deterministic() -> None:
    M, G = drawn(129, 129, seed=1), drawn(129, 129, seed=2)
    one, other = (stepped(momentum, M, G, 0.95, nesterov=True, dtype=torch.bfloat16) for _ in range(2))
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def test_gradients_may_have_any_strides() -> None:
    M, G = drawn(20, 30, seed=1), drawn(30, 20, seed=2).mT
    one, other = (stepped(momentum, M, g, 0.9, nesterov=True, dtype=M.dtype) for g in (G, G.contiguous()))
    assert torch.equal(one.X, other.X) and torch.equal(one.M, other.M)


def test_written_in_place_between_other_matrices() -> None:
    """Slices of a stack are written and their neighbors are not; autograd sees both writes."""
    stack, momenta = torch.full((3, 5, 7), 7.0), torch.full((3, 5, 7), 7.0)
    out, M = stack[1], momenta[1]
    momentum.momentum_step_(M, drawn(5, 7), 0.9, nesterov=True, out=out)
    for whole, part in ((stack, out), (momenta, M)):
        assert (whole[[0, 2]] == 7).all() and (whole[1] != 7).all() and part._version == 1


def check_tiny(module: ModuleType) -> None:
    check(module, factor=1e-30)


MUTANTS = [
    pytest.param(check, "m += (1.0 - mu)", "m -= (1.0 - mu)", id="sign"),
    pytest.param(check, "m += (1.0 - mu)", "m += mu", id="weight"),
    pytest.param(check, "g + mu * (m - g)", "m + mu * (g - m)", id="look-ahead turned over"),
    pytest.param(check, "if NESTEROV", "if not NESTEROV", id="the other form"),
    pytest.param(check_tiny, "scaled = x * (1.0 / largest)", "scaled = x", id="squares of small numbers"),
    pytest.param(check, "largest * tl.sqrt", "tl.sqrt", id="relative norm"),
    pytest.param(check_tiny, "(norms / scale)", "(norms)", id="squares of small norms"),
]


@pytest.mark.parametrize(("check", "text", "replacement"), MUTANTS)
def test_a_mutant_is_rejected(check: Check, text: str, replacement: str, tmp_path: Path) -> None:
    mutant = altered(momentum, text, replacement, tmp_path)
    with pytest.raises(AssertionError):
        check(mutant)


def test_refusals() -> None:
    M, G = drawn(4, 6), drawn(4, 6)
    with pytest.raises(ValueError, match=r"momentum \(4, 6\), gradient \(6, 4\) and result \(4, 6\) differ"):
        momentum.momentum_step_(M, G.mT, 0.9, nesterov=True, out=M.clone())
    with pytest.raises(ValueError, match=r"gradient \(4, 6\) and result \(24,\) differ"):
        momentum.momentum_step_(M, G, 0.9, nesterov=True, out=torch.empty(24))
    for buffer, out in ((drawn(6, 4).mT, M), (M, drawn(6, 4).mT)):
        with pytest.raises(ValueError, match="must be contiguous"):
            momentum.momentum_step_(buffer, G, 0.9, nesterov=True, out=out)
    for number in range(3):
        given = [M.double() if at == number else M.clone() for at in range(3)]
        with pytest.raises(TypeError, match=r"in float32, which torch.float64 does not fit"):
            momentum.momentum_step_(given[0], given[1], 0.9, nesterov=True, out=given[2])
