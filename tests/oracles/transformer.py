"""Float64 oracle of the forward passes, one token, head and position at a time.

Legend: T positions, d model width, V vocabulary, H heads, e = d / H head width,
F MLP hidden width. One sequence, no batch. Weights are in nn.Linear layout (out, in)
and all scales are effective values (already rescaled). Sources: arXiv 2410.01131
(nGPT) section 2, 2104.09864 (RoPE), 2002.05202 (SwiGLU), 1910.07467 (RMSNorm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Params = dict[str, Any]


def _array(value: ArrayLike) -> Array:
    return np.array(value, dtype=np.float64)


def normalize(x: Array) -> Array:
    """Unit vector of one vector (n,).

    N(x) = x / sqrt(sum x^2), no epsilon. Raises ValueError for zero x.
    Source: `Norm` of arXiv 2410.01131 section 2.
    """
    norm = math.sqrt(math.fsum(float(e) ** 2 for e in x))
    if norm == 0.0:
        raise ValueError("N is undefined for a zero vector")
    return x / norm


def rms_norm(x: Array, weight: Array) -> Array:
    """RMSNorm of one vector (n,) with its gain (n,).

    x / sqrt(mean x^2 + 1e-6) * weight. Source: arXiv 1910.07467 eq. (4).
    """
    return x / math.sqrt(float(np.mean(x * x)) + 1e-6) * weight


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), elementwise, for any shape."""
    return np.array([1.0 / (1.0 + math.exp(-float(e))) for e in x.ravel()]).reshape(x.shape)


def gelu_erf(x: Array) -> Array:
    """Exact GELU of one vector (n,).

    x (1 + erf(x / sqrt 2)) / 2. Source: arXiv 1606.08415 section 2.
    """
    return np.array([e * (1.0 + math.erf(e / math.sqrt(2.0))) / 2.0 for e in x])


def rope(x: Array, position: int) -> Array:
    """Rotary embedding of one head's vector (e,) at a position counted from 0.

    (x_i, x_{i+e/2}) turned by position * 10000^(-2i/e), i = 0 .. e/2 - 1:
    first = x1 cos - x2 sin, second = x2 cos + x1 sin.
    Source: arXiv 2104.09864 eq. (34). Differs from the paper: dimension i pairs with
    i + e/2 instead of its neighbor. Differs from NVIDIA/ngpt, whose released
    model.py multiplies by (cos, sin) without adding and so does not rotate.
    """
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        turn = position * 10000.0 ** (-2.0 * i / len(x))
        out[i] = x[i] * math.cos(turn) - x[i + half] * math.sin(turn)
        out[i + half] = x[i + half] * math.cos(turn) + x[i] * math.sin(turn)
    return out


def attend(q_TE: Array, k_TE: Array, v_TE: Array, scale: float) -> Array:
    """Causal attention of one head, (T, e) each -> (T, e).

    y_t = sum_{j <= t} p_j v_j, p = softmax over j <= t of scale <q_t, k_j>.
    Source: arXiv 1706.03762 eq. (1) with a causal mask.
    """
    y_TE = np.zeros_like(v_TE)
    for t in range(len(q_TE)):
        scores = [scale * float(np.dot(q_TE[t], k_TE[j])) for j in range(t + 1)]
        weights = [math.exp(s - max(scores)) for s in scores]
        for j in range(t + 1):
            y_TE[t] += weights[j] / math.fsum(weights) * v_TE[j]
    return y_TE


def attention(x_TD: Array, block: Params, n_head: int, *, kind: str) -> Array:
    """Attention branch, (T, d) -> (T, d).

    kind "normalized": q, k = s_qk N(RoPE(.)) per head, scale sqrt(e)
    (arXiv 2410.01131 section 2.3.2); "rotary": RoPE only, scale 1 / sqrt(e);
    "literal": neither, scale 1 / sqrt(e). v is never normalized.
    """
    T, d = x_TD.shape
    e = d // n_head
    heads_TD = np.zeros((T, d))
    for head in range(n_head):
        part = slice(head * e, (head + 1) * e)
        q, k, v = (np.array([_array(block[name])[part] @ x for x in x_TD]) for name in ("q", "k", "v"))
        scale = 1.0 / math.sqrt(e)
        if kind in ("normalized", "rotary"):
            q = np.array([rope(q[t], t) for t in range(T)])
            k = np.array([rope(k[t], t) for t in range(T)])
        if kind == "normalized":
            s_qk = _array(block["s_qk"])[part]
            q = np.array([s_qk * normalize(q[t]) for t in range(T)])
            k = np.array([s_qk * normalize(k[t]) for t in range(T)])
            scale = math.sqrt(e)
        heads_TD[:, part] = attend(q, k, v, scale)
    return np.array([_array(block["o"]) @ y for y in heads_TD])


