"""The residual step in Triton's interpreter against its float64 twin, forward and backward, and its errors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton")
import torch
from helpers import EPS, EPS32, altered, drawn
from torch import Tensor

from ngpt.kernels import LONGEST, residual, twins

SHAPES = [(1,), (7,), (1, 1), (3, 1), (1, 9), (5, 7), (33, 20), (130, 17), (3, 33, 20), (2, 2, 5, 12), (3, 700)]
Check = Callable[[ModuleType], None]
Results = tuple[Tensor, Tensor, Tensor, Tensor]


def drawn_inputs(*shape: int, f_dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return h on the sphere, f of length about 3, step sizes of both signs and above 1, and a gradient of y."""
    h = drawn(*shape).double()
    h = (h / h.norm(dim=-1, keepdim=True)).float()
    f = (3 * drawn(*shape, seed=1) / shape[-1] ** 0.5).to(f_dtype)
    return h, f, drawn(shape[-1], seed=2) * 0.7, drawn(*shape, seed=3)


def results(module: ModuleType, h: Tensor, f: Tensor, a: Tensor, g: Tensor) -> Results:
    """Return y and the gradients of h, f and a, after checking that the inputs are unchanged."""
    inputs = [x.detach().clone().requires_grad_() for x in (h, f, a)]
    y = module.residual_step(*inputs)
    y.backward(g.to(y.dtype))
    assert all(torch.equal(x, kept) for x, kept in zip(inputs, (h, f, a), strict=True))
    gradients = [x.grad for x in inputs]
    assert y.is_contiguous() and all(x is not None for x in gradients)
    return y.detach(), *gradients  # type: ignore[return-value]


