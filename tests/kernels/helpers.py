"""Helpers for the tests of the elementwise kernels: values, memory layouts, and kernels with one line changed."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

EPS = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""Spacing of numbers above 1. Rounding errs by half of it, but the interpreter truncates on storing bfloat16."""

EPS32 = EPS[torch.float32]
GAP = 7.0
"""Value between the elements of a strided view, which must be unchanged afterward"""


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def laid_out(A: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the same values with different strides, and the memory between them."""
    nothing = torch.empty(0, dtype=A.dtype)
    yield "contiguous", A.clone(), nothing
    yield "transposed in memory", A.mT.clone(memory_format=torch.contiguous_format).mT, nothing
    wide = torch.full((*A.shape[:-1], 2 * A.size(-1)), GAP, dtype=A.dtype)
    wide[..., ::2] = A
    yield "every second column", wide[..., ::2], wide[..., 1::2]
    if A.ndim == 4:
        yield "batch dimensions that do not merge", A.transpose(0, 1).contiguous().transpose(0, 1), nothing


def altered(module: ModuleType, text: str, replacement: str, folder: Path) -> ModuleType:
    """Return the module with `text`, which occurs once, replaced: a mutant that a test must reject."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert source.count(text) == 1, f"{text!r} occurs {source.count(text)} times"
    path = folder / "mutant.py"
    path.write_text(source.replace(text, replacement), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mutant", path)
    assert spec is not None and spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    return mutant
