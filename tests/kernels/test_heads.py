"""Queries, keys and values in one function: against the operations it stands for, with gradients; and where it runs.

tests/model/test_forward.py compares both with an oracle.
"""

import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import altered, drawn
from torch import Tensor

from ngpt.kernels import heads
from ngpt.model.layers import RotaryEmbedding

SHAPES = [(1, 1, 1, 1), (2, 3, 4, 2), (2, 5, 3, 7), (3, 8, 2, 16)]
"""B, T, H, K"""


def results(
    module: ModuleType, shape: tuple[int, ...], *, scaled: bool, whole: bool, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Return q, k, v and the gradients of qkv and, if `scaled`, of s.

    whole: as one function, else by PyTorch's operations and their gradients.
    """
    B, T, H, K = shape
    qkv = drawn(B, T, 3 * H * K).to(dtype).requires_grad_()
    s = (1.5 + drawn(H * K, seed=1)).to(dtype).requires_grad_() if scaled else None
    tables = RotaryEmbedding(K, T + 3)(T)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "in_one_function", lambda qkv: whole)
        found = module.queries_keys_values(qkv, *tables, s)
    assert ("_Heads" in type(found[0].grad_fn).__name__) == whole
    gradients = [drawn(B, T, H, K, seed=2 + at).to(x.dtype).transpose(1, 2) for at, x in enumerate(found)]
    torch.autograd.backward(found, gradients)
    leaves = [qkv] if s is None else [qkv, s]
    return [*(x.detach() for x in found), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def difference(module: ModuleType, shape: tuple[int, ...], *, scaled: bool) -> float:
    """Return the largest difference between the function and the operations in float64."""
    one, other = (results(module, shape, scaled=scaled, whole=whole) for whole in (True, False))
    assert len(one) == len(other) == 4 + scaled
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scaled", [False, True])
def test_the_function_is_its_operations(shape: tuple[int, ...], *, scaled: bool) -> None:
    assert difference(heads, shape, scaled=scaled) < 1e-13
    for dtype in (torch.float32, torch.bfloat16):
        one, other = (results(heads, shape, scaled=scaled, whole=whole, dtype=dtype) for whole in (True, False))
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=4 * torch.finfo(a.dtype).eps, atol=8 * torch.finfo(a.dtype).eps)


@pytest.mark.parametrize(
    ("text", "replacement", "scaled"),
    [
        ("(2 * s)", "s", True),
        ("exchanged(dy * sin_TK)", "exchanged(dy) * sin_TK", True),
        (".addcmul_(exchanged(x), sin_TK)", ".addcmul_(x, sin_TK)", True),
        ("per_head(s**2, dq), dk", "per_head(s, dq), dk", True),
        ("into_v.squeeze(0).copy_(dv)", "into_v.zero_()", True),
        ("torch.stack([dq, dk])", "torch.stack([dk, dq])", False),
    ],
)
@pytest.mark.parametrize("width", [4, 5])
def test_a_wrong_line_is_seen(text: str, replacement: str, *, scaled: bool, width: int, tmp_path: Path) -> None:
    assert difference(altered(heads, text, replacement, tmp_path), (2, 5, 3, width), scaled=scaled) > 1e-3


def test_a_vector_without_direction_stays_and_passes_its_gradient_on() -> None:
    qkv = torch.zeros(1, 2, 12, requires_grad=True)
    q, k, _ = heads.queries_keys_values(qkv, *RotaryEmbedding(2, 2)(2), torch.ones(4))
    (q + k).sum().backward()
    assert not q.any() and not k.any() and qkv.grad is not None
    at_first, turned = qkv.grad.view(2, 3, 2, 2)[:, :2]  # the gradient of R x is one in all entries
    torch.testing.assert_close(at_first, torch.ones(2, 2, 2))
    torch.testing.assert_close(turned[..., 0], torch.full((2, 2), math.cos(1) + math.sin(1)))
    torch.testing.assert_close(turned[..., 1], torch.full((2, 2), math.cos(1) - math.sin(1)))


def test_compiled_code_gets_the_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = torch.zeros(1, 1, 3, requires_grad=True)
    tables = RotaryEmbedding(1, 1)(1)
    assert not heads.in_one_function(torch.zeros(1, 1, 3, device="meta"))
    assert "_Heads" in type(heads.queries_keys_values(qkv, *tables, None)[0].grad_fn).__name__
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "_Heads" not in type(heads.queries_keys_values(qkv, *tables, None)[0].grad_fn).__name__
