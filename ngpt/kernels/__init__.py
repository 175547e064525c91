"""The products that orthogonalisers are made of: a torch twin for every device, Triton kernels where they pay.

`products` says which of the two modules, `twins` or `symmetric`, runs; both have `xxt` and `ba_plus_cAA`.
"""

import functools
import importlib.util
from types import ModuleType

import torch

from ngpt.kernels import twins

FROM_ROWS = 2048
"""Smaller matrices go to torch. Symmetric kernels that others measured are slower than cuBLAS up to 512 rows and 1.5
to 1.7 times as fast from 2,048 (NVIDIA's Emerging-Optimizers on an H20); not measured here yet, for want of a GPU."""

CAPABILITY = (8, 0)
"""Ampere: tensor cores for bfloat16"""


def products(rows: int, dtype: torch.dtype, device: torch.device) -> ModuleType:
    """The module whose products run for matrices of `rows` rows (the shorter side)."""
    if rows < FROM_ROWS or dtype not in (torch.bfloat16, torch.float16) or not triton_runs(device):
        return twins
    from ngpt.kernels import symmetric

    return symmetric


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
