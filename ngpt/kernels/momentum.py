"""A Triton kernel: momentum, Nesterov's look-ahead and what the norm of the result needs, in one pass over memory.

14 bytes a float32 number with a bfloat16 result: gradient and momentum read, momentum and result written.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Numbers a program takes."""


@triton.jit  # type: ignore[untyped-decorator]
def momentum_pass(  # type: ignore[no-untyped-def]
    m_ptr, g_ptr, x_ptr, mu_ptr, largest_ptr, squares_ptr, numbers, NESTEROV: tl.constexpr, SIZE: tl.constexpr
):
    """M <- mu M + (1 - mu) G in place, X; and of X the largest entry, and the sum of (x / largest)^2, of this block."""
    program = tl.program_id(0)
    at = program.to(tl.int64) * SIZE + tl.arange(0, SIZE)
    exists = at < numbers
    mu = tl.load(mu_ptr)
    g = tl.load(g_ptr + at, mask=exists, other=0.0).to(tl.float32)
    m = tl.load(m_ptr + at, mask=exists, other=0.0).to(tl.float32)
    m += (1.0 - mu) * (g - m)
    tl.store(m_ptr + at, m.to(m_ptr.dtype.element_ty), mask=exists)
    x = m
    if NESTEROV:
        x = g + mu * (m - g)
    kept = x.to(x_ptr.dtype.element_ty)
    tl.store(x_ptr + at, kept, mask=exists)
    x = kept.to(tl.float32)
    largest = tl.max(tl.abs(x), axis=0)
    scaled = x * tl.where(largest > 0.0, 1.0 / largest, 0.0)
    tl.store(largest_ptr + program, largest)
    tl.store(squares_ptr + program, tl.sum(scaled * scaled, axis=0))


def momentum_step_(M: Tensor, G: Tensor, mu: Tensor | float, *, nesterov: bool, out: Tensor) -> Tensor:
    """M <- mu M + (1 - mu) G in place; into `out`, in its dtype, M or with `nesterov` (1 - mu) G + mu M.

    All of one shape and contiguous; mu: a number, or one number on their device. Returns |out|_F, () in float32, of
    what was rounded to `out`, exact down to the smallest numbers: each block's squares are taken relative to its
    largest. The twin: `ngpt.kernels.twins.momentum_step_`.
    """
    if not M.shape == G.shape == out.shape:
        raise ValueError(f"momentum {tuple(M.shape)}, gradient {tuple(G.shape)} and result {tuple(out.shape)} differ")
    if not (M.is_contiguous() and out.is_contiguous()):
        raise ValueError("the momentum and the result are written in place, and must be contiguous")
    if torch.float64 in (M.dtype, G.dtype, out.dtype):
        raise TypeError("this kernel computes in float32, which float64 does not fit")
    programs = math.ceil(M.numel() / BLOCK)
    largest, squares = torch.empty(2, programs, dtype=torch.float32, device=M.device)
    if not programs:
        return torch.zeros((), dtype=torch.float32, device=M.device)
    weight = torch.as_tensor(mu, dtype=torch.float32, device=M.device)
    momentum_pass[(programs,)](
        M, G.contiguous(), out, weight, largest, squares, M.numel(), NESTEROV=nesterov, SIZE=BLOCK, num_warps=8
    )
    most = largest.amax()
    scale = torch.where(most > 0, most, 1.0)
    return scale * ((largest / scale).square() * squares).sum().sqrt()
