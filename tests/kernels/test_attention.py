"""Causal attention in blocks: against float64, with gradients; and where it runs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import altered, drawn
from torch import Tensor

from ngpt import machine
from ngpt.kernels import attention
from ngpt.kernels.attention import BLOCK, LONGEST, causal_attention

BLOCKS_ARE_FASTER = attention.blocks_are_faster.__wrapped__
SHAPES = [(1, 1, 1, 1), (2, 3, 31, 5), (1, 2, 32, 8), (2, 1, 33, 16), (3, 2, 100, 7), (1, 1, 128, 32)]


@pytest.fixture(autouse=True)
def _blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks on every processor, in mutants too."""
    monkeypatch.setattr(machine, "is_intel", lambda: False)
    monkeypatch.setattr(attention, "blocks_are_faster", lambda: True)


def inputs(shape: tuple[int, ...], *, scale: float = 1.0) -> tuple[list[Tensor], Tensor]:
    """Return q, k, v as strided as in a model, where they are cut out of one product, and an output's gradient."""
    B, H, T, K = shape
    qkv = scale * drawn(B, T, 3, H, K)
    return [part.transpose(1, 2) for part in qkv.unbind(2)], drawn(B, T, H, K, seed=1).transpose(1, 2)


def with_gradients(attend: object, parts: list[Tensor], dy: Tensor) -> list[Tensor]:
    leaves = [part.detach().clone(memory_format=torch.preserve_format).requires_grad_() for part in parts]
    y = attend(*leaves)  # type: ignore[operator]
    y.backward(dy)
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def difference(module: object, shape: tuple[int, ...], scale: float = 1.0) -> float:
    """Return the largest difference to PyTorch's attention in float64, relative to the largest entry.

    Of the output and three gradients.
    """
    parts, dy = inputs(shape, scale=scale)
    found = with_gradients(lambda q, k, v: module.causal_attention(q, k, v, 1.7), parts, dy)  # type: ignore[attr-defined]
    exact = with_gradients(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.7),
        [part.double() for part in parts], dy.double(),
    )  # fmt: skip
    assert len(found) == len(exact) == 4 and all(one.dtype == torch.float32 for one in found)
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_output_and_gradients(shape: tuple[int, ...], scale: float) -> None:
    assert difference(attention, shape, scale) < 5e-6


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        (".triu(1)", ".triu(2)"),
        ("dQ.mul_(ctx.scale)", "dQ"),
        ("dk[:, :end] += torch.bmm(dS.mT, Q[:, start:end])", "pass"),
        ("torch.bmm(dS.mT, Q[:, start:end], out=dk)", "torch.bmm(P.mT, Q[:, start:end], out=dk)"),
    ],
)
def test_a_wrong_line_is_seen(text: str, replacement: str, tmp_path: Path) -> None:
    assert difference(altered(attention, text, replacement, tmp_path), (2, 1, 2 * BLOCK + 1, 4)) > 1e-3


def test_no_query_sees_a_later_key() -> None:
    (q, k, v), _ = inputs((1, 1, 70, 4))
    q.requires_grad_()
    before = causal_attention(q, k, v, 1.0)
    k[..., 50:, :] += 1.0
    v[..., 50:, :] += 1.0
    after = causal_attention(q, k, v, 1.0)
    assert torch.equal(before[..., :50, :], after[..., :50, :])
    assert not torch.isclose(before[..., 50:, :], after[..., 50:, :]).all(dim=-1).any()


@pytest.mark.parametrize("case", ["long", "no gradient", "float64", "bfloat16", "compiling", "Intel"])
def test_elsewhere_pytorch_attends(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    (q, k, v), _ = inputs((1, 1, LONGEST + 1 if case == "long" else 8, 4))
    dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(case, torch.float32)
    q, k, v = (part.to(dtype) for part in (q, k, v))
    q.requires_grad_(case != "no gradient")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: case == "compiling")
    monkeypatch.setattr(attention, "is_intel", lambda: case == "Intel")
    monkeypatch.setattr(attention, "blocks_are_faster", BLOCKS_ARE_FASTER)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
    assert torch.equal(causal_attention(q, k, v, 0.5), expected)
