"""The paper's model beside NVIDIA's, with a stand-in for a checkout of theirs."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import nvidia_ngpt
from ngpt.errors import InputError

MODEL = """
from dataclasses import dataclass
import torch
from torch import nn
from flash_attn import flash_attn_qkvpacked_func, flash_attn_func
from ngpt.config import ModelConfig
from ngpt.model import build_model

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    base_scale: float
    use_nGPT: int

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        sizes = dict(n_layer=config.n_layer, n_embd=config.n_embd, n_head=config.n_head, seq_len=config.block_size)
        shape = ModelConfig(arch="ngpt", **sizes)
        self.inner = build_model(shape, config.vocab_size + {more}, seed=0)

    def forward(self, idx, targets):
        logits = self.inner(idx)
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


def checkout(folder: Path, more: int = 0) -> Path:
    (folder / "model.py").write_text(MODEL.replace("{more}", str(more)))
    return folder


def test_both_models_are_timed_at_every_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_ngpt, "SHAPES", ((1, 32), (2, 64)))
    path = tmp_path / "nvidia_ngpt_cpu.json"
    assert nvidia_ngpt.main([str(checkout(tmp_path)), "--rounds", "2", "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    assert [(row["layers"], row["width"]) for row in results["rows"]] == [(1, 32), (2, 64)]
    for row in results["rows"]:
        assert all(len(taken) == 2 and min(taken) > 0 for taken in row["seconds"].values())
        assert all(0 < share for share in row["share_of_floor"].values())
    assert "flash_attn" not in sys.modules


def test_models_of_different_size_are_not_compared(tmp_path: Path) -> None:
    module = nvidia_ngpt.load(checkout(tmp_path, more=1))
    with pytest.raises(InputError, match="the models differ"):
        nvidia_ngpt.passes(module, 1, 32)


def test_a_folder_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        nvidia_ngpt.load(tmp_path)
    (tmp_path / "model.py").write_text("")
    with pytest.raises(InputError, match="has no GPT"):
        nvidia_ngpt.load(tmp_path)


def test_the_attention_is_that_of_the_package() -> None:
    q, k, v = torch.randn(3, 2, 5, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.7
    scores = scores.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf)
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
    found = nvidia_ngpt.attention(q, k, v, dropout_p=0.0, softmax_scale=0.7, causal=True)
    assert torch.allclose(found.double(), expected, atol=1e-6)
