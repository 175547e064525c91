"""Self-checks of the oracles: properties that a wrong formula would break."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from . import optimizers, sphere, transformer

DIMS = [-1, 0]


def points(seed: int, dim: int, count: int = 2) -> list[np.ndarray]:
    """Return count random arrays (5, 7) of unit vectors along dim."""
    rng = np.random.default_rng(seed)
    return [sphere.project(rng.normal(size=(5, 7)), dim) for _ in range(count)]


def params(arch: str, seed: int = 0) -> dict[str, Any]:
    """Return random parameters of a two-block model, d 8, 2 heads, hidden 12."""
    rng = np.random.default_rng(seed)
    d, hidden, vocab = 8, 12, 11
    gated = arch in ("gated-ngpt", "gated-literal")
    blocks = []
    for _ in range(2):
        block: dict[str, Any] = {name: rng.normal(size=(d, d)) / 3 for name in "qkvo"}
        block |= {name: rng.normal(size=(hidden, d)) / 3 for name in "ug"}
        block |= {"down": rng.normal(size=(d, hidden)) / 3}
        block |= {"fc1": rng.normal(size=(32, d)), "fc2": rng.normal(size=(d, 32))}
        block |= {"s_qk": rng.uniform(0.5, 2, d)}
        block |= {name: rng.uniform(0.5, 2, hidden) for name in ("s_u", "s_g")}
        for branch in ("attn", "mlp"):
            block[f"a_{branch}"] = rng.normal() if gated else rng.normal(size=d)
            block[f"gate_{branch}"] = rng.normal(size=d)
            block[f"norm_{branch}"] = rng.uniform(0.5, 2, d)
        blocks.append(block)
    return {
        "embedding": sphere.project(rng.normal(size=(vocab, d)), -1),
        "head": sphere.project(rng.normal(size=(vocab, d)), -1),
        "position": rng.normal(size=(9, d)),
        "s_z": rng.uniform(1, 3, vocab),
        "norm_final": rng.uniform(0.5, 2, d),
        "n_head": 2,
        "blocks": blocks,
    }


def run(arch: str, ids: list[int], p: dict[str, Any]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the logits and states of either forward function."""
    if arch == "gated-literal":
        return transformer.literal_forward(ids, p)
    return transformer.forward(ids, p, arch=arch)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("length_rad", [1e-9, 0.3, 3.0])
def test_log_inverts_exp_and_angle_is_the_length(dim: int, length_rad: float) -> None:
    x, v = points(1, dim)
    v = length_rad * sphere.project(sphere.tangent(x, v, dim), dim)
    y = sphere.exp(x, v, dim)
    np.testing.assert_allclose(np.linalg.norm(y, axis=dim), 1.0, atol=1e-15)
    np.testing.assert_allclose(sphere.angle(x, y, dim), length_rad, rtol=1e-6)
    np.testing.assert_allclose(sphere.log(x, y, dim), v, atol=1e-14)


@pytest.mark.parametrize("dim", DIMS)
def test_retract_moves_by_atan_and_exp_of_zero_stays(dim: int) -> None:
    x, v = points(2, dim)
    v = sphere.tangent(x, v, dim)
    moved = sphere.angle(x, sphere.retract(x, v, dim), dim)
    np.testing.assert_allclose(moved, np.arctan(np.linalg.norm(v, axis=dim)))
    np.testing.assert_array_equal(sphere.exp(x, 0 * v, dim), x)


@pytest.mark.parametrize("dim", DIMS)
def test_transport_is_isometric_tangent_and_keeps_the_velocity(dim: int) -> None:
    x, u, v, w = points(3, dim, 4)
    u = sphere.project(sphere.tangent(x, u, dim), dim)
    v, w = sphere.tangent(x, v, dim), sphere.tangent(x, w, dim)
    theta = np.linspace(0.1, 2.9, sphere.angle(x, x, dim).size)
    y = sphere.exp(x, np.expand_dims(theta, dim) * u, dim)
    tv, tw = (sphere.transport(x, u, theta, a, dim) for a in (v, w))
    np.testing.assert_allclose((tv * y).sum(dim), 0.0, atol=1e-14)
    np.testing.assert_allclose((tv * tw).sum(dim), (v * w).sum(dim), atol=1e-14)
    velocity = sphere.transport(x, u, theta, u, dim)
    back = sphere.transport(y, velocity, -theta, tv, dim)
    np.testing.assert_allclose(back, v, atol=1e-14)
    h = 1e-5
    ends = [sphere.exp(x, np.expand_dims(theta + s, dim) * u, dim) for s in (-h, h)]
    np.testing.assert_allclose(velocity, (ends[1] - ends[0]) / (2 * h), atol=1e-9)


