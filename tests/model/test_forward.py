"""Forward passes against the float64 oracle, every parameter at random, and hidden states that stay on the sphere."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import transformer as oracle
from torch import Tensor, nn

from ngpt.config import ModelConfig
from ngpt.kernels import heads, twins
from ngpt.model import build_model, layers
from ngpt.optim.build import build_optimizers
from ngpt.presets import resolve

SPHERE = ["ngpt", "gated-ngpt", "gated-literal"]
ARCHS = [*SPHERE, "gpt"]
VOCAB, T = 13, 7
EPS32 = torch.finfo(torch.float32).eps
MATRICES = ("attention.q", "attention.k", "attention.v", "attention.o", "mlp.u", "mlp.g", "mlp.down")


def config_of(arch: str, n_head: int = 3) -> ModelConfig:
    """Width 12, two blocks, and a step size that is no default."""
    alpha = {} if arch == "gpt" else {"alpha": 0.3}
    return resolve("tiny", arch=arch, n_layer=2, n_embd=12, n_head=n_head, seq_len=T, **alpha).model


def randomised(config: ModelConfig, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """A model whose every parameter is random, scales and gates included, so that a wrong factor is seen.

    The tables of RoPE are rebuilt in `dtype`: the model keeps them in float32, an error of 6e-8 that is not asked about
    here.
    """
    model = build_model(config, VOCAB, seed=seed).to(dtype)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            if name.endswith("norm.weight"):
                value = rng.uniform(0.5, 2, shape)
            elif name.endswith("weight"):
                value = rng.normal(size=shape) / math.sqrt(config.n_embd)
            elif name.endswith("gate"):
                value = rng.normal(size=shape)
            elif name.endswith("step.a.value"):  # of either sign
                value = rng.normal(size=shape) * (1.0 if config.arch != "ngpt" else config.n_embd**-0.5)
            elif name.endswith("value"):
                stored = 1.0 if name.endswith(("s_u.value", "s_g.value")) else config.n_embd**-0.5
                value = rng.uniform(0.5, 2, shape) * stored
            else:
                assert name == "logit_scale"
                continue
            parameter.copy_(torch.as_tensor(value))
    K = config.n_embd // config.n_head
    turn = np.arange(T)[:, None] * 10000.0 ** (-2 * np.arange(K // 2) / K)
    for module in model.modules():
        if isinstance(module, layers.RotaryEmbedding):
            module.cos_TK = torch.tensor(np.concatenate([np.cos(turn)] * 2, -1), dtype=dtype)
            module.sin_TK = torch.tensor(np.concatenate([-np.sin(turn), np.sin(turn)], -1), dtype=dtype)
    return model


def effective(model: nn.Module, config: ModelConfig) -> dict[str, Any]:
    """The oracle's parameters: effective value = parameter * init / stored scale, with the paper's init and scale."""
    p = {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}
    root = math.sqrt(config.n_embd)  # 1 / stored scale of a, s_qk and s_z; their init is alpha, 1 and the start below
    start = 1.0 if config.arch == "ngpt" else root
    params: dict[str, Any] = {"n_head": config.n_head, "embedding": p["embedding.weight"], "head": p["head.weight"]}
    params["blocks"] = []
    for i in range(config.n_layer):
        at = f"blocks.{i}."
        if config.arch == "gated-literal":
            q, k, v = np.split(p[at + "qkv.weight"], 3)
            block = {"q": q, "k": k, "v": v} | {name: p[f"{at}{name}.weight"] for name in ("o", "fc1", "fc2")}
        else:
            block = {name.split(".")[1]: p[f"{at}{name}.weight"] for name in MATRICES}
        for ours, theirs in (("attention", "attn"), ("mlp", "mlp")):
            if config.arch == "gpt":
                block[f"norm_{theirs}"] = p[f"{at}{ours}_norm.weight"]
                continue
            a = p[f"{at}{ours}_step.a.value"]
            block[f"a_{theirs}"] = a * config.alpha * root if config.arch == "ngpt" else a
            if config.arch != "ngpt":
                block[f"gate_{theirs}"] = p[f"{at}{ours}_step.gate"]
        if config.arch in ("ngpt", "gated-ngpt"):
            block["s_qk"] = p[at + "attention.s_qk.value"] * root
            block |= {name: p[f"{at}mlp.{name}.value"] for name in ("s_u", "s_g")}
        params["blocks"].append(block)
    if config.arch == "gated-literal":
        params["position"] = p["position.weight"]
    elif config.arch == "gpt":
        params["norm_final"] = p["norm.weight"]
    else:
        params["s_z"] = p["s_z.value"] * root * start
    return params


def watched(model: nn.Module, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the hidden states after every residual step (of the control: after every block)."""
    states: list[Tensor] = []
    endings = ("attention_step", "mlp_step")
    modules = [module for name, module in model.named_modules() if name.endswith(endings)] or list(model.blocks)
    handles = [module.register_forward_hook(lambda _m, _i, output: states.append(output)) for module in modules]
    logits = model(ids)
    for handle in handles:
        handle.remove()
    return logits, states


