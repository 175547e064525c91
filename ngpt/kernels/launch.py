"""Launch helpers of the elementwise kernels: memory layout of vectors, vectors per program, scalars, dtype checks."""

import math

import torch
import triton
from torch import Tensor

from ngpt.kernels import LONGEST

WORK = 2048
"""Fewest elements per program: short vectors share one."""

MOST = 8192
"""Most elements per program when vectors are grouped because they are adjacent in memory: 16 per thread. With twice as
many, the rotation needs all 128 registers available to each of 512 threads, and spills where weights and direction
have different layouts."""

NEIGHBORS = 8
"""Float32 elements in a sector, the 32 bytes of the smallest memory transaction."""

FUSED = True
"""Flag that a product and the sum after it are fused and rounded once. Every launch passes this explicitly: Triton 3.10
changes the default, which would change the bits, and 3.9 warns about it."""


def block_of(length: int) -> int:
    """Return the power of two that holds `length` elements; raise ValueError if `length` is 0 or above `LONGEST`."""
    if not 0 < length <= LONGEST:
        raise ValueError(f"these kernels hold vectors of 1 to {LONGEST} numbers, not {length}")
    block: int = triton.next_power_of_2(length)
    return block


def warps_for(numbers: int) -> int:
    """Return the number of warps (32 threads each) for a program that holds `numbers` elements, about 16 per thread."""
    return max(1, min(16, triton.next_power_of_2(numbers) // 512))


def vectors_of(W: Tensor, dim: int) -> tuple[Tensor, int, int, tuple[int, int, int]]:
    """Return W (..., m, n) as a stack (N, m, n), the number and length of its vectors along `dim`, and its strides.

    The number is per matrix. The strides are those between matrices, between vectors, and along a vector. The stack
    shares W's memory, unless the leading dimensions cannot be merged into one: then it is a copy.
    """
    along = dim if dim < 0 else dim - W.ndim
    if along not in (-1, -2) or W.ndim < 2:
        raise ValueError(f"vectors lie along one of the last two dimensions, not along {dim} of {tuple(W.shape)}")
    across = -3 - along
    stack = W.reshape(math.prod(W.shape[:-2]), *W.shape[-2:])
    strides = stack.stride(0), stack.stride(across), stack.stride(along)
    return stack, stack.size(across), stack.size(along), strides


def vectors_together(length: int, *between: int) -> int:
    """Return the number of vectors per program: enough to fill it, and all that share memory sectors.

    between: the stride between vectors in each tensor that is read. Stride 1 means that vectors are interleaved, as in
    the polar factor of a tall matrix, which is a transposed view, even where the weights are not.
    """
    block = block_of(length)
    neighbors = min(NEIGHBORS, MOST // block) if 1 in between else 1
    return max(WORK // block, neighbors, 1)


def in_memory(value: Tensor | float, device: torch.device) -> Tensor:
    """Return one number as a float32 tensor on `device`, for a kernel to read.

    A Python number is filled in on the device: a copy from the host would wait for the device and break a CUDA graph.
    Raises ValueError for a tensor of more than one element.
    """
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=torch.float32, device=device)
    if value.numel() != 1:
        raise ValueError(f"one number is needed, not a tensor of shape {tuple(value.shape)}")
    return value.to(device=device, dtype=torch.float32)


def check_dtypes(*tensors: Tensor) -> None:
    """Raise TypeError for a tensor that is not floating-point or does not fit float32."""
    for tensor in tensors:
        if not tensor.is_floating_point() or tensor.dtype == torch.float64:
            raise TypeError(f"these kernels compute in float32, which {tensor.dtype} does not fit")
