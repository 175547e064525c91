"""The earlier attempt's gated model (dnhkng/nGPT-muon), for comparison with its published losses. Not an nGPT.

It has learned positions, fused q k v, no QK norm, softmax scale 1/sqrt(K), GELU, a frozen logit scale of 15, a residual
step that neither normalizes the branch nor interpolates, and unit rows in every matrix, even where the columns belong
on the sphere. Embeddings and head are also normalized in every forward pass, wherever their weights are.

It is trained as it was there: weights start as they are drawn (`ngpt.model.build`), and the first projection comes
after the first step (`ngpt.optim.projection`).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ngpt.config import ModelConfig
from ngpt.kernels.twins import unit
from ngpt.model.layers import Embedding, GatedResidual, Linear
from ngpt.model.roles import Declared, Part, Role

LOGIT_SCALE = 15.0


class LiteralBlock(nn.Module):
    """h <- N(h + sigmoid(g) * a * f(h)) for attention, then for a GELU MLP of width 4D."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.n_embd
        self.n_head = config.n_head
        self.qkv = Linear(D, 3 * D, Role.HIDDEN, -1, Part.ATTENTION)
        self.o = Linear(D, D, Role.HIDDEN, -1, Part.ATTENTION)
        self.attention_step = GatedResidual(config, literal=True)
        self.fc1 = Linear(D, config.mlp_hidden, Role.HIDDEN, -1, Part.MLP_IN)
        self.fc2 = Linear(config.mlp_hidden, D, Role.HIDDEN, -1, Part.MLP_OUT)
        self.mlp_step = GatedResidual(config, literal=True)

    def forward(self, h_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), unit along D."""
        q, k, v = rearrange(self.qkv(h_BTD), "B T (three H K) -> three B H T K", three=3, H=self.n_head)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h_BTD = self.attention_step(h_BTD, self.o(rearrange(y, "B H T K -> B T (H K)")))
        return self.mlp_step(h_BTD, self.fc2(F.gelu(self.fc1(h_BTD))))


class CosineHead(Declared):
    """y = N(W) x, each row of W normalized."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = self.declare("weight", nn.Parameter(torch.empty(n_out, n_in)), Role.HEAD, -1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, unit(self.weight))


class LiteralTransformer(Declared):
    """logits = 15 N(E_out) h, h from N(N(token) + N(position)). 155,166,743 parameters at the preset 155m-literal."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        D = config.n_embd
        self.embedding = Embedding(vocab_size, D, sphere_dim=-1)
        self.position = Embedding(config.seq_len, D, sphere_dim=-1)
        self.blocks = nn.Sequential(*(LiteralBlock(config) for _ in range(config.n_layer)))
        self.head = CosineHead(D, vocab_size)
        frozen = nn.Parameter(torch.tensor(LOGIT_SCALE), requires_grad=False)
        self.logit_scale = self.declare("logit_scale", frozen, Role.FROZEN)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V)."""
        position_T = torch.arange(ids_BT.size(1), device=ids_BT.device)
        h_BTD = unit(unit(self.embedding(ids_BT)) + unit(self.position(position_T)))
        return self.logit_scale * self.head(self.blocks(h_BTD))
