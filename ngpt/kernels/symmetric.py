"""Triton kernels for symmetric results: only the tiles on and below the diagonal are computed, and mirrored on store.

A product C = A A' of (M, K) by its transpose takes 2 M M K operations; the lower triangle of tiles takes half of them
and a little more (T (T + 1) / 2 of T T tiles). The grid holds exactly those tiles: no program starts only to return.
A tile's two loads are rows i and rows j of A, both along K, so that both are coalesced where K is contiguous.

Both products are one kernel: C = b A + c A A', b = 0 and c = 1 for A A'.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from ngpt.kernels.launch import FUSED
from ngpt.kernels.twins import check_symmetric


@dataclass(frozen=True)
class Tiling:
    """How a matrix is cut: rows and columns of a tile of C, depth of a step along K, warps, stages of the pipeline."""

    rows: int
    depth: int
    warps: int
    stages: int

    def said_shortly(self) -> str:
        """Such as 128x64w8s4."""
        return f"{self.rows}x{self.depth}w{self.warps}s{self.stages}"


HOPPER = Tiling(rows=128, depth=64, warps=8, stages=4)
"""wgmma takes 64 rows a warp group: two of them share a tile, and four stages of 2 x 16 KiB fit its shared memory."""

SMALL = Tiling(rows=64, depth=32, warps=4, stages=3)
"""Where a matrix has so few tiles of 128 that multiprocessors would be idle, and for float32."""

CANDIDATES = (
    HOPPER,
    SMALL,
    Tiling(rows=128, depth=64, warps=4, stages=4),
    Tiling(rows=128, depth=64, warps=8, stages=3),
    Tiling(rows=128, depth=128, warps=8, stages=3),
    Tiling(rows=64, depth=64, warps=4, stages=4),
)
"""What `benchmarks/kernels.py --tune` chooses among."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit  # type: ignore[untyped-decorator]
def symmetric_product(  # type: ignore[no-untyped-def]
    a_ptr,
    c_ptr,
    b,
    c,
    M,
    K,
    a_batch,
    a_row,
    a_col,
    c_batch,
    c_row,
    c_col,
    tiles,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    ADD_A: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """One tile (i, j), i >= j, of C = b A + c A A' for one matrix of the batch, and its mirror image."""
    program = tl.program_id(0)
    batch = (program // tiles).to(tl.int64)
    tile = program % tiles
    # the largest i with i (i + 1) / 2 <= tile; the root is exact or one off, and integers mend it
    i = ((tl.sqrt(8.0 * tile.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > tile, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= tile, i + 1, i)
    j = tile - i * (i + 1) // 2

    rows_i = i * ROWS + tl.arange(0, ROWS)
    rows_j = j * ROWS + tl.arange(0, ROWS)
    depth = tl.arange(0, DEPTH)
    a_ptr += batch * a_batch
    at_i = a_ptr + rows_i[:, None].to(tl.int64) * a_row + depth[None, :].to(tl.int64) * a_col
    at_j = a_ptr + rows_j[:, None].to(tl.int64) * a_row + depth[None, :].to(tl.int64) * a_col
    inside_i, inside_j = rows_i[:, None] < M, rows_j[:, None] < M
    product = tl.zeros((ROWS, ROWS), dtype=tl.float32)
    for step in range(0, tl.cdiv(K, DEPTH)):
        within = depth[None, :] < K - step * DEPTH
        left = tl.load(at_i, mask=inside_i & within, other=0.0)
        right = tl.load(at_j, mask=inside_j & within, other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        product = tl.dot(left, tl.trans(right), product, input_precision="ieee")
        at_i += DEPTH * a_col
        at_j += DEPTH * a_col
    product *= c
    inside = inside_i & (rows_j[None, :] < M)
    if ADD_A:
        here = a_ptr + rows_i[:, None].to(tl.int64) * a_row + rows_j[None, :].to(tl.int64) * a_col
        product += b * tl.load(here, mask=inside, other=0.0).to(tl.float32)
    result = product.to(c_ptr.dtype.element_ty)
    if i == j:  # symmetric in whatever order a tile's sums were taken
        result = tl.where(rows_i[:, None] >= rows_j[None, :], result, tl.trans(result))
    c_ptr += batch * c_batch
    tl.store(c_ptr + rows_i[:, None].to(tl.int64) * c_row + rows_j[None, :].to(tl.int64) * c_col, result, mask=inside)
    if i != j:
        mirrored = (rows_j[:, None] < M) & (rows_i[None, :] < M)
        to = c_ptr + rows_j[:, None].to(tl.int64) * c_row + rows_i[None, :].to(tl.int64) * c_col
        tl.store(to, tl.trans(result), mask=mirrored)


INTERPRETED = isinstance(symmetric_product, InterpretedFunction)
"""Whether kernels run in Triton's interpreter, which would multiply the bits of bfloat16 as whole numbers."""


def xxt(A: Tensor, *, tiling: Tiling | None = None) -> Tensor:
    """A A', (..., M, K) -> (..., M, M), in A's dtype with float32 sums; any strides, A is not copied.

    Exactly symmetric. Raises TypeError for a dtype that is neither bfloat16, float16 nor float32.
    """
    return _launch(A, 0.0, 1.0, add_a=False, tiling=tiling)


def ba_plus_cAA(  # noqa: N802 (the field's name)
    A: Tensor, b: float, c: float, *, check: bool = True, tiling: Tiling | None = None
) -> Tensor:
    """B A + c A A for symmetric A (..., M, M), in A's dtype with float32 sums, the sum with b A included.

    Computed as b A + c A A', the same only for symmetric A: `check` compares A with its transpose, which waits for the
    device; what `xxt` gave needs no check. Exactly symmetric for symmetric A. Raises ValueError if A is not square or
    is found not to be symmetric, TypeError as `xxt`.
    """
    check_symmetric(A, values=check)
    return _launch(A, b, c, add_a=True, tiling=tiling)


def _launch(A: Tensor, b: float, c: float, *, add_a: bool, tiling: Tiling | None) -> Tensor:
    if A.dtype not in DTYPES:
        raise TypeError(f"{A.dtype} is none of {', '.join(map(str, DTYPES))}")
    if A.ndim < 2:
        raise ValueError(f"not a matrix: {tuple(A.shape)}")
    batch, (M, K) = A.shape[:-2], A.shape[-2:]
    flat = A.reshape(math.prod(batch), M, K)
    C = torch.empty((flat.size(0), M, M), dtype=A.dtype, device=A.device)
    tiling = tiling or best_tiling(M, A.dtype)
    across = math.ceil(M / tiling.rows)
    tiles = across * (across + 1) // 2
    if C.numel():
        symmetric_product[(tiles * flat.size(0),)](
            flat, C, b, c, M, K, *flat.stride(), *C.stride(), tiles, ROWS=tiling.rows, DEPTH=tiling.depth,
            ADD_A=add_a, WIDEN=INTERPRETED and A.dtype == torch.bfloat16,
            num_warps=tiling.warps, num_stages=tiling.stages, enable_fp_fusion=FUSED,
        )  # fmt: skip
    return C.reshape(*batch, M, M)


def best_tiling(M: int, dtype: torch.dtype) -> Tiling:
    """The tiling for matrices of M rows; float32 tiles are twice as large in shared memory."""
    return HOPPER if M >= 1024 and dtype != torch.float32 else SMALL
