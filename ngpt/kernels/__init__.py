"""Triton kernels where they pay off, and a torch twin of each that runs on every device.

`products` returns the module that computes the polar factor's products: `symmetric` (Triton), its `twins` (torch), or
`dense` (oneDNN, float32 on a CPU with AVX512 that is not Intel's). `elementwise_runs` tells whether a tensor goes to
the elementwise kernels of `fused` (from `momentum`, `vectors` and `residual`). Each step that has a kernel makes this
choice itself; `project_` and `residual_step` make it here.
"""

import functools
import importlib
import importlib.util
import math
from types import ModuleType

import torch
from torch import Tensor

from ngpt.kernels import dense, twins

FROM_ROWS, TILE, FROM_TILES = 768, 128, 512
"""Fewest rows, side of a tile, and fewest tiles of a batch, those of the triangle alone, with which the symmetric
kernels run: the least measured on an H100 with which they gain (docs/speed.md). `A A'` is 0.95 to 1.4 times as fast as
cuBLAS's, and `b A + c A A` 1.2 to 1.5 times. Fewer tiles were measured only at 36 and 136, where both were slower."""

ALONE_FROM_ROWS = 512
"""Matrices with at least this many rows keep a CPU busy by themselves. A batched product takes 1.00 to 1.19 times as
long as one product at a time, with the same bits (EPYC; 512 to 1,024 rows, float32 and bfloat16); smaller matrices are
faster as a batch, except by oneDNN (`dense`)."""

LONGEST = 8192
"""Longest vector that fits in the registers of a program; torch handles longer ones"""

ALIGNED, PADDED = 8, 64
"""Tensor cores read 16 bytes at a time. Rows whose length is not a multiple of 8 (in bfloat16) are slow; they are
padded to the next multiple of 64, the side of a tile."""

CAPABILITY = (8, 0)
"""Compute capability of Ampere, the first with tensor cores for bfloat16"""

LARGE_SHARED_MEMORY = ((9, 0), (10, 0), (10, 3))
"""Compute capabilities with 227 KiB of shared memory for a program: Hopper, and Blackwell in data centers"""


def products(rows: int, dtype: torch.dtype, device: torch.device, *, count: int = 1) -> ModuleType:
    """Return the module that computes products of `count` matrices with `rows` rows (the shorter side)."""
    if device.type == "cpu" and dtype == torch.float32 and rows >= dense.FROM_ROWS and dense.BY_ONEDNN:
        return dense
    if not worth_a_kernel(rows, count) or dtype not in (torch.bfloat16, torch.float16) or not triton_runs(device):
        return twins
    from ngpt.kernels import symmetric

    return symmetric


def worth_a_kernel(rows: int, count: int) -> bool:
    """Return whether the symmetric kernels gain on `count` matrices with `rows` rows."""
    return rows >= FROM_ROWS and count * tiles_of(rows, TILE) >= FROM_TILES


def tiles_of(rows: int, side: int) -> int:
    """Return the number of tiles on and below the diagonal of a matrix with `rows` rows."""
    across = math.ceil(rows / side)
    return across * (across + 1) // 2


def one_by_one(rows: int, device: torch.device) -> bool:
    """Return whether matrices with `rows` rows (the shorter side) keep a CPU busy one at a time."""
    return device.type == "cpu" and rows >= ALONE_FROM_ROWS


def padding(side: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return the rows or columns of zero padding for `side`; none on a CPU, where padding does not pay (measured)."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or side % ALIGNED == 0:
        return 0
    return -side % PADDED


def elementwise_runs(x: Tensor, length: int = 1) -> bool:
    """Return whether the elementwise kernels run for `x`, a stack of vectors with `length` elements each.

    They do not run inside torch.compile, which fuses torch's operations itself, nor in float64, as they compute in
    float32.
    """
    if torch.compiler.is_compiling() or length > LONGEST or x.dtype == torch.float64:
        return False
    return triton_runs(x.device)


def load(device: torch.device) -> None:
    """Import the kernels that may run on `device`, so that all code of a run is loaded when it is identified."""
    if triton_runs(device):
        importlib.import_module("ngpt.kernels.symmetric")
        elementwise()


def elementwise() -> ModuleType:
    """Import and return the module of the elementwise kernels, which needs Triton."""
    from ngpt.kernels import fused

    return fused


def project_(W: Tensor, *, dim: int) -> Tensor:
    """Project the vectors along `dim` of W (..., m, n) to the unit sphere in place, and return W."""
    run = elementwise() if elementwise_runs(W, W.size(dim)) else twins
    return run.project_(W, dim=dim)


def residual_step(h: Tensor, f: Tensor, a: Tensor) -> Tensor:
    """Return N(h + a (N(f) - h)) in float32 for h, f (..., D) and a (D,); differentiable once."""
    run = elementwise() if elementwise_runs(h, h.size(-1)) else twins
    return run.residual_step(h, f, a)


@functools.cache
def triton_runs(device: torch.device) -> bool:
    """Return whether Triton is installed and `device` has the tensor cores that the kernels require."""
    if device.type != "cuda" or torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= CAPABILITY


@functools.cache
def room_for_depth(device: torch.device) -> bool:
    """Return whether one program can have 192 KiB of shared memory on `device`: data-center chips."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) in LARGE_SHARED_MEMORY


def describe(dtype: torch.dtype, device: torch.device) -> str:
    """Return a one-line description of the code that computes the matrix products of the polar factor."""
    name = str(dtype).removeprefix("torch.")
    if dtype in (torch.bfloat16, torch.float16) and triton_runs(device):
        return f"Triton from {FROM_ROWS} rows and {FROM_TILES} tiles, torch below, {name}"
    return f"torch on {device.type}, {name}"
