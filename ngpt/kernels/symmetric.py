"""Triton kernels for symmetric products: tiles on and below the diagonal are computed, then mirrored on store.

The product C = A A' of A (M, K) takes 2 M M K operations; the lower triangle needs T (T + 1) / 2 of the T T tiles, a
little more than half. The grid has exactly one program per such tile, so none starts only to return. A tile loads rows
i and rows j of A along K; both loads are coalesced if K is contiguous.

One kernel, C = b A + c A A', serves both products; A A' has b = 0 and c = 1.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from ngpt.kernels import FROM_ROWS, TILE, room_for_depth, tiles_of
from ngpt.kernels.launch import FUSED
from ngpt.kernels.twins import aX_plus_BX as aX_plus_BX  # a plain product
from ngpt.kernels.twins import check_symmetric


@dataclass(frozen=True)
class Tiling:
    """A tiling of a product: side of a square tile of C, depth of a step along K, warps, pipeline stages."""

    rows: int
    depth: int
    warps: int
    stages: int

    def label(self) -> str:
        """Return a short label such as 128x64w8s4."""
        return f"{self.rows}x{self.depth}w{self.warps}s{self.stages}"


LARGE = Tiling(rows=TILE, depth=64, warps=8, stages=3)
"""wgmma takes 64 rows per warp group, so two groups share a tile; three stages of 2 x 16 KiB fit in shared memory."""

DEEP = Tiling(rows=TILE, depth=128, warps=8, stages=3)
"""The fastest for b A + c A A on an H100, where three stages of 2 x 32 KiB fit"""

SMALL = Tiling(rows=64, depth=32, warps=4, stages=3)
"""Tiling for matrices with so few tiles of 128 that multiprocessors would be idle, and for float32"""

CANDIDATES = (
    LARGE,
    DEEP,
    SMALL,
    Tiling(rows=TILE, depth=64, warps=8, stages=4),
    Tiling(rows=TILE, depth=64, warps=4, stages=4),
    Tiling(rows=64, depth=64, warps=4, stages=4),
)
"""The tilings that `benchmarks/kernels.py --tune` compares"""

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
    """Compute tile (i, j), i >= j, of C = b A + c A A' for one matrix of the batch, and store its mirror image too."""
    program = tl.program_id(0)
    batch = (program // tiles).to(tl.int64)
    tile = program % tiles
    # the largest i with i (i + 1) / 2 <= tile; the root is off by at most one, which integer arithmetic corrects
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
    if i == j:  # exactly symmetric, whatever order the tile's sums were taken in
        result = tl.where(rows_i[:, None] >= rows_j[None, :], result, tl.trans(result))
    c_ptr += batch * c_batch
    tl.store(c_ptr + rows_i[:, None].to(tl.int64) * c_row + rows_j[None, :].to(tl.int64) * c_col, result, mask=inside)
    if i != j:
        mirrored = (rows_j[:, None] < M) & (rows_i[None, :] < M)
        to = c_ptr + rows_j[:, None].to(tl.int64) * c_row + rows_i[None, :].to(tl.int64) * c_col
        tl.store(to, tl.trans(result), mask=mirrored)


INTERPRETED = isinstance(symmetric_product, InterpretedFunction)
"""True if kernels run in Triton's interpreter, which would multiply the bit patterns of bfloat16 as integers"""


def xxt(A: Tensor, *, tiling: Tiling | None = None) -> Tensor:
    """Return A A', (..., M, M), for A (..., M, K), in A's dtype with float32 sums.

    The result is exactly symmetric. A may have any strides and is not copied. Raises TypeError unless A is bfloat16,
    float16 or float32.
    """
    return _launch(A, 0.0, 1.0, add_a=False, tiling=tiling)


def ba_plus_cAA(  # noqa: N802 (the field's name)
    A: Tensor, b: float, c: float, *, check: bool = True, tiling: Tiling | None = None
) -> Tensor:
    """Return b A + c A A for symmetric A (..., M, M), in A's dtype; all sums, that with b A included, in float32.

    It is computed as b A + c A A', which equals it only for symmetric A; the result is then exactly symmetric. `check`
    compares A with its transpose, which waits for the device; a result of `xxt` needs no check. Raises ValueError if A
    is not square or, with `check`, not symmetric, TypeError as `xxt` does.
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
    tiling = tiling or best_tiling(M, A.dtype, deep=add_a and room_for_depth(A.device))
    tiles = tiles_of(M, tiling.rows)
    if C.numel():
        symmetric_product[(tiles * flat.size(0),)](
            flat, C, b, c, M, K, *flat.stride(), *C.stride(), tiles, ROWS=tiling.rows, DEPTH=tiling.depth,
            ADD_A=add_a, WIDEN=INTERPRETED and A.dtype == torch.bfloat16,
            num_warps=tiling.warps, num_stages=tiling.stages, enable_fp_fusion=FUSED,
        )  # fmt: skip
    return C.reshape(*batch, M, M)


def best_tiling(M: int, dtype: torch.dtype, *, deep: bool) -> Tiling:
    """Return the tiling for matrices with M rows, with a `deep` step if asked for.

    A float32 tile takes twice the shared memory.
    """
    if M < FROM_ROWS or dtype == torch.float32:
        return SMALL
    return DEEP if deep else LARGE