def shares(h: Tensor, f: Tensor, a: Tensor, g: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the size of the terms summed in each result, per row and for `a` over the rows; rounding scales with it."""
    h, f, a, g = (x.double() for x in (h, f, a, g))
    x = f / f.norm(dim=-1, keepdim=True).clamp_min(1e-18)
    terms = h.abs() + a.abs() * (x.abs() + h.abs())
    z = (h + a * (x - h)).norm(dim=-1, keepdim=True)
    cancelled = terms.norm(dim=-1, keepdim=True) / z
    inverse_f = torch.where(f.norm(dim=-1, keepdim=True) > 1e-18, 1 / f.norm(dim=-1, keepdim=True).clamp_min(1e-18), 1)
    gz = g.norm(dim=-1, keepdim=True) / z * cancelled
    wide = 1 + a.abs().max()
    yield "y", cancelled * torch.ones_like(h)
    yield "h", wide * gz * torch.ones_like(h)
    yield "f", wide * gz * inverse_f * torch.ones_like(h)
    yield "a", (gz * 2 * torch.ones_like(h)).reshape(-1, h.size(-1)).sum(dim=0)


def check(module: ModuleType, shape: tuple[int, ...] = (33, 20), f_dtype: torch.dtype = torch.float32) -> None:
    """Allow two float32 roundings of the summed terms, and one of the storage dtype if it is narrower.

    Observed errors are at most half of that, as the many roundings in a row differ in sign.
    """
    compare(module, *drawn_inputs(*shape, f_dtype=f_dtype))


def compare(module: ModuleType, h: Tensor, f: Tensor, a: Tensor, g: Tensor) -> None:
    found = results(module, h, f, a, g)
    exact = results(twins, h.double(), f.double(), a.double(), g.double())
    for (name, share), kernel, twin, like in zip(shares(h, f, a, g), found, exact, (g, h, f, a), strict=True):
        assert kernel.dtype == (torch.float32 if name == "y" else like.dtype) and kernel.shape == twin.shape
        storing = EPS[kernel.dtype] * twin.abs() + torch.finfo(kernel.dtype).smallest_normal * EPS[kernel.dtype]
        error = (kernel.double() - twin).abs() - EPS32 * share - storing
        assert error.max().item() <= 0, f"{name} is off by {(kernel.double() - twin).abs().max().item():.2e}"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_residual_step(shape: tuple[int, ...]) -> None:
    check(residual, shape)


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("operand", ["h", "f", "a"])
def test_residual_step_of_every_dtype(operand: str, dtype: torch.dtype) -> None:
    h, f, a, g = drawn_inputs(12, 21)
    kinds = {"h": h, "f": f, "a": a}
    kinds[operand] = kinds[operand].to(dtype)
    compare(residual, *kinds.values(), g)


def test_a_program_takes_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three programs for 131 rows, two rows at a time, so that each sums 22 turns, the last one half full."""
    monkeypatch.setattr(residual, "PROGRAMS", 3)
    monkeypatch.setattr(residual, "WORK", 64)
    for rows in (1, 5, 6, 7, 131):
        check(residual, (rows, 20))


def check_zeros(module: ModuleType) -> None:
    """Check rows of f without direction, zero and nearly zero: the step is h (1 - a), with a finite gradient.

    Such an f is added unnormalized, so its gradient is that of a plain sum.
    """
    h, f, a, g = drawn_inputs(12, 20)
    f[3], f[7] = 0, 1e-21
    compare(module, h, f, a, g)
    y, _, gf, _ = results(module, h, f, a, g)
    shrunk = (h[3] * (1 - a)).double()
    torch.testing.assert_close(y[3].double(), shrunk / shrunk.norm(), rtol=0, atol=4 * EPS32)
    along = g[3].double() - y[3].double() * (g[3].double() @ y[3].double())
    torch.testing.assert_close(gf[3].double(), a * along / shrunk.norm(), rtol=8 * EPS32, atol=8 * EPS32)


def test_a_branch_without_direction() -> None:
    check_zeros(residual)


def test_a_step_to_nowhere() -> None:
    """Halfway from h to its antipode is zero: no direction, nothing to divide by, and a finite gradient."""
    h = torch.eye(4)
    y, gh, gf, ga = results(residual, h, -h, torch.full((4,), 0.5), drawn(4, 4))
    assert not y.any() and all(torch.isfinite(x).all() for x in (gh, gf, ga))
    twin = results(twins, h, -h, torch.full((4,), 0.5), drawn(4, 4))
    for kernel, other in zip((y, gh, gf, ga), twin, strict=True):
        torch.testing.assert_close(kernel, other, rtol=4 * EPS32, atol=4 * EPS32)


def test_a_step_of_no_size_gives_h() -> None:
    h, f, _, g = drawn_inputs(12, 20)
    y, gh, gf, _ = results(residual, h, f, torch.zeros(20), g)
    torch.testing.assert_close(y, h, rtol=2 * EPS32, atol=0)
    assert not gf.any() and gh.any()


def test_autograd_agrees_with_differences() -> None:
    """Directional derivatives of y in each input by the kernel alone, without its twin."""
    h, f, a, g = drawn_inputs(6, 10)
    _, *gradients = results(residual, h, f, a, g)
    for number, gradient in enumerate(gradients):
        direction = drawn(*gradient.shape, seed=9)
        sides = []
        for sign in (1, -1):
            moved = [x + sign * 2.0**-9 * direction if at == number else x for at, x in enumerate((h, f, a))]
            sides.append((residual.residual_step(*moved).double() * g).sum().item())
        difference, derivative = (sides[0] - sides[1]) / 2**-8, (gradient * direction).sum().item()
        assert abs(difference - derivative) <= 1e-3 * max(1.0, abs(derivative)), "of second order in 2^-9, and 2^9 eps"


def test_strides_and_gradients_of_any_layout() -> None:
    h, f, a, g = drawn_inputs(4, 6, 10)
    plain = results(residual, h, f, a, g)
    turned = [x.mT.contiguous().mT for x in (h, f, g)]
    a_wide = torch.stack([a, a], dim=1)[:, 0]
    assert all(not x.is_contiguous() for x in (*turned, a_wide))
    strided = results(residual, turned[0], turned[1], a_wide, turned[2])
    assert all(torch.equal(one, other) for one, other in zip(plain, strided, strict=True))
    inputs = [x.clone().requires_grad_() for x in (h, f, a)]
    residual.residual_step(*inputs).sum().backward()  # a gradient without strides
    ones = results(residual, h, f, a, torch.ones_like(g))
    assert all(torch.equal(x.grad, other) for x, other in zip(inputs, ones[1:], strict=True))  # type: ignore[arg-type]


def test_the_twin_takes_any_layout() -> None:
    h, f, a, g = drawn_inputs(4, 6, 10)
    plain = results(twins, h, f, a, g)
    inputs = [*(x.mT.contiguous().mT.requires_grad_() for x in (h, f)), a.clone().requires_grad_()]
    y = twins.residual_step(*inputs)
    y.backward(g)
    for one, other in zip([y, *(x.grad for x in inputs)], plain, strict=True):
        torch.testing.assert_close(one, other)


def test_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual, "PROGRAMS", 3)
    one, other = (results(residual, *drawn_inputs(400, 20)) for _ in range(2))
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def test_no_rows() -> None:
    for shape in ((0, 5), (3, 0, 5)):
        y, gh, gf, ga = results(residual, *drawn_inputs(*shape))
        assert y.shape == gh.shape == gf.shape == shape and torch.equal(ga, torch.zeros(5))


