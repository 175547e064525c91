"""The unnormalized control `gpt` with the same interface, to ask whether a result transfers from GPT to nGPT."""

import torch.nn.functional as F
from torch import Tensor, nn, ones

from ngpt.config import ModelConfig
from ngpt.model.layers import Attention, Embedding, Linear, SwiGLU
from ngpt.model.roles import Declared, Role

RMS_EPS = 1e-6


class RMSNorm(Declared):
    """w * x / sqrt(mean(x^2) + eps) along the last dimension. arXiv 1910.07467."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = self.declare("weight", nn.Parameter(ones(width)), Role.SCALAR)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.rms_norm(x, (x.size(-1),), self.weight, RMS_EPS)


class ControlBlock(nn.Module):
    """h <- h + f(RMSNorm(h)) for attention, then for the MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.n_embd)
        self.attention = Attention(config, normalized=False)
        self.mlp_norm = RMSNorm(config.n_embd)
        self.mlp = SwiGLU(config, normalized=False)

    def forward(self, h_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        h_BTD = h_BTD + self.attention(self.attention_norm(h_BTD))
        return h_BTD + self.mlp(self.mlp_norm(h_BTD))


class ControlTransformer(nn.Module):
    """A pre-norm transformer with RoPE and SwiGLU: logits = E_out RMSNorm(h)."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = Embedding(vocab_size, config.n_embd, sphere_dim=None)
        self.blocks = nn.Sequential(*(ControlBlock(config) for _ in range(config.n_layer)))
        self.norm = RMSNorm(config.n_embd)
        self.head = Linear(config.n_embd, vocab_size, Role.HEAD, None)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V)."""
        return self.head(self.norm(self.blocks(self.embedding(ids_BT))))
