"""The experiments as they are: no arm is idle, every rule has seeds enough, and every grid has a sensible spacing."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from experiments import CAMPAIGNS, integration_gates, muon_ablations
from experiments.first_regime import FIRST_REGIME
from ngpt.campaign.definition import Campaign, Method
from ngpt.campaign.execution import known
from ngpt.campaign.execution.known import known_runs
from ngpt.campaign.gates.judge import BOTH
from ngpt.config import Runtime, flatten
from ngpt.files import read_json
from ngpt.presets import resolve
from ngpt.training.trainer import train

SMALL = {
    "n_embd": 16, "n_layer": 1, "n_head": 2, "seq_len": 16, "batch_size": 2, "eval_tokens": 64, "eval_every": 100,
    "telemetry_every": 0, "steps": 21,
}  # fmt: skip
LATE = {
    "lazy_proj_freq", "momentum_transport", "momentum", "momentum_start", "momentum_warmup_steps", "beta2", "schedule",
    "decay_share", "tail_ema_steps", "adam_beta1",
}  # fmt: skip
"""Fields that act on the weights only at or after a later step."""


def source_of(campaign: Campaign, method: Method, out: Path) -> Path:
    """The folder of a small version of the run whose weights the method's runs start from."""
    assert method.pretraining is not None
    data = re.sub(r"rules=\d+", "rules=20", str(method.pretraining["data"]))
    fields = {**campaign.fields, **method.fields, **method.pretraining, **SMALL, "data": data, "seq_len": 40}
    return train(resolve("tiny", **fields), Runtime(out=out, threads=1, progress=False))[0]


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda campaign: campaign.name)
def test_no_arm_is_idle(campaign: Campaign, tmp_path: Path) -> None:
    """No two arms end with the same weights, and none makes another's first step unless its flag acts later."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} green bottles, {i * 7 % 13} of them hanging on the wall.\n" for i in range(200)))
    first: dict[str, tuple[str, dict[str, object]]] = {}
    final: dict[str, str] = {}
    second = {m.name: m.lrs[:2][-1] for m in campaign.methods if m.lrs}
    chosen = {arm.method: arm for arm in campaign.arms() if arm.lr == second[arm.method]}
    for method in campaign.methods:
        arm = campaign.with_lent_rates(chosen)[method.name]
        small = {name: value for name, value in SMALL.items() if name not in method.fields}
        overrides: dict[str, Any] = {**small, "data": str(text)}
        if campaign.budget_seconds is not None:  # two arms could differ by nothing but their number of steps
            overrides["time_budget_seconds"] = None
        if method.pretraining is not None:
            overrides["init_from"] = str(source_of(campaign, method, tmp_path))
        config = campaign.configure(arm, 0, overrides, "tiny")
        _, record = train(config, Runtime(out=tmp_path, threads=1, progress=False, keep_weights=False))
        digests = record.weights_sha256
        assert final.setdefault(digests["final"], method.name) == method.name
        key = f"{arm.lr} {digests['first']}"
        earlier, fields = first.setdefault(key, (method.name, dict(method.fields)))
        differing = {name for name in {*fields, *method.fields} if fields.get(name) != method.fields.get(name)}
        assert differing <= LATE, f"{method.name} and {earlier} make the same first step"


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda campaign: campaign.name)
def test_every_contrast_has_a_rule_with_seeds_enough(campaign: Campaign) -> None:
    assert all(contrast.rule.seeds >= 5 <= campaign.comparison_seeds for contrast in campaign.contrasts())
    assert campaign.tuning_seeds >= 3
    grids = [*(method.lrs for method in campaign.methods), campaign.aux_lrs]
    for grid in grids:  # none so fine that it is narrow, none so coarse that it misses its optimum
        ratios = [b / a for a, b in zip(grid, grid[1:], strict=False)]
        assert all(1.5 < ratio < 3.4 for ratio in ratios)


def test_the_first_campaigns_state_their_regime() -> None:
    """Those that are not made again yet keep what they were run with, whatever the defaults become."""
    first = {campaign.name for campaign in CAMPAIGNS if FIRST_REGIME.items() <= campaign.fields.items()}
    assert first == {
        "advanced_features", "geodesic_muon", "muon_ablations", "nca_pretraining", "projection_frequency",
    }  # fmt: skip
    for campaign in CAMPAIGNS:
        if campaign.name in first:
            configured = flatten(campaign.configure(campaign.arms()[0], 0, {}, "tiny"))
            assert all(configured[field] == value for field, value in FIRST_REGIME.items())


def test_the_ablations_are_those_of_the_table_in_its_order() -> None:
    """One change each of Muon's plain fields, or AdamW at the rates of the table."""
    plain, *methods = muon_ablations.CAMPAIGN.methods
    assert plain.fields == {
        "optimizer": "muon", "momentum_start": 0.85, "momentum": 0.95, "momentum_warmup_steps": 300, "ns_steps": 5,
        "normuon": "short-axis", "beta2": 0.95,
    }  # fmt: skip
    table = {
        "NS-1": {"ns_steps": 3}, "MM-5": {"momentum_start": None, "momentum_warmup_steps": None},
        "MM-1": {"momentum_start": 0.9}, "MM-3": {"momentum_warmup_steps": 150}, "MB-2": {"beta2": 0.99},
        "ABL-1": 0.04, "MM-2": {"momentum": 0.99}, "MM-4": {"momentum_warmup_steps": 600}, "NS-2": {"ns_steps": 7},
        "MB-1": {"beta2": 0.9}, "MB-3": {"beta2": 0.999}, "ABL-2": 0.001,
    }  # fmt: skip
    assert [method.name.split(":")[0] for method in methods] == [*table, "AdamW, tuned"]
    for method, change in zip(methods, table.values(), strict=False):
        if isinstance(change, float):
            assert method.fields == {"optimizer": "adam"} and method.lrs == (change,)
        else:
            differing = {n for n in plain.fields if method.fields.get(n) != plain.fields[n]}
            assert differing == set(change) and all(method.fields.get(n) == value for n, value in change.items())
            assert set(method.fields) <= set(plain.fields) and method.lrs == plain.lrs
    assert {m.name.split(":")[0] for m in methods if m.leaves_out} == {"NS-1", "MM-5", "ABL-1", "ABL-2", "AdamW, tuned"}