def test_the_longest_row() -> None:
    check(residual, (2, LONGEST))


def check_width(module: ModuleType) -> None:
    check(module, (3, 17))


MUTANTS = [
    pytest.param(check, "z = h + a * (f * inverse_length(f) - h)", "z = h + a * (f - h)", id="branch not projected"),
    pytest.param(check, "tl.store(y_ptr + at, z * inverse_length(z)", "tl.store(y_ptr + at, z", id="not projected"),
    pytest.param(check, "(g - y * tl.sum(g * y,", "(g + y * tl.sum(g * y,", id="sign of y"),
    pytest.param(check, "keep_dims=True)) * inverse_z", "keep_dims=True))", id="length of z"),
    pytest.param(check, "(gx - x * tl.sum(gx * x,", "(gx + x * tl.sum(gx * x,", id="sign of x"),
    pytest.param(check, "keep_dims=True)) * inverse_f", "keep_dims=True))", id="length of f"),
    pytest.param(check, "gz * (x - h)", "gz * (h - x)", id="sign of a"),
    pytest.param(check, "ga += tl.sum", "ga = tl.sum", id="last turn only"),
    pytest.param(check, "(gz - gx)", "gz", id="h without its share"),
    pytest.param(check_zeros, "1.0 / tl.maximum(norm, TINY), 1.0)", "1.0 / tl.maximum(norm, TINY), 0.0)", id="zero"),
]


@pytest.mark.parametrize(("check", "text", "replacement"), MUTANTS)
def test_a_mutant_is_rejected(check: Check, text: str, replacement: str, tmp_path: Path) -> None:
    mutant = altered(residual, text, replacement, tmp_path)
    mutant.PROGRAMS, mutant.WORK = 3, 64  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        check(mutant)


def test_refusals() -> None:
    h, f, a, _ = drawn_inputs(4, 6)
    with pytest.raises(ValueError, match=r"of \(4, 6\) towards \(3, 6\) by \(6,\)"):
        residual.residual_step(h, f[:3], a)
    with pytest.raises(ValueError, match=r"by \(\)"):
        residual.residual_step(h, f, a[0])
    for given in ((h.double(), f, a), (h, f.double(), a), (h, f, a.double())):
        with pytest.raises(TypeError, match=r"in float32, which torch.float64 does not fit"):
            residual.residual_step(*given)
    long = torch.ones(1, LONGEST + 1)
    with pytest.raises(ValueError, match=f"1 to {LONGEST} numbers, not {LONGEST + 1}"):
        residual.residual_step(long, long, long[0])


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    h, f, a, _ = (x.requires_grad_() for x in drawn_inputs(4, 6))
    (gradient,) = torch.autograd.grad(residual.residual_step(h, f, a).square().sum(), h, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