def ids_of(seed: int = 0, batch: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, (batch, T)))


@pytest.mark.parametrize("n_head", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("arch", ARCHS)
def test_agrees_with_the_oracle(arch: str, dtype: torch.dtype, n_head: int) -> None:
    config = config_of(arch, n_head)
    model = randomised(config, dtype)
    params = effective(model, config)
    ids = ids_of()
    with torch.no_grad():
        logits, states = watched(model, ids)
    for row, sequence in enumerate(ids.tolist()):
        if arch == "gated-literal":
            want, want_states = oracle.literal_forward(sequence, params)
        else:
            want, want_states = oracle.forward(sequence, params, arch=arch)
        # some hundred operations in a chain; the largest logit sets the scale. In float64 this is below 1e-12
        tolerance = 64 * torch.finfo(dtype).eps
        np.testing.assert_allclose(logits[row].numpy(), want, rtol=0, atol=tolerance * np.abs(want).max())
        for got, state in zip(states, want_states[1::2] if arch == "gpt" else want_states, strict=True):
            np.testing.assert_allclose(got[row].numpy(), state, rtol=0, atol=tolerance * np.abs(state).max())


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_matters_to_the_comparison(arch: str) -> None:
    """Each parameter tensor, changed by 1e-6 of itself, moves the logits: a wrong factor could not hide."""
    model, ids = randomised(config_of(arch), torch.float64), ids_of()
    with torch.no_grad():
        logits = model(ids)
        for name, parameter in model.named_parameters():
            kept = parameter.clone()
            noise = torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
            parameter.add_(parameter * noise * 1e-6) if parameter.ndim else parameter.mul_(1 + 1e-6)
            assert (model(ids) - logits).abs().max() > 1e-11, name
            parameter.copy_(kept)


@pytest.mark.parametrize("arch", ARCHS)
def test_bfloat16_autocast_stays_near_float32(arch: str) -> None:
    model, ids = randomised(config_of(arch), torch.float32), ids_of()
    with torch.no_grad():
        logits, _ = watched(model, ids)
        with torch.autocast("cpu", torch.bfloat16):
            low, states = watched(model, ids)
    if arch != "gpt":
        assert all(state.dtype == torch.float32 for state in states), "norms and the residual stream are float32"
    # some ten products in a chain, each rounding to 8 bits
    assert (low.float() - logits).abs().max() < 10 * 2.0**-8 * logits.abs().max()


def test_the_released_rope_is_no_rotation_and_changes_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA/ngpt turns (x, y) into (-y cos, x sin), its two tables being halves of one: docs/method.md says so."""

    def released(x: Tensor, *tables: Tensor) -> Tensor:
        T, K = x.shape[-2:]
        turns = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(0, K, 2) / K)
        sin, cos = torch.stack([turns.sin(), turns.cos()], dim=-1).flatten(1).chunk(2, dim=-1)
        return torch.stack([-x[..., 1::2] * cos, x[..., ::2] * sin], dim=-1).flatten(-2)

    config = resolve("paper").model
    model = build_model(config, 257, seed=0)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 257, (4, config.seq_len)))
    x = torch.randn(1, 1, config.seq_len, 16, generator=torch.Generator().manual_seed(0))
    tables = model.get_submodule("blocks.0.attention.rope")(config.seq_len)
    with torch.no_grad():
        logits, lengths = model(ids), heads.rotated(x, *tables).norm(dim=-1)
        torch.testing.assert_close(lengths, x.norm(dim=-1))
        monkeypatch.setattr(heads, "in_one_function", lambda qkv: False)
        torch.testing.assert_close(model(ids), logits)
        monkeypatch.setattr(heads, "rotated", released)
        assert (heads.rotated(x).norm(dim=-1) / x.norm(dim=-1) - 1).abs().mean() > 0.1
        assert 0.03 < ((model(ids) - logits).norm() / logits.norm()).item() < 0.3


# --- attention -------------------------------------------------------------------------------------------------------


def handed_to_attention(model: nn.Module, ids: Tensor, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each layer hands to scaled_dot_product_attention."""
    calls: list[dict[str, Any]] = []
    original = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        calls.append({"q": q, "k": k, "v": v, **options})
        return original(q, k, v, **options)

    patch.setattr(layers.F, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        model(ids)
    return calls


@pytest.mark.parametrize("arch", ["ngpt", "gated-ngpt"])
def test_queries_and_keys_are_unit_after_rope_and_the_scale_comes_last(
    arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(arch)
    model, ids = randomised(config, torch.float64), ids_of()
    H, K = config.n_head, config.n_embd // config.n_head
    call = handed_to_attention(model, ids, monkeypatch)[0]
    q_BHTK, k_BHTK, v_BHTK = (call[name].numpy() for name in "qkv")
    assert call["scale"] == pytest.approx(math.sqrt(K)) and call["is_causal"]
    block = effective(model, config)["blocks"][0]
    s = block["s_qk"].reshape(H, K)
    ones = np.ones((2, H, T))
    # the scale, which belongs to q and to k, is applied squared to q: it is the product that counts
    np.testing.assert_allclose(np.linalg.norm(k_BHTK, axis=-1), ones)
    np.testing.assert_allclose(np.linalg.norm(q_BHTK / (s**2)[:, None], axis=-1), ones)
    assert np.abs(np.linalg.norm(v_BHTK, axis=-1) - 1).min() > 0.01, "v is not normalized"

    h = effective(model, config)["embedding"][ids[0].numpy()]
    for head in range(H):
        part = slice(head * K, (head + 1) * K)
        q, k = (h @ block[name][part].T for name in ("q", "k"))
        after, before = np.zeros((2, T, T))
        for i in range(T):
            for j in range(T):
                turned = [oracle.normalize(oracle.rope(q[i], i)), oracle.normalize(oracle.rope(k[j], j))]
                after[i, j] = (s[head] * turned[0]) @ (s[head] * turned[1])
                scaled = [s[head] * oracle.normalize(q[i]), s[head] * oracle.normalize(k[j])]
                before[i, j] = oracle.rope(scaled[0], i) @ oracle.rope(scaled[1], j)
        got = q_BHTK[0, head] @ k_BHTK[0, head].T
        np.testing.assert_allclose(got, after, rtol=0, atol=1e-13)
        assert np.abs(after - before).max() > 0.01, "the other order is another model, and this test would see it"


def test_the_controls_attention_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    call = handed_to_attention(randomised(config_of("gpt"), torch.float64), ids_of(), monkeypatch)[0]
    assert call["scale"] == pytest.approx(0.5) and call["is_causal"]  # 1 / sqrt(12 / 3)
    assert np.abs(np.linalg.norm(call["k"].numpy(), axis=-1) - 1).min() > 0.01


@pytest.mark.parametrize("width", [2, 6, 7, 27])
def test_rope_turns_pairs_by_their_position(width: int) -> None:
    x = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 9, width)), dtype=torch.float32)
    got = heads.rotated(x, *layers.RotaryEmbedding(width, seq_len=11)(9)).numpy()
    even = width - width % 2
    for index in np.ndindex(2, 3, 9):
        want = oracle.rope(x[index].double().numpy()[:even], index[-1])
        np.testing.assert_allclose(got[index][:even], want, rtol=0, atol=8 * EPS32)  # entries up to 3
    np.testing.assert_array_equal(got[..., even:], x[..., even:])


