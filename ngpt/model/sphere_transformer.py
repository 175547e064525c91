"""The normalized transformers: `ngpt`, the paper's, and `gated-ngpt`, the same with gated residual steps."""

from torch import Tensor, nn

from ngpt.config import Arch, ModelConfig
from ngpt.model.layers import Attention, Embedding, GatedResidual, Linear, PaperResidual, Scale, SwiGLU
from ngpt.model.roles import Role

RESIDUALS: dict[Arch, type[nn.Module]] = {"gated-ngpt": GatedResidual, "ngpt": PaperResidual}


class SphereBlock(nn.Module):
    """An attention step and an MLP step; h is on the sphere after each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        residual = RESIDUALS[config.arch]
        self.attention = Attention(config, normalized=True)
        self.attention_step = residual(config)
        self.mlp = SwiGLU(config, normalized=True)
        self.mlp_step = residual(config)

    def forward(self, h_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), unit along D."""
        h_BTD = self.attention_step(h_BTD, self.attention(h_BTD))
        return self.mlp_step(h_BTD, self.mlp(h_BTD))


class SphereTransformer(nn.Module):
    """logits = s_z * (E_out h), h from unit token vectors through blocks that keep it unit; no final norm.

    arXiv 2410.01131, section 2.6. Rows of q, k, v, u, g, embedding and head are unit vectors, and so are the columns
    of the attention's and the MLP's output matrices; `ngpt.optim.projection` keeps them so.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        D = config.n_embd
        self.embedding = Embedding(vocab_size, D, sphere_dim=-1)
        self.blocks = nn.Sequential(*(SphereBlock(config) for _ in range(config.n_layer)))
        self.head = Linear(D, vocab_size, Role.HEAD, -1)
        self.s_z = Scale(vocab_size, init=config.initial_logit_scale, stored=D**-0.5, role=Role.HEAD)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V)."""
        return self.head(self.blocks(self.embedding(ids_BT)), self.s_z())
