"""The experiments as they stand: no arm is idle, every rule is fixed and every campaign fits its budget."""

import re
from pathlib import Path
from typing import Any

import pytest

from experiments import CAMPAIGNS
from ngpt.campaign.definition import Campaign, Method
from ngpt.config import Runtime
from ngpt.presets import resolve
from ngpt.training.trainer import train

SMALL = {
    "n_embd": 16, "n_layer": 1, "n_head": 2, "seq_len": 16, "batch_size": 2, "eval_tokens": 64, "eval_every": 100,
    "telemetry_every": 0, "steps": 21,
}  # fmt: skip
LATE = {
    "lazy_proj_freq", "momentum_transport", "momentum", "momentum_start", "momentum_warmup_steps", "beta2",
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
    for method in campaign.methods:
        arm = next(arm for arm in campaign.arms() if arm.method == method.name and arm.lr in method.lrs[:2][-1:])
        overrides: dict[str, Any] = {**SMALL, "data": str(text)}
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
    for method in campaign.methods:  # no grid so fine that it is narrow, none so coarse that it misses its optimum
        ratios = [b / a for a, b in zip(method.lrs, method.lrs[1:], strict=False)]
        assert all(1.5 < ratio < 3.4 for ratio in ratios)