def test_the_gates_are_those_of_the_plan() -> None:
    gates = integration_gates.GATES
    targets = gates.targets
    assert (gates.preset, gates.ns_steps, gates.ns_steps_if_slow) == ("trinity", 10, 5)
    assert (targets.lr_first, targets.lr_last, targets.overfit_bpb, targets.steps_per_second) == (0.1, 1e-5, 0.5, 18)
    assert (targets.stable_steps, targets.fewer_steps) == (2000, 0.35) and gates.seeds["race"] >= 3
    for task in gates.tasks:
        runs = [gates.configure(task, name, 0, ns_steps=10, overrides={}, preset="trinity") for name in BOTH]
        for run in runs:
            assert (run.model.n_embd, run.model.n_layer, run.model.n_head) == (243, 3, 9)
            assert (
                run.optim.schedule == "cosine"
                and run.optim.lr * run.optim.lr_floor <= 1e-5
                and run.train.log_every == 1
            )
            assert run.data.tokenizer == ("patches" if task == "automata" else "bytes")
        muon, adamw = runs
        assert muon.optim.optimizer == "muon" and muon.optim.ns_steps == 10 and muon.optim.nan_fallback == "normuon"
        assert adamw == dataclasses.replace(muon, optim=adamw.optim), "they differ in the optimizer alone"
        assert (adamw.optim.aux_lr, adamw.optim.schedule) == (muon.optim.aux_lr, muon.optim.schedule)
    assert gates.tasks["overfit"]["overfit_windows"] == 100 and gates.tasks["stability"]["steps"] == 2000
    own_text = gates.configure("race", "Muon", 0, ns_steps=5, overrides={"data": "my.txt"}, preset="tiny")
    automata = gates.configure("automata", "Muon", 0, ns_steps=5, overrides={"data": "my.txt"}, preset="tiny")
    assert own_text.data.data == "my.txt" and automata.data.data.startswith("nca")


def test_runs_of_campaigns_that_are_not_complete_can_be_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file names the commit with which `--known` takes it; a complete campaign has its data and no such file."""
    reports = Path(__file__).parents[1] / "reports"
    for path in sorted((reports / "partial").glob("*.json")):
        data = read_json(path)
        assert not (reports / "data" / path.name).exists(), "it is complete"
        assert all(re.fullmatch("[0-9a-f]{12}", place["commit"]) for place in data["environments"])
        monkeypatch.setattr(known, "code_digest", lambda found=data["code_digest"]: found)
        assert known_runs([path], data["data_digest"])