def test_transport_is_the_limit_of_small_projections() -> None:
    x, u, v = points(4, -1, 3)
    u = sphere.project(sphere.tangent(x, u, -1), -1)
    v = sphere.tangent(x, v, -1)
    theta, errors = 1.3, []
    for steps in (50, 200):
        carried = v
        for i in range(1, steps + 1):
            y = sphere.exp(x, theta * i / steps * u, -1)
            carried = sphere.tangent(y, carried, -1)
        exact = sphere.transport(x, u, theta, v, -1)
        errors.append(np.abs(carried - exact).max())
    assert errors[1] < 5e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (2, 3, 6)])
def test_polar_exact_is_orthogonal_and_maximizes_the_inner_product(shape: tuple[int, ...]) -> None:
    G = np.random.default_rng(5).normal(size=shape)
    polar = optimizers.polar_exact(G)
    np.testing.assert_allclose(np.linalg.svd(polar, compute_uv=False), 1.0)
    nuclear = np.linalg.svd(G, compute_uv=False).sum(-1)
    np.testing.assert_allclose((G * polar).sum((-2, -1)), nuclear)
    np.testing.assert_allclose(optimizers.polar_exact(1e-30 * G), polar)
    cubic = optimizers.polynomial_polar(G, [(1.875, -1.25, 0.375)] * 40, safety=1.02)
    np.testing.assert_allclose(cubic, polar, atol=1e-12)


def test_polynomial_polar_acts_on_the_singular_values() -> None:
    G = np.random.default_rng(6).normal(size=(7, 3))
    left, s, right = np.linalg.svd(G, full_matrices=False)
    s = s / (1.5 * math.sqrt((s**2).sum()))
    for a, b, c in [(3.4445, -4.775, 2.0315), (2.0, -1.5, 0.5)]:
        s = a * s + b * s**3 + c * s**5
    rows = [(3.4445, -4.775, 2.0315), (2.0, -1.5, 0.5)]
    out = optimizers.polynomial_polar(G, rows, safety=1.5)
    np.testing.assert_allclose(out, left @ np.diag(s) @ right, atol=1e-14)


def test_muon_two_steps_by_hand() -> None:
    W, grads = np.full((8, 2), 3.0), [np.full((8, 2), 1.0), np.full((8, 2), -2.0)]
    rule: dict[str, Any] = {"lr": 0.1, "momentum": 0.75, "weight_decay": 0.5, "orthogonalize": np.array}
    got = optimizers.muon(W, grads, nesterov=True, adjust_lr_fn=None, **rule)
    # M = 0.25, then 0.1875 - 0.5; used = 0.4375, then -0.5 - 0.234375; ratio 2
    first = 3.0 * 0.95 - 0.2 * 0.4375
    np.testing.assert_allclose(got[0], first)
    np.testing.assert_allclose(got[1], first * 0.95 + 0.2 * 0.734375)
    got = optimizers.muon(W, grads, nesterov=False, adjust_lr_fn="match_rms_adamw", **rule)
    np.testing.assert_allclose(got[0], 2.85 - 0.1 * 0.2 * math.sqrt(8) * 0.25)


def test_adamw_steps_and_clipping_by_hand() -> None:
    rule: dict[str, Any] = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 0.5, "weight_decay": 0.2}
    got = optimizers.adamw(np.array([2.0]), [np.array([-3.0]), np.array([1.0])], **rule)
    assert got[0][0] == pytest.approx(2.0 * 0.98 + 0.1 * 3.0 / 3.5)
    mean, square = (0.9 * -0.3 + 0.1) / 0.19, (0.99 * 0.09 + 0.01) / 0.0199
    step = 0.1 * mean / (math.sqrt(square) + 0.5)
    assert got[1][0] == pytest.approx(got[0][0] * 0.98 - step)
    clipped, norm = optimizers.clip_global_norm([np.array([3.0]), np.array([4.0])], 1.0)
    assert norm == 5.0
    np.testing.assert_allclose(np.concatenate(clipped), [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (2, 4, 6)])
