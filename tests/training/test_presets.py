"""Presets that stand for somebody's procedure follow it. Those of 155M parameters only run under `pytest -m slow`."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from oracles import optimizers as oracle
from small_runs import start

from ngpt.config import Runtime
from ngpt.cost import hidden_entries
from ngpt.data.shards import write_shard
from ngpt.optim.build import Optimizers
from ngpt.presets import resolve
from ngpt.training.record import read_metrics
from ngpt.training.step import TrainingStep
from ngpt.training.trainer import train

Named = dict[str, np.ndarray]
EPS = float(np.finfo(np.float32).eps)


class Watch:
    """The weights before each step of a run and at its end, and the gradients, clipped, of each step."""

    def __init__(self, parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts, self.gradients, self.weights = parts, list[Named](), list[Named]()
        take, move = TrainingStep.take_gradients, Optimizers.move

        def watched_take(step: TrainingStep, number: int) -> tuple[float, float]:
            self.weights.append(self.now())
            return take(step, number)

        def watched_move(optimizers: Optimizers) -> None:
            named = parts.model.named_parameters()
            self.gradients.append({name: p.grad.double().numpy().copy() for name, p in named if p.requires_grad})
            move(optimizers)

        monkeypatch.setattr(TrainingStep, "take_gradients", watched_take)
        monkeypatch.setattr(Optimizers, "move", watched_move)

    def now(self) -> Named:
        """Return the weights, in float64."""
        named = self.parts.model.named_parameters()
        return {name: parameter.detach().double().numpy().copy() for name, parameter in named}


def axis_in_the_paper(name: str) -> int | None:
    """Return the dimension of unit vectors by section 2.6 of arXiv 2410.01131: the one with an entry per channel."""
    if not name.endswith("weight"):
        return None
    return 0 if name.endswith(("attention.o.weight", "mlp.down.weight")) else -1


def test_the_paper_is_followed_step_by_step(
    data: str, parts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam at one rate for all, a cosine to zero without warm-up, a projection after every step.

    From the gradients of the run, an oracle in float64 makes the same steps.
    """
    count, lr = 6, 0.02
    config = resolve("paper", data=data, steps=count, eval_tokens=128)
    watch = Watch(parts, monkeypatch)
    folder, record = start(config, tmp_path)
    assert (record.status, record.steps, config.model.n_layer, config.model.n_embd) == ("done", count, 3, 64)
    points = [*watch.weights, watch.now()]

    for point in points:
        for name, weight in point.items():
            if (dim := axis_in_the_paper(name)) is not None:
                np.testing.assert_allclose(np.linalg.norm(weight, axis=dim), 1.0, rtol=0, atol=4 * EPS, err_msg=name)
    assert config.model.alpha == 0.05

    rates = [lr * (1 + math.cos(math.pi * step / count)) / 2 for step in range(count)]
    metrics = read_metrics(folder)
    assert [row["lr"] for row in metrics] == pytest.approx(rates, rel=1e-12)
    assert rates[0] == lr and rates[-1] < 0.07 * lr, "no warm-up, and nearly zero in the last step"
    clipped = [math.sqrt(sum(float(np.sum(g * g)) for g in of.values())) for of in watch.gradients]
    assert clipped == pytest.approx([min(1.0, row["grad_norm"]) for row in metrics], rel=1e-5)

    for name, before in points[0].items():
        want = oracle.adam_on_sphere(
            before, [of[name] for of in watch.gradients], lrs=rates, beta1=0.9, beta2=0.95, eps=1e-8,
            dim=axis_in_the_paper(name),
        )  # fmt: skip
        for got, expected in zip(points[1:], want, strict=True):
            # a few roundings of an entry of order 1 in each of the steps
            np.testing.assert_allclose(got[name], expected, rtol=0, atol=32 * EPS, err_msg=name)


