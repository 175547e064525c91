"""Layers of the transformers.

Shapes: B batch, T positions, D model width, H heads, K head width, F hidden width of the MLP, V vocabulary.
N(x) is the projection to the unit sphere along D (or K), computed in float32.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ngpt import kernels
from ngpt.config import ModelConfig
from ngpt.kernels.attention import causal_attention
from ngpt.kernels.dense import linear
from ngpt.kernels.heads import queries_keys_values
from ngpt.kernels.twins import unit
from ngpt.model.roles import Declared, Part, Role


class Linear(Declared):
    """y_N = W_NM x_M without bias; W has nn.Linear's layout (out, in)."""

    def __init__(
        self, n_in: int, n_out: int, role: Role, sphere_dim: int | None, part: Part | None = None
    ) -> None:
        super().__init__()
        self.weight = self.declare("weight", nn.Parameter(torch.empty(n_out, n_in)), role, sphere_dim, part)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """(..., in) -> (..., out), times `scale` (out,) if given.

        The scale multiplies the rows of W, which has fewer elements than the activations: (s * W) x = s * (W x).
        """
        return linear(x, self.weight if scale is None else self.weight * scale.unsqueeze(-1))


class Embedding(Declared):
    """One vector of width D for each of n ids."""

    def __init__(self, n: int, width: int, sphere_dim: int | None) -> None:
        super().__init__()
        self.weight = self.declare("weight", nn.Parameter(torch.empty(n, width)), Role.EMBEDDING, sphere_dim)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) integer -> (..., D)."""
        return F.embedding(ids, self.weight)


class Scale(Declared):
    """A learned vector (or scalar) of effective value parameter * (init / stored).

    The parameter starts at `stored`, so that Adam, which moves each parameter by about lr per step, moves the effective
    value by about lr * init / stored. arXiv 2410.01131, section 2.5. `gain` is a further constant factor.
    """

    def __init__(self, *shape: int, init: float, stored: float, gain: float = 1.0, role: Role = Role.SCALAR) -> None:
        super().__init__()
        self.value = self.declare("value", nn.Parameter(torch.full(shape, stored)), role)
        self.factor = init / stored * gain

    def forward(self) -> Tensor:
        """Return the effective value times the gain, not to be written to: it may be the parameter itself."""
        return self.value if self.factor == 1 else self.value * self.factor


class RotaryEmbedding(nn.Module):
    """RoPE (arXiv 2104.09864), half-split pairs (i, i + K//2), base 10,000; an odd last element is not rotated."""

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, head_width: int, seq_len: int) -> None:
        super().__init__()
        half, rest = head_width // 2, head_width % 2
        frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        angle_TK = torch.arange(seq_len, dtype=torch.float64)[:, None] * frequency
        cos, sin, still = angle_TK.cos(), angle_TK.sin(), torch.zeros(seq_len, rest, dtype=torch.float64)
        self.register_buffer("cos_TK", torch.cat([cos, cos, still + 1], dim=-1).float(), persistent=False)
        self.register_buffer("sin_TK", torch.cat([-sin, sin, still], dim=-1).float(), persistent=False)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Return cos and (-sin, sin) of the first `length` positions, (length, K), for `ngpt.kernels.heads.rotated`."""
        return self.cos_TK[:length], self.sin_TK[:length]


class Attention(nn.Module):
    """Causal self-attention of the sphere models and, with `normalized=False`, of the control.

    normalized: q, k <- s_qk * N(RoPE(.)) per head, softmax scale sqrt(K), because q k' of unit vectors is at most 1
    (arXiv 2410.01131, section 2.3.2). Otherwise plain RoPE attention with scale 1/sqrt(K).
    """

    def __init__(self, config: ModelConfig, *, normalized: bool) -> None:
        super().__init__()
        D = config.n_embd
        reads, writes = (-1, 0) if normalized else (None, None)
        self.q, self.k, self.v = (Linear(D, D, Role.HIDDEN, reads, Part.ATTENTION) for _ in range(3))
        self.o = Linear(D, D, Role.HIDDEN, writes, Part.ATTENTION)
        self.rope = RotaryEmbedding(D // config.n_head, config.seq_len)
        self.s_qk = Scale(D, init=1.0, stored=D**-0.5) if normalized else None
        self.softmax_scale = (D / config.n_head) ** (0.5 if normalized else -0.5)

    def forward(self, h_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        qkv = linear(h_BTD, torch.cat([self.q.weight, self.k.weight, self.v.weight]))
        cos_TK, sin_TK = self.rope(h_BTD.size(1))
        q, k, v = queries_keys_values(qkv, cos_TK, sin_TK, None if self.s_qk is None else self.s_qk())
        y = causal_attention(q.to(v.dtype), k.to(v.dtype), v, self.softmax_scale)
        return self.o(rearrange(y, "B H T K -> B T (H K)"))


class SwiGLU(nn.Module):
    """down(u * SiLU(g)); normalized: u <- s_u sqrt(D) u and g <- s_g sqrt(D) g (arXiv 2410.01131, section 2.4.2).

    The paper's text scales only the gate by sqrt(D), its released code both, which is the same function since the
    branch is normalized. This follows the code. The paper calls the gate v.
    """

    def __init__(self, config: ModelConfig, *, normalized: bool) -> None:
        super().__init__()
        D, hidden = config.n_embd, config.mlp_hidden
        reads, writes = (-1, 0) if normalized else (None, None)
        self.u, self.g = (Linear(D, hidden, Role.HIDDEN, reads, Part.MLP_IN) for _ in range(2))
        self.down = Linear(hidden, D, Role.HIDDEN, writes, Part.MLP_OUT)
        self.s_u = Scale(hidden, init=1.0, stored=1.0, gain=math.sqrt(D)) if normalized else None
        self.s_g = Scale(hidden, init=1.0, stored=1.0, gain=math.sqrt(D)) if normalized else None

    def forward(self, h_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        u_BTF = self.u(h_BTD, None if self.s_u is None else self.s_u())
        g_BTF = self.g(h_BTD, None if self.s_g is None else self.s_g())
        return self.down(u_BTF * F.silu(g_BTF))


class PaperResidual(nn.Module):
    """h <- N(h + |a| * (N(f) - h)), a a vector that starts at alpha. arXiv 2410.01131, section 2.2.2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.a = Scale(config.n_embd, init=config.alpha, stored=config.n_embd**-0.5)

    def step_size(self) -> Tensor:
        """Return |a|, (D,)."""
        return self.a().abs()

    def forward(self, h_BTD: Tensor, f_BTD: Tensor) -> Tensor:
        """Step from h towards f, both (B, T, D); h is unit along D before and after."""
        return kernels.residual_step(h_BTD, f_BTD, self.step_size())


class GatedResidual(Declared):
    """h <- N(h + sigmoid(g) * a * (N(f) - h)), g a vector, a a scalar, alpha at first; `literal`: f for N(f) - h."""

    def __init__(self, config: ModelConfig, *, literal: bool = False) -> None:
        super().__init__()
        self.literal = literal
        self.gate = self.declare("gate", nn.Parameter(torch.full((config.n_embd,), config.gate_init)), Role.GATE)
        self.a = Scale(init=config.alpha, stored=config.alpha)

    def step_size(self) -> Tensor:
        """Return sigmoid(g) * a, (D,)."""
        return torch.sigmoid(self.gate) * self.a()

    def forward(self, h_BTD: Tensor, f_BTD: Tensor) -> Tensor:
        """Step from h towards f, both (B, T, D); h is unit along D before and after."""
        if self.literal:
            return unit(h_BTD + self.step_size() * f_BTD)
        return kernels.residual_step(h_BTD, f_BTD, self.step_size())
