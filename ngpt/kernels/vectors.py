"""Triton kernels on stacks of unit vectors: projection and the geodesic step, each in one pass over memory.

Vectors lie along `dim` of a matrix. A program holds whole vectors in registers, so norms and inner products need no
second pass: projection moves 8 bytes per float32 weight and rotation 10 or 12, where torch's separate operations move
about ten times as much. Vectors along dim -2 are adjacent in memory and processed up to eight at a time.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from ngpt.kernels.launch import FUSED, block_of, check_dtypes, in_memory, vectors_of, vectors_together, warps_for
from ngpt.sphere import NOISE, UNIT_TINY

TINY = tl.constexpr(UNIT_TINY)
ROUNDING = tl.constexpr(NOISE * torch.finfo(torch.float32).eps)
PI = tl.constexpr(math.pi)
PI_HIGH = tl.constexpr(3.140625)
PI_LOW = tl.constexpr(math.pi - 3.140625)
"""pi in two parts, the first with few bits, so that integer multiples of it are exact"""


@triton.jit  # type: ignore[untyped-decorator]
def sine_and_versine(theta):  # type: ignore[no-untyped-def]
    """Return sin(theta) and 1 - cos(theta) to float32 rounding; the hardware's sine is off by 5e-7 at any theta."""
    turns = tl.floor(theta / PI + 0.5)
    h = ((theta - turns * PI_HIGH) - turns * PI_LOW) * 0.5  # in [-pi/4, pi/4], where Taylor's next term is 2e-9
    hh = h * h
    sine = h * (1.0 + hh * (-1.0 / 6 + hh * (1.0 / 120 + hh * (-1.0 / 5040 + hh * (1.0 / 362880)))))
    cosine = 1.0 + hh * (-0.5 + hh * (1.0 / 24 + hh * (-1.0 / 720 + hh * (1.0 / 40320 - hh * (1.0 / 3628800)))))
    odd = turns - 2.0 * tl.floor(turns * 0.5) != 0.0
    versine = 2.0 * sine * sine
    return tl.where(odd, -2.0, 2.0) * sine * cosine, tl.where(odd, 2.0 - versine, versine)