def swiglu(x: Array, block: Params, *, scaled: bool) -> Array:
    """SwiGLU branch of one token, (d,) -> (d,).

    down @ (u * SiLU(g)), SiLU(g) = g sigmoid(g); scaled: u <- s_u sqrt(d) u and
    g <- s_g sqrt(d) g. Source: arXiv 2002.05202 eq. (6); arXiv 2410.01131 section
    2.4.2, whose v is g here. Differs from the paper: u has the factor sqrt(d) too, as
    in NVIDIA/ngpt model.py; N after the branch removes it.
    """
    u, g = _array(block["u"]) @ x, _array(block["g"]) @ x
    if scaled:
        u = u * _array(block["s_u"]) * math.sqrt(len(x))
        g = g * _array(block["s_g"]) * math.sqrt(len(x))
    return _array(block["down"]) @ (u * g * sigmoid(g))


def forward(ids: Sequence[int], p: Params, *, arch: str) -> tuple[Array, list[Array]]:
    """Logits (T, V), and the hidden states (T, d) after every residual step.

    "ngpt": h <- N(h + |a| (N(f(h)) - h)), a (d,), logits = s_z (head @ h);
    "gated-ngpt": |a| becomes sigmoid(gate) a, a a signed scalar, gate (d,);
    "gpt": h <- h + f(RMSNorm(h)), logits = head @ RMSNorm(h). h starts as the
    embedding row, unchanged. ids: (T,); the keys of p are named in the code.
    Source: arXiv 2410.01131 sections 2.1, 2.2.2 and 2.6.
    """
    if arch not in ("ngpt", "gated-ngpt", "gpt"):
        raise ValueError(f"unknown arch {arch!r}")
    normalized = arch != "gpt"
    h_TD = np.array([_array(p["embedding"])[token] for token in ids])
    states = []
    for block in p["blocks"]:
        for branch in ("attn", "mlp"):
            x_TD = h_TD
            if not normalized:
                gain = _array(block[f"norm_{branch}"])
                x_TD = np.array([rms_norm(h, gain) for h in h_TD])
            if branch == "attn":
                kind = "normalized" if normalized else "rotary"
                f_TD = attention(x_TD, block, p["n_head"], kind=kind)
            else:
                f_TD = np.array([swiglu(x, block, scaled=normalized) for x in x_TD])
            if normalized:
                a = _array(block[f"a_{branch}"])
                if arch == "ngpt":
                    rate = np.abs(a)
                else:
                    rate = sigmoid(_array(block[f"gate_{branch}"])) * float(a)
                h_TD = np.array([normalize(h + rate * (normalize(f) - h)) for h, f in zip(h_TD, f_TD, strict=True)])
            else:
                h_TD = h_TD + f_TD
            states.append(h_TD)
    head = _array(p["head"])
    if normalized:
        return np.array([_array(p["s_z"]) * (head @ h) for h in h_TD]), states
    gain = _array(p["norm_final"])
    return np.array([head @ rms_norm(h, gain) for h in h_TD]), states


def literal_forward(ids: Sequence[int], p: Params) -> tuple[Array, list[Array]]:
    """Logits (T, V) and hidden states of "gated-literal", the earlier attempt's model.

    h = N(N(embedding[id]) + N(position[t])); h <- N(h + sigmoid(gate) a f(h)), f not
    normalized; MLP = fc2 @ gelu(fc1 @ h); logits = 15 <N(head row), h>. position: (T, d),
    fc1: (F, d), fc2: (d, F). Source: dnhkng/nGPT-muon, default configuration.
    """
    embedding, position = _array(p["embedding"]), _array(p["position"])
    h_TD = np.array([normalize(normalize(embedding[i]) + normalize(position[t])) for t, i in enumerate(ids)])
    states = []
    for block in p["blocks"]:
        for branch in ("attn", "mlp"):
            if branch == "attn":
                f_TD = attention(h_TD, block, p["n_head"], kind="literal")
            else:
                fc1, fc2 = _array(block["fc1"]), _array(block["fc2"])
                f_TD = np.array([fc2 @ gelu_erf(fc1 @ h) for h in h_TD])
            rate = sigmoid(_array(block[f"gate_{branch}"])) * float(block[f"a_{branch}"])
            steps_TD = h_TD + rate * f_TD
            h_TD = np.array([normalize(h) for h in steps_TD])
            states.append(h_TD)
    head = np.array([normalize(row) for row in _array(p["head"])])
    return np.array([15.0 * (head @ h) for h in h_TD]), states
