"""Torch twins of the kernels: the same signatures on every device, and the reference in the kernels' tests."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ngpt import sphere

# --- products --------------------------------------------------------------------------------------------------------


def xxt(A: Tensor) -> Tensor:
    """Return A A', (M, M) or (N, M, M), for A (M, K) or (N, M, K), in A's dtype."""
    return torch.mm(A, A.mT) if A.ndim == 2 else torch.bmm(A, A.mT)  # matmul would expand and reshape first


def ba_plus_cAA(A: Tensor, b: float, c: float, *, check: bool = True) -> Tensor:  # noqa: N802 (the field's name)
    """Return b A + c A A for symmetric A (M, M) or (N, M, M), in A's dtype.

    Raises ValueError if A is not square or, with `check`, not symmetric; the check waits for the device.
    """
    check_symmetric(A, values=check)
    add_product = torch.addmm if A.ndim == 2 else torch.baddbmm
    return add_product(A, A, A, beta=b, alpha=c)


def aX_plus_BX(X: Tensor, B: Tensor, a: float) -> Tensor:  # noqa: N802 (the field's name)
    """Return a X + B X for X (M, K) or (N, M, K) and square B."""
    add_product = torch.addmm if X.ndim == 2 else torch.baddbmm
    return add_product(X, B, X, beta=a)


def check_symmetric(A: Tensor, *, values: bool) -> None:
    """Raise ValueError unless A (..., M, M) is square and, with `values`, bitwise equal to its transpose."""
    if A.ndim < 2 or A.size(-2) != A.size(-1):
        raise ValueError(f"a symmetric matrix is square, not {tuple(A.shape)}")
    if values and not torch.equal(A, A.mT):
        raise ValueError("b A + c A A is computed as b A + c A A', which needs a symmetric A")


# --- elementwise steps -----------------------------------------------------------------------------------------------


def project_(W: Tensor, *, dim: int) -> Tensor:
    """Project the vectors along `dim` of W (..., m, n) to the unit sphere in place, and return W."""
    return W.copy_(sphere.project(W, dim=dim))


def geodesic_move_(W: Tensor, O: Tensor, lr: Tensor | float, scale: float, *, fixed_angle: bool, dim: int) -> Tensor:
    """Rotate the vectors along `dim` of W (..., m, n) as `ngpt.sphere.turn` by D = -scale O in place, and return W."""
    return W.copy_(sphere.turn(W, -(scale * O.to(W.dtype)), lr, fixed_angle=fixed_angle, dim=dim))


def lerp(start: Tensor, end: Tensor, weight: Tensor | float, *, out: Tensor | None = None) -> Tensor:
    """Return start + weight (end - start), as torch.lerp with a number: a tensor is not rounded to a shorter dtype."""
    if not isinstance(weight, Tensor):
        return torch.lerp(start, end, weight, out=out)
    wide = torch.promote_types(start.dtype, torch.float32)
    if start.dtype == wide:
        return torch.lerp(start, end, weight.to(wide), out=out)
    moved = torch.lerp(start.to(wide), end.to(wide), weight.to(wide)).to(start.dtype)
    return moved if out is None else out.copy_(moved)


def momentum_step_(M: Tensor, G: Tensor, mu: Tensor | float, *, nesterov: bool, out: Tensor) -> Tensor:
    """Update M <- mu M + (1 - mu) G in place; write M, or (1 - mu) G + mu M with `nesterov`, to `out` in its dtype.

    M, G, out: one shape (m, n). Returns |out|_F, () in float32, of the rounded values in `out`.
    """
    lerp(M, G, 1 - mu, out=M)
    out.copy_(lerp(G, M, mu) if nesterov else M)
    if not out.numel():
        return out.new_zeros((), dtype=torch.float32)
    largest = out.abs().amax().float()
    scale = torch.where(largest > 0, largest, 1.0)
    return scale * torch.linalg.vector_norm(out.float() / scale)


class _Unit(torch.autograd.Function):
    """y = x / |x| along the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = sphere.inverse_length(x, dim=-1)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        ctx.dtype = x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return unit_gradient(g, *ctx.saved_tensors).to(ctx.dtype)


class _ResidualStep(torch.autograd.Function):
    """y = N(z) for z = h + a (n - h), n = N(f). Tensors made here are reused in place: a CPU waits for memory."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, f: Tensor, a: Tensor) -> Tensor:
        inverse_f = sphere.inverse_length(f, dim=-1)
        n = f * inverse_f
        z = torch.lerp(h, n, a)
        inverse_z = sphere.inverse_length(z, dim=-1)
        y = z.mul_(inverse_z)
        ctx.save_for_backward(h, n, a, y, inverse_f, inverse_z)
        ctx.dtype = f.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, n, a, y, inverse_f, inverse_z = ctx.saved_tensors
        dz = unit_gradient(g, y, inverse_z)
        da = (n - h).mul_(dz).reshape(-1, len(a)).sum(dim=0)
        df = unit_gradient(dz * a, n, inverse_f).to(ctx.dtype)
        return dz.mul_(1 - a), df, da


def unit_gradient(g: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient (g - y <g, y>) / |x| of x, a new tensor, for the gradient g of y = x / |x|.

    g, y: (..., D); inverse: 1 / |x|, (..., 1).
    """
    along = (g * y).sum(dim=-1, keepdim=True)
    return torch.addcmul(g, y, along, value=-1).mul_(inverse)


def unit(x: Tensor) -> Tensor:
    """Return N(x) for activations x (..., D), in at least float32; differentiable once."""
    return cast(Tensor, _Unit.apply(x))


def residual_step(h: Tensor, f: Tensor, a: Tensor) -> Tensor:
    """Return N(h + a (N(f) - h)) in float32 for h, f (..., D) and a (D,); differentiable once."""
    return cast(Tensor, _ResidualStep.apply(h, f, a))