def test_the_earlier_attempt_is_followed_step_by_step(
    data: str, parts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights as drawn, projected after steps 0 and 7, counted from 0; a cubic from a norm 1.1 times too large."""
    count, lr = 9, 0.003
    config = resolve(
        "155m-literal", data=data, n_layer=1, n_embd=24, n_head=2, seq_len=16, batch_size=4, steps=count,
        eval_tokens=128, eval_every=4, telemetry_every=4, polar_dtype="float32",
    )  # fmt: skip
    assert resolve("155m-literal").optim.polar_dtype == "bfloat16", "theirs, too coarse to compare step by step"
    watch = Watch(parts, monkeypatch)
    folder, _ = start(config, tmp_path)
    points = [*watch.weights, watch.now()]
    rows = [
        np.concatenate([np.linalg.norm(W, axis=-1) for name, W in of.items() if name.endswith("weight")])
        for of in points
    ]
    assert [step for step, lengths in enumerate(rows) if np.abs(lengths - 1).max() < 4 * EPS] == [1, 8, count]

    for name in watch.gradients[0]:
        W, hidden = points[0][name], name.split(".")[-2] in ("qkv", "o", "fc1", "fc2")
        M, mean, square = np.zeros_like(W), np.zeros_like(W), np.zeros_like(W)
        for step, G in enumerate(of[name] for of in watch.gradients):
            if hidden:
                M = 0.95 * M + 0.05 * G
                W = W - lr * oracle.polynomial_polar(M, [(1.5, -0.5, 0.0)] * 5, 1.1)
            else:
                mean, square = 0.9 * mean + 0.1 * G, 0.999 * square + 0.001 * G * G
                root = np.sqrt(square / (1 - 0.999 ** (step + 1)))
                W = W - 0.3 * lr * mean / (1 - 0.9 ** (step + 1)) / (root + 1e-8)
            if name.endswith("weight") and step in (0, 7, count - 1):
                W = W / np.linalg.norm(W, axis=-1, keepdims=True)
            # a few roundings in each step of an entry of up to 4 in the embedding, of order 1 elsewhere
            np.testing.assert_allclose(points[step + 1][name], W, rtol=0, atol=32 * EPS, err_msg=f"{name}, {step}")

    first, last = (row for row in read_metrics(folder) if "drift_hidden" in row)
    assert (first["step"], last["step"]) == (4, 8) and first["drift_hidden"] == last["drift_hidden"]
    assert 0.35 < first["drift_hidden"] < 0.7 and first["drift_embedding"] > 1, "seen by the projection after step 1"


@pytest.mark.parametrize(("name", "depth", "entries"), [
    ("rung-1", 2, 97_280), ("rung-2", 3, 331_776), ("rung-3", 4, 790_528), ("rung-4", 6, 2_654_208),
])  # fmt: skip
def test_the_rungs_follow_one_rule(name: str, depth: int, entries: int) -> None:
    """Hidden matrices by hand: 4 d^2 of attention and 3 d f of the MLP a layer, f = 168, 256, 344 and 512."""
    config = resolve(name)
    model, train, optim = config.model, config.train, config.optim
    assert (model.n_layer, model.n_embd, model.n_head) == (depth, 32 * depth, depth)
    assert model.alpha == pytest.approx(0.45 / depth) and hidden_entries(model) == entries
    tokens = train.steps * train.batch_size * model.seq_len
    assert tokens == pytest.approx(20 * entries, rel=0.005)
    assert train.steps == 10 * train.eval_every and 25 <= train.steps // train.telemetry_every < 28
    assert all(train.telemetry_every % n for n in range(2, train.telemetry_every))
    assert (optim.schedule, optim.decay_share, optim.lr_floor, optim.warmup_steps) == ("linear", 1.0, 0.0, 0)
    assert (config.data.data, config.data.tokenizer) == ("stdlib", "bytes")
    assert (train.eval_tokens, train.compile) == (32_768, True)
    assert resolve(name, arch="ngpt").model.alpha == 0.05 and resolve(name, arch="ngpt", alpha=0.2).model.alpha == 0.2


def test_155m_decays_like_the_rungs_and_tiny_is_as_it_was() -> None:
    large, tiny = resolve("155m"), resolve("tiny")
    assert (large.optim.schedule, large.optim.lr_floor, large.model.alpha) == ("linear", 0.0, 0.15)
    assert (tiny.optim.schedule, tiny.train.steps, tiny.model.alpha) == ("constant", 200, 0.15)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize(("preset", "parameters"), [("155m-literal", 155_166_743), ("155m", 155_172_199)])
def test_one_step_of_the_large_presets(tmp_path: Path, preset: str, parameters: int) -> None:
    ids = np.random.default_rng(0).integers(0, 50257, 3000).astype(np.uint16)
    write_shard(tmp_path / "train.bin", ids)
    write_shard(tmp_path / "val.bin", ids[:600])
    config = resolve(preset, data=str(tmp_path), steps=1, batch_size=1, eval_tokens=128, dtype="float32")
    _, record = train(config, Runtime(out=tmp_path / "runs", keep_weights=False))
    assert (record.status, record.steps, record.parameters) == ("done", 1, parameters)
    assert record.weights_sha256["first"] and record.final_val_loss is not None and record.final_val_loss < 13
