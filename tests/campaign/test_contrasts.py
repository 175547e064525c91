"""Campaigns of several families and questions: contrasts, what could overturn them, and the report on them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import SEEDS, made_up, row

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign, Contrast, Method, Rule
from ngpt.campaign.execution.collect import OutdatedDataError, read_data, write_data
from ngpt.campaign.report.index import results_table, write_index
from ngpt.campaign.report.markdown import write_report

COST = Rule(metric="final_val_loss", predicted="higher", smallest_effect=0.02, unit="nats per token", seeds=2)
GAIN = dataclasses.replace(COST, predicted="lower")
LRS = (0.01, 0.03, 0.1)
LOSSES = {("Muon", 1): 2.0, ("Muon", 20): 2.05, ("Adam", 1): 2.1, ("Adam", 20): 2.3}


def named(family: str, interval: int) -> str:
    return f"{family}, K = {interval}"


SCAN = Campaign(
    name="scan",
    title="A scan",
    question="Does K cost anything?",
    claim="Nothing.",
    methods=tuple(
        Method(
            name=named(family, k), fields={"optimizer": family.lower(), "lazy_proj_freq": k}, lrs=LRS, family=family,
            position=k,
        )
        for family, k in LOSSES
    ),
    baselines=(named("Muon", 1), named("Adam", 1)),
    rule=COST,
    leading=(
        Contrast(
            name="Muon's cost minus Adam's",
            weights={named("Muon", 20): 1, named("Muon", 1): -1, named("Adam", 20): -1, named("Adam", 1): 1},
            question="Does Muon need it less often?",
            rule=GAIN,
        ),
    ),
    axis="K",
    tuning_seeds=2,
    comparison_seeds=SEEDS,
)  # fmt: skip


def data(noise: float = 0.002, **losses: float) -> dict[str, Any]:
    """Made-up results of SCAN around LOSSES; a middle rate is every method's best."""
    draw = np.random.default_rng(3)
    rows = []
    for (family, k), loss in LOSSES.items():
        name = named(family, k)
        final = losses.get(f"{family}{k}", loss)
        for seed in range(SEEDS):
            tuned = [final + bend + noise * draw.normal() for bend in (0.2, 0.0, 0.2)]
            rows += [row("tuning", name, lr, seed, value) for lr, value in zip(LRS, tuned, strict=True)]
            rows.append(row("comparison", name, LRS[1], 10_000 + seed, final + noise * draw.normal()))
    commands = {f"{r['method']}|{r['lr']}|{r['seed']}": "--flag" for r in rows}
    counts = {"planned_runs": len(rows), "runs": rows, "commands": commands}
    return made_up() | {"campaign": "scan", "definition": SCAN.digest} | counts


def test_every_method_is_compared_with_the_baseline_of_its_family() -> None:
    found = {contrast.name: contrast.weights for contrast in SCAN.contrasts()[1:]}
    assert found == {
        f"{family}, K = 20 against {family}, K = 1": {named(family, 20): 1.0, named(family, 1): -1.0}
        for family in ("Muon", "Adam")
    }


def test_a_difference_of_differences_is_taken_seed_by_seed() -> None:
    content = data()
    final = {(r["method"], r["seed"]): r["final_val_loss"] for r in content["runs"] if r["stage"] == "comparison"}
    each = [
        sum(weight * final[name, 10_000 + seed] for name, weight in SCAN.leading[0].weights.items())
        for seed in range(SEEDS)
    ]
    answers = analyze(SCAN, content).questions()
    assert list(answers) == ["Does Muon need it less often?", "Does K cost anything?"]
    (first,) = answers["Does Muon need it less often?"]
    assert first.verdict.label == "supported" and first.verdict.effect is not None
    assert first.verdict.effect.mean == pytest.approx(np.mean(each), abs=1e-12)
    assert first.verdict.effect.sd == pytest.approx(np.std(each, ddof=1), rel=1e-9)
    assert [a.verdict.label for a in answers["Does K cost anything?"]] == ["supported", "supported"]
    assert analyze(SCAN, content).winner is None, "a cost that is shown is no win"


def test_no_cost_is_the_prediction_refuted() -> None:
    analysis = analyze(SCAN, data(Muon20=2.0))
    assert {a.contrast.name: a.verdict.label for a in analysis.answers} == {
        "Muon's cost minus Adam's": "supported",
        "Muon, K = 20 against Muon, K = 1": "refuted",
        "Adam, K = 20 against Adam, K = 1": "supported",
    }


