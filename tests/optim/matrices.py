"""Helpers for the tests of SimpleMuon beside torch.optim.Muon: equal matrices, equal gradients, equal bits."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SHAPES = [(16, 32), (32, 16), (24, 24), (24, 24), (1, 5), (5, 1)]


def drawn(dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def give_gradients(parameters: Sequence[Tensor], step: int, dtype: torch.dtype | None = None, scale: float = 1) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        if dtype is not None:
            parameter.grad_dtype = None  # type: ignore[attr-defined]  # of any dtype
        parameter.grad = (scale * torch.randn(parameter.shape, generator=generator)).to(dtype or parameter.dtype)


def run(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: Sequence[int], **given: Any) -> None:
    for step in steps:
        give_gradients(parameters, step, **given)
        optimizer.step()


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def everything(optimizer: torch.optim.Optimizer) -> Any:
    """Return a copy of all that a refusal must leave as it was."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return copy.deepcopy((optimizer.state_dict(), [parameter.detach() for parameter in parameters]))


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)
