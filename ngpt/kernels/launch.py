"""What the elementwise kernels share: a matrix's vectors as offsets in memory, how many a program takes, numbers."""

import math

import torch
import triton
from torch import Tensor

from ngpt.kernels import LONGEST

WORK = 2048
"""Numbers a program takes at least: shorter vectors share one."""

MOST = 8192
"""Numbers a program takes at most for the sake of neighbours in memory: 16 a thread. With twice as many the rotation
needs all 128 registers that a thread of 512 can have, and spills where weights and direction lie differently."""

NEIGHBOURS = 8
"""Float32 numbers in a sector, the 32 bytes that memory moves at least."""

FUSED = True
"""Products and sums that follow are rounded once. Said with every launch, as Triton 3.10 changes what it does unasked,
which would change the bits, and 3.9 warns of it."""


def block_of(length: int) -> int:
    """Numbers that a program reserves for a vector. Raises ValueError for one that is empty or too long."""
    if not 0 < length <= LONGEST:
        raise ValueError(f"these kernels hold vectors of 1 to {LONGEST} numbers, not {length}")
    block: int = triton.next_power_of_2(length)
    return block


def warps_for(numbers: int) -> int:
    """Warps of 32 threads for a program that holds so many numbers: 16 or so a thread."""
    return max(1, min(16, triton.next_power_of_2(numbers) // 512))


def vectors_of(W: Tensor, dim: int) -> tuple[Tensor, int, int, tuple[int, int, int]]:
    """W (..., m, n) as a stack (N, m, n); number and length of a matrix's vectors along `dim`; the stack's strides.

    Strides from matrix to matrix, from vector to vector, and along a vector. The stack is W's own memory; only where
    several leading dimensions do not merge into one it is a copy.
    """
    along = dim if dim < 0 else dim - W.ndim
    if along not in (-1, -2) or W.ndim < 2:
        raise ValueError(f"vectors lie along one of the last two dimensions, not along {dim} of {tuple(W.shape)}")
    across = -3 - along
    stack = W.reshape(math.prod(W.shape[:-2]), *W.shape[-2:])
    strides = stack.stride(0), stack.stride(across), stack.stride(along)
    return stack, stack.size(across), stack.size(along), strides


def vectors_together(length: int, *between: int) -> int:
    """Vectors a program takes: enough to be worth it, and those that share sectors where they lie side by side.

    between: the stride from vector to vector in each tensor that is read. The polar factor of a tall matrix is a
    transposed one: its rows lie side by side although those of the weights do not.
    """
    block = block_of(length)
    neighbours = min(NEIGHBOURS, MOST // block) if 1 in between else 1
    return max(WORK // block, neighbours, 1)


def in_memory(value: Tensor | float, device: torch.device) -> Tensor:
    """One number as float32 in the device's memory, where a kernel reads it.

    A plain number is filled in there: a copy from the host would wait for the device, and break a CUDA graph.
    """
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=torch.float32, device=device)
    if value.numel() != 1:
        raise ValueError(f"one number is needed, not a tensor of shape {tuple(value.shape)}")
    return value.to(device=device, dtype=torch.float32)


def check_dtypes(*tensors: Tensor) -> None:
    """Raise TypeError for what float32 cannot hold."""
    for tensor in tensors:
        if not tensor.is_floating_point() or tensor.dtype == torch.float64:
            raise TypeError(f"these kernels compute in float32, which {tensor.dtype} does not fit")
