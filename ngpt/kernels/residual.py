"""Triton kernels for the residual step N(h + a (N(f) - h)), forward and backward, each in one pass over memory.

Bytes per element, forward: 4 for h, 2 to 4 for f, 4 for the result; backward: h, f and the incoming gradient in, both
gradients out. The same step in torch's operations moves about five times as much, and at any width memory traffic
costs more than the arithmetic.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ngpt.kernels.launch import FUSED, WORK, block_of, check_dtypes, warps_for
from ngpt.sphere import UNIT_TINY

TINY = tl.constexpr(UNIT_TINY)

PROGRAMS = 1024
"""Most programs in the backward pass, 8 per multiprocessor; each writes a partial sum of the gradient of `a`"""


@triton.jit  # type: ignore[untyped-decorator]
def inverse_length(x):  # type: ignore[no-untyped-def]
    """Return 1 / |x| for each row, or 1 where the row has no direction."""
    norm = tl.sqrt(tl.sum(x * x, axis=1, keep_dims=True))
    return tl.where(norm > TINY, 1.0 / tl.maximum(norm, TINY), 1.0)


@triton.jit  # type: ignore[untyped-decorator]
def residual_forward(  # type: ignore[no-untyped-def]
    h_ptr, f_ptr, a_ptr, y_ptr, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Compute ROWS rows of y = N(h + a (N(f) - h))."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    exists = (row[:, None] < rows) & (column[None, :] < width)
    at = row[:, None].to(tl.int64) * width + column[None, :]
    h = tl.load(h_ptr + at, mask=exists, other=0.0).to(tl.float32)
    f = tl.load(f_ptr + at, mask=exists, other=0.0).to(tl.float32)
    a = tl.load(a_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    z = h + a * (f * inverse_length(f) - h)
    tl.store(y_ptr + at, z * inverse_length(z), mask=exists)


@triton.jit  # type: ignore[untyped-decorator]
def residual_backward(  # type: ignore[no-untyped-def]
    h_ptr, f_ptr, a_ptr, g_ptr, gh_ptr, gf_ptr, ga_ptr, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Compute the gradients of h and f, and this program's part of that of a, from that of y; z and y are recomputed.

    With x = N(f), z = h + a (x - h): g_z = (g - y <g, y>) / |z|, g_h = (1 - a) g_z, g_a = g_z (x - h) summed over the
    rows, g_f = (a g_z - x <a g_z, x>) / |f|.
    """
    column = tl.arange(0, BLOCK)
    a = tl.load(a_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    ga = tl.zeros((1, BLOCK), dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        exists = (row[:, None] < rows) & (column[None, :] < width)
        at = row[:, None].to(tl.int64) * width + column[None, :]
        h = tl.load(h_ptr + at, mask=exists, other=0.0).to(tl.float32)
        f = tl.load(f_ptr + at, mask=exists, other=0.0).to(tl.float32)
        g = tl.load(g_ptr + at, mask=exists, other=0.0).to(tl.float32)
        inverse_f = inverse_length(f)
        x = f * inverse_f
        z = h + a * (x - h)
        inverse_z = inverse_length(z)
        y = z * inverse_z
        gz = (g - y * tl.sum(g * y, axis=1, keep_dims=True)) * inverse_z
        ga += tl.sum(gz * (x - h), axis=0, keep_dims=True)
        gx = a * gz
        gf = (gx - x * tl.sum(gx * x, axis=1, keep_dims=True)) * inverse_f
        tl.store(gh_ptr + at, (gz - gx).to(gh_ptr.dtype.element_ty), mask=exists)
        tl.store(gf_ptr + at, gf.to(gf_ptr.dtype.element_ty), mask=exists)
    tl.store(ga_ptr + tl.program_id(0) * width + column[None, :], ga, mask=column[None, :] < width)


class ResidualStep(torch.autograd.Function):
    """y = N(h + a (N(f) - h)), which saves only its three inputs for the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, h: Tensor, f: Tensor, a: Tensor) -> Tensor:
        """h, f (..., D), a (D,) -> (..., D) in float32."""
        h, f, a = h.contiguous(), f.contiguous(), a.contiguous()
        rows, width, block, at_once = _cut(h)
        y = torch.empty(h.shape, dtype=torch.float32, device=h.device)
        if rows:
            residual_forward[(math.ceil(rows / at_once),)](
                h, f, a, y, rows, width, ROWS=at_once, BLOCK=block,
                num_warps=warps_for(at_once * block), enable_fp_fusion=FUSED,
            )  # fmt: skip
        ctx.save_for_backward(h, f, a)
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of h, f and a, each in the dtype of its input."""
        h, f, a = ctx.saved_tensors
        rows, width, block, at_once = _cut(h)
        gh, gf = torch.empty_like(h), torch.empty_like(f)
        programs = min(PROGRAMS, math.ceil(rows / at_once))
        parts = torch.empty(programs, width, dtype=torch.float32, device=h.device)
        if rows:
            residual_backward[(programs,)](
                h, f, a, gradients[0].contiguous(), gh, gf, parts, rows, width, ROWS=at_once, BLOCK=block,
                num_warps=warps_for(at_once * block), enable_fp_fusion=FUSED,
            )  # fmt: skip
        return gh, gf, parts.sum(dim=0).to(a.dtype)  # summed in a fixed order, so the bits are reproducible


def residual_step(h: Tensor, f: Tensor, a: Tensor) -> Tensor:
    """Return N(h + a (N(f) - h)) in float32 for h, f (..., D) and a (D,); once differentiable.

    Raises ValueError if shapes do not match or D exceeds `LONGEST`, TypeError for float64. Twin: `twins.residual_step`.
    """
    check_dtypes(h, f, a)
    if h.shape != f.shape or a.shape != h.shape[-1:]:
        raise ValueError(f"a residual step of {tuple(h.shape)} towards {tuple(f.shape)} by {tuple(a.shape)}")
    y: Tensor = ResidualStep.apply(h, f, a)
    return y


def _cut(h: Tensor) -> tuple[int, int, int, int]:
    """Return the number of rows, their width, the power of two that holds a row, and the rows per program."""
    block = block_of(h.size(-1))
    return h.numel() // h.size(-1), h.size(-1), block, max(1, WORK // block)