@triton.jit  # type: ignore[untyped-decorator]
def place(  # type: ignore[no-untyped-def]
    count, length, programs, batch_stride, between, along, VECTORS: tl.constexpr, BLOCK: tl.constexpr
):
    """Return the offsets (VECTORS, BLOCK) of this program's elements, and a mask of those that exist."""
    program = tl.program_id(0)
    batch = (program // programs).to(tl.int64)
    vector = (program % programs) * VECTORS + tl.arange(0, VECTORS)
    element = tl.arange(0, BLOCK)
    offsets = batch * batch_stride + vector[:, None].to(tl.int64) * between + element[None, :].to(tl.int64) * along
    return offsets, (vector[:, None] < count) & (element[None, :] < length)


@triton.jit  # type: ignore[untyped-decorator]
def project_vectors(  # type: ignore[no-untyped-def]
    w_ptr, count, length, programs, batch_stride, between, along, VECTORS: tl.constexpr, BLOCK: tl.constexpr
):
    """Project w <- w / |w| in place; a vector without direction stays."""
    offsets, exists = place(count, length, programs, batch_stride, between, along, VECTORS, BLOCK)
    w = tl.load(w_ptr + offsets, mask=exists, other=0.0).to(tl.float32)
    norm = tl.sqrt(tl.sum(w * w, axis=1, keep_dims=True))
    inverse = tl.where(norm > TINY, 1.0 / tl.maximum(norm, TINY), 1.0)
    tl.store(w_ptr + offsets, (w * inverse).to(w_ptr.dtype.element_ty), mask=exists)


@triton.jit  # type: ignore[untyped-decorator]
def rotate_vectors(  # type: ignore[no-untyped-def]
    w_ptr, o_ptr, lr_ptr, scale, count, length, programs, batch_stride, between, along,
    o_batch_stride, o_between, o_along, FIXED_ANGLE: tl.constexpr, VECTORS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rotate w <- w cos(theta) + (u / |u|) sin(theta) in place, u being the part of D = -scale O orthogonal to w."""
    offsets, exists = place(count, length, programs, batch_stride, between, along, VECTORS, BLOCK)
    o_offsets, _ = place(count, length, programs, o_batch_stride, o_between, o_along, VECTORS, BLOCK)
    w = tl.load(w_ptr + offsets, mask=exists, other=0.0).to(tl.float32)
    d = -scale * tl.load(o_ptr + o_offsets, mask=exists, other=0.0).to(tl.float32)
    lr = tl.load(lr_ptr)
    ww = tl.sum(w * w, axis=1, keep_dims=True)
    u = d - tl.sum(w * d, axis=1, keep_dims=True) / tl.maximum(ww, TINY * TINY) * w
    u -= tl.sum(w * u, axis=1, keep_dims=True) / tl.maximum(ww, TINY * TINY) * w  # for the rounding of a near-radial d
    norm = tl.sqrt(tl.sum(u * u, axis=1, keep_dims=True))
    has_direction = (norm > tl.sqrt(tl.sum(d * d, axis=1, keep_dims=True)) * ROUNDING) & (norm > TINY)
    if FIXED_ANGLE:
        theta = tl.where(has_direction, lr, 0.0)
    else:
        theta = tl.where(has_direction, lr * norm, 0.0)
    sine, versine = sine_and_versine(theta)
    excess = ww - 1.0
    root = tl.maximum(tl.sqrt(1.0 + excess), TINY)
    shrink = tl.where(theta != 0.0, versine + (1.0 - versine) * (excess / (root * (1.0 + root))), 0.0)
    moved = w + (u * (sine / tl.maximum(norm, TINY)) - shrink * w)
    tl.store(w_ptr + offsets, moved.to(w_ptr.dtype.element_ty), mask=exists)


def project_(W: Tensor, *, dim: int) -> Tensor:
    """Project the vectors along `dim` of W (..., m, n) to the unit sphere in place, and return W.

    W may have any strides; computed in float32. Raises TypeError for float64, ValueError for vectors longer than
    `LONGEST` or a `dim` other than the last two. Twin: `ngpt.kernels.twins.project_`.
    """
    check_dtypes(W)
    stack, count, length, strides = vectors_of(W, dim)
    if W.numel():
        together, block = vectors_together(length, strides[1]), block_of(length)
        programs = math.ceil(count / together)
        project_vectors[(programs * stack.size(0),)](
            stack, count, length, programs, *strides, VECTORS=together, BLOCK=block,
            num_warps=warps_for(together * block), enable_fp_fusion=FUSED,
        )  # fmt: skip
        _written(stack, W)
    return W


def geodesic_move_(W: Tensor, O: Tensor, lr: Tensor | float, scale: float, *, fixed_angle: bool, dim: int) -> Tensor:
    """Rotate the vectors along `dim` of W (..., m, n) as `ngpt.sphere.turn` by D = -scale O in place, and return W.

    theta = lr radians with `fixed_angle`, else lr |u|. O: W's shape, any floating dtype and strides, not W's memory.
    lr: a number, or a one-element tensor on W's device. Computed in float32. Raises ValueError if the shapes differ,
    and as `project_` does. Twin: `ngpt.kernels.twins.geodesic_move_`.
    """
    check_dtypes(W)
    if W.shape != O.shape:
        raise ValueError(f"weights {tuple(W.shape)} and direction {tuple(O.shape)} differ")
    stack, count, length, strides = vectors_of(W, dim)
    if W.numel():
        stack_O, _, _, o_strides = vectors_of(O, dim)
        together, block = vectors_together(length, strides[1], o_strides[1]), block_of(length)
        programs = math.ceil(count / together)
        rotate_vectors[(programs * stack.size(0),)](
            stack, stack_O, in_memory(lr, W.device), float(scale), count, length, programs, *strides, *o_strides,
            FIXED_ANGLE=fixed_angle, VECTORS=together, BLOCK=block, num_warps=warps_for(together * block),
            enable_fp_fusion=FUSED,
        )  # fmt: skip
        _written(stack, W)
    return W


def _written(stack: Tensor, W: Tensor) -> None:
    """Copy `stack`, which a kernel wrote to, back to W where it is a copy, and tell autograd that W has changed."""
    if stack.data_ptr() == W.data_ptr():
        increment_version(W)
    else:
        W.copy_(stack.view(W.shape))
