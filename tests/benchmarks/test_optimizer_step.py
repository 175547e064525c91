"""The benchmark of optimizer steps, at a size that says nothing about speed: what it compares, and what it writes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import measure, optimizer_step
from benchmarks.optimizer_step import CONTENDERS, REFERENCE, Contender, Rates, hidden_matrices, race
from ngpt.config import ModelConfig
from ngpt.files import read_json

CPU = torch.device("cpu")
HERE = [contender.name for contender in CONTENDERS if not contender.on_gpu_only]
RATES = Rates({"bfloat16": 1e12, "float32": 1e11}, 1e10)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command writes for two tiny widths, peers of other packages left out."""
    path = tmp_path_factory.mktemp("results") / "steps.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SIDE", {"cpu": 128})
        patch.setattr(measure, "COPIED", {"cpu": 2**20})
        patch.setattr(optimizer_step, "PEERS", ())
        size = "--widths 16 24 --layers 2 1 --steps 3 --threads 1 --device cpu"
        assert optimizer_step.main([*size.split(), "--json", str(path)]) == 0
    return read_json(path)


def test_every_contender_has_a_row_at_every_width(result: dict[str, Any]) -> None:
    rows = [(row["width"], row["contender"]) for row in result["rows"]]
    assert rows == [(width, contender) for width in (16, 24) for contender in HERE]
    assert all(len(row["seconds"]) == 3 and min(row["seconds"]) > 0 for row in result["rows"])
    assert set(result["mathematics"]) == set(HERE)
    assert result["command"].endswith("--widths 16 24 --steps 3 --threads 1 --device cpu --layers 2 1 --json PATH")
    assert result["measured_on"]["threads"] == 1 and result["machine"]["torch"] == torch.__version__


def test_ratios_are_to_torchs_muon_in_the_same_round(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        of_torch = next(
            other["seconds"]
            for other in result["rows"]
            if (other["width"], other["contender"]) == (row["width"], REFERENCE.name)
        )
        found = row["times_faster"]
        assert found["median"] == pytest.approx(np.median(np.divide(of_torch, row["seconds"])))
        assert found["low"] <= found["median"] <= found["high"]
        if row["contender"] == REFERENCE.name:
            assert found == {"median": 1.0, "low": 1.0, "high": 1.0}


def test_floors_are_those_of_the_measured_rates(result: dict[str, Any]) -> None:
    rates = result["rates"]
    for row in result["rows"]:
        width, hidden = row["width"], ModelConfig(n_embd=row["width"]).mlp_hidden
        weights = row["layers"] * (4 * width**2 + 3 * width * hidden)
        products = row["layers"] * 2 * width**2 * (4 * 3 * width + 3 * (2 * hidden + width))
        is_adam = row["contender"].startswith("torch.optim.AdamW")
        assert (row["weights"], row["bytes"]) == (weights, (28 if is_adam else 20) * weights)
        assert row["flops"] == (0 if is_adam else 5 * products)
        of_products = row["flops"] / rates["flops_per_second"][row["dtype"]]
        assert row["floor_seconds"] == max(of_products, row["bytes"] / rates["bytes_per_second"]) > 0


def test_one_mathematics_gives_one_step(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        same = row["contender"] in (REFERENCE.name, "SimpleMuon")
        assert (row["first_step_apart"] == 0) == same, row["contender"]
        assert row["contender"] != "SimpleMuon, float32" or row["first_step_apart"] < optimizer_step.AGREEMENT


def test_another_step_under_the_same_name_is_refused() -> None:
    def half(parameters: list[nn.Parameter], dims: list[int]) -> torch.optim.Optimizer:
        return torch.optim.Muon(parameters, lr=0.005, weight_decay=0.0)

    wrong = Contender(name="half", mathematics="", build=half, is_torchs=True)
    with pytest.raises(AssertionError, match="half"):
        race([REFERENCE, wrong], 16, 1, rounds=2, device=CPU, rates=RATES)


def test_every_step_gets_fresh_gradients() -> None:
    seen: list[float] = []

    class Spoiler(torch.optim.SGD):
        """Writes into its gradients and drops them, as some do."""

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for parameter in self.param_groups[0]["params"]:
                seen.append(parameter.grad.double().sum().item())
                parameter.grad.zero_()
                parameter.grad = None

    spoiler = Contender(name="spoiler", mathematics="", build=lambda parameters, dims: Spoiler(parameters, lr=0.0))
    race([REFERENCE, spoiler], 16, 1, rounds=2, device=CPU, rates=RATES)
    assert len(seen) == 4 * 7 and seen == seen[:7] * 4 and all(seen)


def test_matrices_are_a_models() -> None:
    weights, dims = hidden_matrices(16, 1, CPU)
    hidden = ModelConfig(n_embd=16).mlp_hidden
    shapes = sorted((tuple(W.shape), dim) for W, dim in zip(weights, dims, strict=True))
    assert shapes == sorted([((16, 16), -1)] * 3 + [((16, 16), 0), ((16, hidden), 0)] + [((hidden, 16), -1)] * 2)
    for W, dim in zip(weights, dims, strict=True):
        assert torch.allclose(W.norm(dim=dim), torch.ones(()))


@pytest.mark.parametrize("arguments", ["--steps 19", "--layers 1 2", "--steps 1 --json x.json", "--threads 0"])
def test_bad_options_are_refused(arguments: str) -> None:
    with pytest.raises(SystemExit):
        optimizer_step.parse(arguments.split())


def test_a_peer_that_is_not_installed_is_left_out() -> None:
    peer = Contender(name="peer", mathematics="", build=REFERENCE.build, package="no_such_package")
    assert optimizer_step.why_left_out(peer) == "no_such_package is not installed"
    assert optimizer_step.why_left_out(REFERENCE) is None


# --- measure ---------------------------------------------------------------------------------------------------------


def test_every_function_comes_as_early_as_every_other() -> None:
    names = ["a", "b", "c"]
    rounds = [measure.order(names, number) for number in range(6)]
    assert all(sorted(one) == names for one in rounds)
    assert all(sum(one.index(name) for one in rounds) == 6 for name in names)


def test_what_happens_before_a_call_is_not_in_its_time() -> None:
    calls: list[str] = []
    functions: dict[str, Callable[[], object]] = {name: partial(calls.append, name) for name in ("a", "b")}

    def before(name: str) -> None:
        calls.append(f"before {name}")
        time.sleep(0.02)

    seconds = measure.interleaved(functions, repetitions=3, device=CPU, warm_up=2, before=before)
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}
    assert calls[::2] == [f"before {name}" for name in calls[1::2]] and len(calls) == 2 * 2 * 5
    assert max(map(min, seconds.values())) < 0.02


def test_ratio_is_the_median_over_rounds_in_its_interval() -> None:
    generator = np.random.default_rng(1)
    drift = generator.lognormal(sigma=1.0, size=25)  # falls on both alike
    slow, fast = (list(scale * drift * generator.lognormal(sigma=0.01, size=25)) for scale in (2.0, 1.0))
    found = measure.ratio(slow, fast)
    assert found == measure.ratio(slow, fast)
    assert 1.98 < found.low < found.median < found.high < 2.02 and str(found).startswith("2.")


def test_floor_is_the_longer_of_two_times() -> None:
    assert measure.floor_seconds(6.0, 2.0, 10.0, 5.0) == 3.0
    assert measure.floor_seconds(6.0, 6.0, 10.0, 5.0) == 2.0