@pytest.mark.parametrize(
    ("rule", "label", "methods"),
    [
        (GAIN, "supported", ["b"]),  # a better rate of the baseline would raise a - b
        (GAIN, "refuted", ["a"]),
        (COST, "supported", ["a"]),  # a better rate of the method would lower its cost
        (COST, "refuted", ["b"]),
        (GAIN, "inconclusive", []),
    ],
)
def test_whose_better_tuning_could_overturn_a_verdict(rule: Rule, label: str, methods: list[str]) -> None:
    contrast = Contrast(name="a - b", weights={"a": 1, "b": -1}, question="?", rule=rule)
    assert contrast.methods_that_could_overturn(label) == methods


def test_a_rate_at_the_edge_takes_its_verdicts_and_no_others() -> None:
    content = data()
    for r in content["runs"]:
        if r["stage"] == "comparison" and r["method"] == named("Muon", 20):
            r["lr"] = LRS[-1]
    labels = {a.contrast.name: a.verdict for a in analyze(SCAN, content).answers}
    taken = labels["Muon, K = 20 against Muon, K = 1"]
    assert taken.label == "inconclusive" and "Muon, K = 20 may lie beyond its grid" in taken.reason
    assert labels["Adam, K = 20 against Adam, K = 1"].label == "supported"
    # a better tuned K = 20 would lower Muon's cost still more
    assert labels["Muon's cost minus Adam's"].label == "supported"


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": -0.5}, {"a": 0.0, "b": 0.0}])
def test_weights_that_are_no_contrast_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sum to zero"):
        Contrast(name="no", weights=weights, question="?", rule=GAIN)


def test_a_contrast_of_methods_that_are_not_there_is_refused() -> None:
    stray = Contrast(name="stray", weights={"SGD": 1, named("Muon", 1): -1}, question="?", rule=GAIN)
    with pytest.raises(ValueError, match="for no method"):
        dataclasses.replace(SCAN, leading=(stray,))


def test_the_data_are_bound_to_the_contrasts() -> None:
    other = dataclasses.replace(SCAN.leading[0], rule=dataclasses.replace(GAIN, smallest_effect=0.5))
    assert dataclasses.replace(SCAN, leading=(other,)).digest != SCAN.digest
    assert dataclasses.replace(SCAN, leading=()).digest != SCAN.digest
    assert dataclasses.replace(SCAN, title="Other words").digest == SCAN.digest


def test_a_report_of_several_questions(tmp_path: Path) -> None:
    write_data(tmp_path, data())
    path, _ = write_report(SCAN, tmp_path)
    text = path.read_text()
    order = [
        "**Does Muon need it less often?**",
        "**Muon's cost minus Adam's: supported.**",
        "**Does K cost anything?**",
        "Of 2 comparisons, 2 are supported (Muon, K = 20 against Muon, K = 1; Adam, K = 20",
    ]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "No winner" not in text and "Winner" not in text
    for kind in ("effects", "scan", "loss_against_lr", "loss_curves", "telemetry"):
        assert f"figures/scan_{kind}.png" in text
        assert (tmp_path / "figures" / f"scan_{kind}.png").stat().st_size > 10_000

    table = results_table([CampaignStudy(SCAN)], tmp_path, "reports/").splitlines()
    assert len(table) == 4 and table[2].startswith("| Does Muon need it less often? | Muon's cost minus Adam's: **supp")
    assert "<br>Adam, K = 20 against Adam, K = 1: **supported**" in table[3]
    write_index([CampaignStudy(SCAN)], tmp_path)
    index = (tmp_path / "README.md").read_text().splitlines()
    assert len(index) == 10 and all("| 2026-01-31 |" in line for line in index[-3:])


def test_a_campaign_with_outdated_data_is_named_in_the_index_and_stops_no_other(tmp_path: Path) -> None:
    write_data(tmp_path, data())
    edited = dataclasses.replace(SCAN, leading=())
    with pytest.raises(OutdatedDataError, match=r"scan\.json: collected before experiments/scan\.py was changed"):
        read_data(edited, tmp_path)
    table = results_table([CampaignStudy(edited)], tmp_path, "reports/")
    assert "| Does" not in table
    assert table.endswith("were collected: SCAN_REPORT.md (`python runners/scan.py` rebuilds it).\n")
    assert "Not listed" not in results_table([CampaignStudy(SCAN)], tmp_path, "reports/")