def test_normuon_first_step_evens_the_long_axis(shape: tuple[int, ...]) -> None:
    m, n = shape[-2:]
    axis = -1 if m >= n else -2
    O_in = np.random.default_rng(7).normal(size=shape)
    V = np.zeros_like(O_in.mean(axis, keepdims=True))
    O_out, V_out = optimizers.normuon(O_in, V, 0.9)
    np.testing.assert_allclose(V_out, 0.1 * (O_in**2).mean(axis, keepdims=True))
    lengths = np.linalg.norm(O_out, axis=axis, keepdims=True)
    np.testing.assert_allclose(lengths / lengths.max(axis=(-2, -1), keepdims=True), 1)
    before, after = ((X**2).sum((-2, -1)) for X in (O_in, O_out))
    np.testing.assert_allclose(after, before)
    assert (O_out * O_in >= 0).all()


def test_normuon_by_rows_evens_the_rows_and_turning_the_matrix_turns_the_axis() -> None:
    O_in = np.random.default_rng(7).normal(size=(4, 6))
    O_out, V_out = optimizers.normuon(O_in, np.zeros((4, 1)), 0.9, axis="rows")
    np.testing.assert_allclose(V_out, 0.1 * (O_in**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(np.linalg.norm(O_out, axis=-1), math.sqrt((O_in**2).sum() / 4))
    by_columns = optimizers.normuon(O_in, np.zeros((1, 6)), 0.9)
    by_rows = optimizers.normuon(O_in.T, np.zeros((6, 1)), 0.9)
    np.testing.assert_array_equal(by_columns[0].T, by_rows[0])
    with pytest.raises(ValueError, match="expected"):
        optimizers.normuon(O_in, np.zeros((4, 1)), 0.9)


def test_cautious_decay_by_hand() -> None:
    W, step = np.array([[1.0, -1.0, 2.0, -2.0]]), np.array([[1.0, 1.0, 0.0, -3.0]])
    np.testing.assert_allclose(optimizers.cautious_decay(W, step, 0.25), [[0.75, -1.0, 1.5, -1.5]])


@pytest.mark.parametrize("dim", DIMS)
def test_geodesic_step_direction_and_angle(dim: int) -> None:
    W, D = points(8, dim)
    D = 3.0 * D
    u = sphere.tangent(W, D, dim)
    for mode, theta in (("lr", 0.2), ("lr-norm", 0.2 * np.linalg.norm(u, axis=dim))):
        moved = optimizers.geodesic_step(W, D, 0.2, mode, dim)
        np.testing.assert_allclose(np.linalg.norm(moved, axis=dim), 1.0)
        np.testing.assert_allclose(sphere.angle(W, moved, dim), theta)
        assert ((moved * D).sum(dim) > (W * D).sum(dim)).all()
        radial = optimizers.geodesic_step(W, -2.0 * W, 0.2, mode, dim)
        np.testing.assert_array_equal(radial, W)


@pytest.mark.parametrize("dim", DIMS)
def test_carried_momentum_by_its_laws(dim: int) -> None:
    x, y, M = points(10, dim, 3)
    M = 3.0 * M
    part = (x * M).sum(dim, keepdims=True)
    by = {how: optimizers.carried(M, 0.5 * x, 2.0 * y, how, dim) for how in ("none", "project", "parallel", "rotate")}
    np.testing.assert_array_equal(by["none"], M)
    for how in ("project", "parallel"):
        np.testing.assert_allclose((by[how] * y).sum(dim), 0.0, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(by["rotate"], axis=dim), np.linalg.norm(M, axis=dim))
    np.testing.assert_allclose((by["rotate"] * y).sum(dim, keepdims=True), part)
    np.testing.assert_allclose(by["rotate"] - part * y, by["parallel"], atol=1e-14)
    np.testing.assert_allclose(optimizers.carried(x, x, y, "rotate", dim), y)
    back = optimizers.carried(by["rotate"], y, x, "rotate", dim)
    np.testing.assert_allclose(back, M, atol=1e-14)


@pytest.mark.parametrize("dim", DIMS)
def test_sphere_muon_with_plain_options_is_muon_and_geodesic_step(dim: int) -> None:
    W, *grads = points(11, dim, 4)
    rule: dict[str, Any] = {"lr": 0.1, "momentum": 0.75, "nesterov": True, "orthogonalize": optimizers.polar_exact}
    plain = optimizers.muon(W, grads, weight_decay=0.5, adjust_lr_fn=None, **rule)
    for (got, _), want in zip(
        optimizers.sphere_muon(W, grads, dim=dim, weight_decay=0.5, adjust_lr_fn=None, **rule), plain, strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-15)
    (got, M), *_ = optimizers.sphere_muon(W, grads, dim=dim, geodesic="lr-norm", match_step="angle", **rule)
    assert sphere.angle(W, got, dim).mean() == pytest.approx(0.1)
    D = -optimizers.polar_exact(grads[0])
    np.testing.assert_allclose(M, 0.25 * grads[0])
    (got, _), *_ = optimizers.sphere_muon(W, grads, dim=dim, geodesic="lr", **rule)
    np.testing.assert_allclose(got, optimizers.geodesic_step(W, D, 0.1, "lr", dim))
    (got, _), *_ = optimizers.sphere_muon(W, grads, dim=dim, weight_decay=0.5, cautious=True, **rule)
    np.testing.assert_allclose(got, optimizers.cautious_decay(W, -D, 0.05) + 0.1 * D, atol=1e-15)


ARCHS = ["ngpt", "gated-ngpt", "gpt", "gated-literal"]


@pytest.mark.parametrize("arch", ARCHS)
def test_forward_is_causal_and_uses_every_earlier_token(arch: str) -> None:
    p, ids = params(arch), [3, 1, 4, 1, 5, 9]
    logits, states = run(arch, ids, p)
    assert logits.shape == (6, 11) and len(states) == 4
    for changed in range(6):
        other = list(ids)
        other[changed] = 7
        difference = np.abs(run(arch, other, p)[0] - logits).max(-1)
        assert (difference[:changed] == 0).all()
        assert (difference[changed:] > 1e-8).all()


@pytest.mark.parametrize("arch", ARCHS)
def test_hidden_states_are_unit_except_in_the_control(arch: str) -> None:
    states = run(arch, [3, 1, 4, 1, 5], params(arch))[1]
    drift = max(np.abs(np.linalg.norm(h, axis=-1) - 1).max() for h in states)
    assert (drift < 1e-14) == (arch != "gpt")


@pytest.mark.parametrize("arch", ARCHS)
def test_only_the_ngpt_step_ignores_its_sign(arch: str) -> None:
    p, flipped = params(arch), params(arch)
    for block in flipped["blocks"]:
        block["a_attn"], block["a_mlp"] = -block["a_attn"], -block["a_mlp"]
    same = np.allclose(run(arch, [3, 1, 4], p)[0], run(arch, [3, 1, 4], flipped)[0])
    assert same == (arch in ("ngpt", "gpt"))


def test_normalized_archs_ignore_the_scale_of_branch_outputs() -> None:
    for arch, invariant in (("ngpt", True), ("gated-literal", False)):
        p, scaled = params(arch), params(arch)
        for block in scaled["blocks"]:
            for name in ("q", "k", "o", "down", "u", "fc2"):
                block[name] = 2.5 * block[name]
        same = np.allclose(run(arch, [3, 1, 4], p)[0], run(arch, [3, 1, 4], scaled)[0])
        assert same == invariant


def test_rope_turns_by_the_stated_angle_and_scores_depend_on_distance() -> None:
    np.testing.assert_allclose(
        transformer.rope(np.array([1.0, 0.0, 0.0, 2.0]), 3),
        [math.cos(3), -2 * math.sin(0.03), math.sin(3), 2 * math.cos(0.03)],
    )
    q, k = np.random.default_rng(9).normal(size=(2, 6))
    scores = [transformer.rope(q, 5 + s) @ transformer.rope(k, 2 + s) for s in (0, 11)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-12)
    assert scores[0] != pytest.approx(q @ k, rel=1e-3)