# --- unit ------------------------------------------------------------------------------------------------------------


def test_unit_is_the_projection_and_gradients_are_those_of_finite_differences() -> None:
    x = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 5)), requires_grad=True)
    np.testing.assert_allclose(
        twins.unit(x).detach().numpy().reshape(-1, 5),
        [oracle.normalize(row) for row in x.detach().numpy().reshape(-1, 5)],
        rtol=4 * np.finfo(np.float64).eps,
    )
    assert torch.autograd.gradcheck(twins.unit, x)
    h, f, a = (torch.tensor(np.random.default_rng(1).normal(size=s), requires_grad=True) for s in [(2, 5), (2, 5), 5])
    assert torch.autograd.gradcheck(twins.residual_step, (h, f, a))
    low = x.detach().bfloat16().requires_grad_()
    y = twins.unit(low)
    (y**3).sum().backward()
    assert y.dtype == torch.float32 and low.grad is not None and low.grad.dtype == torch.bfloat16
    zero = torch.zeros(2, 5, requires_grad=True)
    twins.unit(zero).sum().backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all()


def largest_defect(model: nn.Module, ids: Tensor) -> float:
    with torch.no_grad():
        states = watched(model, ids)[1]
    assert len(states) == 4
    return max((state.double().norm(dim=-1) - 1).abs().max().item() for state in states)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("arch", SPHERE)
def test_hidden_states_are_unit_before_and_after_training(arch: str, optimizer: str) -> None:
    config = resolve(
        "tiny", arch=arch, n_layer=2, n_embd=24, n_head=4, seq_len=T, optimizer=optimizer, lr=0.02, lazy_proj_freq=1
    )
    model = build_model(config.model, VOCAB, seed=0)
    optimizers = build_optimizers(model, config)
    ids = ids_of(batch=4)
    assert largest_defect(model, ids) < 4 * EPS32  # a norm, a quotient
    losses = []
    for step in range(1, 11):
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizers.move()
        optimizers.projection.after_step(step)
        model.zero_grad()
        losses.append(loss.item())
        assert largest_defect(model, ids) < 4 * EPS32
        assert max(optimizers.projection.drift().values()) < 4 * EPS32
    assert losses[-1] < losses[0] - 0.05
