"""A Triton kernel: momentum, Nesterov's look-ahead and what the norm of the result needs, in one pass over memory.

14 bytes a float32 number with a bfloat16 result: gradient and momentum read, momentum and result written.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from ngpt.kernels.launch import FUSED, check_dtypes, in_memory

BLOCK = 4096
"""Numbers a program takes."""

NORMAL = torch.finfo(torch.float32).tiny
SMALLEST = tl.constexpr(NORMAL)
"""The smallest number whose inverse is one too: what a block is scaled by at most."""


@triton.jit  # type: ignore[untyped-decorator]
def momentum_pass(  # type: ignore[no-untyped-def]
    m_ptr, g_ptr, x_ptr, mu_ptr, norm_ptr, numbers, NESTEROV: tl.constexpr, SIZE: tl.constexpr
):
    """M <- mu M + (1 - mu) G in place, X, and the norm of this block of X."""
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
    largest = tl.maximum(tl.max(tl.abs(x), axis=0), SMALLEST)
    scaled = x * (1.0 / largest)
    tl.store(norm_ptr + program, largest * tl.sqrt(tl.sum(scaled * scaled, axis=0)))


def momentum_step_(M: Tensor, G: Tensor, mu: Tensor | float, *, nesterov: bool, out: Tensor) -> Tensor:
    """M <- mu M + (1 - mu) G in place; into `out`, in its dtype, M or with `nesterov` (1 - mu) G + mu M.

    All of one shape and contiguous; mu: a number, or one number on their device. Returns |out|_F, () in float32, of
    what was rounded to `out`, exact down to the smallest numbers: squares are taken relative to the largest. The twin:
    `ngpt.kernels.twins.momentum_step_`.
    """
    if not M.shape == G.shape == out.shape:
        raise ValueError(f"momentum {tuple(M.shape)}, gradient {tuple(G.shape)} and result {tuple(out.shape)} differ")
    if not (M.is_contiguous() and out.is_contiguous()):
        raise ValueError("the momentum and the result are written in place, and must be contiguous")
    check_dtypes(M, G, out)
    programs = math.ceil(M.numel() / BLOCK)
    if not programs:
        return torch.zeros((), dtype=torch.float32, device=M.device)
    norms = torch.empty(programs, dtype=torch.float32, device=M.device)
    momentum_pass[(programs,)](
        M, G.contiguous(), out, in_memory(mu, M.device), norms, M.numel(), NESTEROV=nesterov, SIZE=BLOCK,
        num_warps=8, enable_fp_fusion=FUSED,
    )  # fmt: skip
    increment_version((M, out))
    scale = norms.amax().clamp_min(NORMAL)
    return scale * torch.linalg.vector_norm(norms / scale)
