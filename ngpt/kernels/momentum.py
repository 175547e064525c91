"""A Triton kernel for momentum, Nesterov's look-ahead and partial norms of the result, in one pass over memory.

It moves 14 bytes per float32 element for a bfloat16 result: gradient and momentum in, momentum and result out.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from ngpt.kernels.launch import FUSED, check_dtypes, in_memory

BLOCK = 4096
"""Elements per program"""

NORMAL = torch.finfo(torch.float32).tiny
SMALLEST = tl.constexpr(NORMAL)
"""The smallest normal float32, whose inverse is finite; a block is never divided by less."""


@triton.jit  # type: ignore[untyped-decorator]
def momentum_pass(  # type: ignore[no-untyped-def]
    m_ptr, g_ptr, x_ptr, mu_ptr, norm_ptr, numbers, NESTEROV: tl.constexpr, SIZE: tl.constexpr
):
    """Update M <- mu M + (1 - mu) G in place, and write this block of X and its norm."""
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
    """Update M <- mu M + (1 - mu) G in place; write M, or (1 - mu) G + mu M with `nesterov`, to `out` in its dtype.

    M, G, out: one shape; M and out contiguous. mu: a number, or a one-element tensor on their device. Returns |out|_F,
    () in float32, of the rounded values in `out`; squares are taken relative to the largest element, so it is accurate
    down to the smallest numbers. Raises ValueError if shapes differ or M or out is not contiguous, TypeError for
    float64. Twin: `ngpt.kernels.twins.momentum_step_`.
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
