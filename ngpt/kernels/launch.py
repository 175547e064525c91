"""What the elementwise kernels share: a matrix's vectors as offsets in memory, and how many threads take them."""

import triton
from torch import Tensor

from ngpt.kernels import LONGEST

WORK = 2048
"""Numbers a program takes at least: shorter vectors share one."""


def block_of(length: int) -> int:
    """Numbers that a program reserves for a vector. Raises ValueError for one that is empty or too long."""
    if not 0 < length <= LONGEST:
        raise ValueError(f"these kernels hold vectors of 1 to {LONGEST} numbers, not {length}")
    block: int = triton.next_power_of_2(length)
    return block


def warps_for(numbers: int) -> int:
    """Warps of 32 threads for a program that holds so many numbers: 16 or so a thread."""
    return max(1, min(16, triton.next_power_of_2(numbers) // 512))


def vectors_of(W: Tensor, dim: int) -> tuple[int, int, tuple[int, int]]:
    """Number and length of the vectors along `dim` of each matrix of W (..., m, n); strides between and along them."""
    along = dim if dim < 0 else dim - W.ndim
    if along not in (-1, -2) or W.ndim < 2:
        raise ValueError(f"vectors lie along one of the last two dimensions, not along {dim} of {tuple(W.shape)}")
    across = -3 - along
    return W.size(across), W.size(dim), (W.stride(across), W.stride(dim))


def side_by_side(length: int, between: int) -> int:
    """Vectors a program takes: eight neighbours fill a sector of 32 bytes where they lie side by side in memory."""
    return 8 if between == 1 and length > 1 else max(1, WORK // block_of(length))
