"""Triton kernels where they pay, and a torch twin of each for every device.

`products` says which module's matrix products run, `elementwise` which module's elementwise steps. The twins of all are
`twins`; the kernels are `symmetric` for the products, and `momentum`, `vectors` and `residual` for the steps.
"""

import functools
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from ngpt.kernels import twins

FROM_ROWS = 2048
"""Smaller matrices go to torch. Symmetric kernels that others measured are slower than cuBLAS up to 512 rows and 1.5
to 1.7 times as fast from 2,048 (NVIDIA's Emerging-Optimizers on an H20); not measured here yet, for want of a GPU."""

ALONE_FROM_ROWS = 512
"""On a CPU, matrices from here on fill it by themselves: batched products then take 1.00 to 1.19 times as long as
those of one at a time, with the same bits (EPYC; 512 to 1,024 rows, float32 and bfloat16); of smaller
ones a batch is faster."""

LONGEST = 8192
"""Longest vector that a program's registers hold; longer ones go to torch."""

ALIGNED, PADDED = 8, 64
"""Tensor cores are fed 16 bytes at a time: rows of a number of bfloat16 that 8 does not divide take a slower path, and
are padded to the next multiple of 64, a tile's side."""

CAPABILITY = (8, 0)
"""Ampere: tensor cores for bfloat16"""


def products(rows: int, dtype: torch.dtype, device: torch.device) -> ModuleType:
    """The module whose products run for matrices of `rows` rows (the shorter side)."""
    if rows < FROM_ROWS or dtype not in (torch.bfloat16, torch.float16) or not triton_runs(device):
        return twins
    from ngpt.kernels import symmetric

    return symmetric


def one_by_one(rows: int, device: torch.device) -> bool:
    """Whether products of a batch of matrices of `rows` rows (the shorter side) are better made one after another."""
    return device.type == "cpu" and rows >= ALONE_FROM_ROWS


def padding(side: int, dtype: torch.dtype, device: torch.device) -> int:
    """Zeros that a side of the matrices is to be padded with; on a CPU none, where it was measured not to pay."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or side % ALIGNED == 0:
        return 0
    return -side % PADDED


def elementwise(x: Tensor, length: int = 1) -> ModuleType:
    """The module whose elementwise steps run for `x`, whose vectors have that length.

    Inside torch.compile the twins, which it fuses by itself. The kernels compute in float32: a float64 x goes to torch.
    """
    if torch.compiler.is_compiling() or length > LONGEST or x.dtype == torch.float64 or not triton_runs(x.device):
        return twins
    from ngpt.kernels import fused

    return fused


@functools.cache
def triton_runs(device: torch.device) -> bool:
    """Whether Triton is installed and `device` has the tensor cores that the kernels are written for."""
    if device.type != "cuda" or torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= CAPABILITY


def said_in_one_line(dtype: torch.dtype, device: torch.device) -> str:
    """Which path runs, for people."""
    if products(FROM_ROWS, dtype, device) is twins:
        return f"torch on {device.type}, {str(dtype).removeprefix('torch.')}"
    return f"Triton from {FROM_ROWS:,} rows, torch below, {str(dtype).removeprefix('torch.')}"
