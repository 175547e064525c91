"""Campaigns of several families and questions: contrasts, what could overturn them, and the report on them."""

import dataclasses
import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import SEEDS, made_up, row

import ngpt.campaign.definition.experiment
import ngpt.campaign.engine
import ngpt.sources
from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import AtScale, Campaign, Contrast, Method, Rule, Word, noise_of, on_other_batches
from ngpt.campaign.execution.collect import OutdatedDataError, read_data, write_data
from ngpt.campaign.report.index import known_map, write_index
from ngpt.campaign.report.markdown import write_report
from ngpt.errors import InputError

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


def test_the_pace_of_a_baseline_is_set_against_that_of_another_family() -> None:
    muon, rarely, adam = (
        Method(name=name, fields={"momentum": momentum}, lrs=(0.1,), family=family)
        for name, momentum, family in (("Muon", 0.9, "Muon"), ("Muon, K = 20", 0.8, "Muon"), ("Adam", 0.7, "Adam"))
    )
    again = on_other_batches(muon)
    lead = Contrast(name="lead", weights={"Muon": 1.0, "Adam": -1.0}, question="Who leads?", rule=GAIN)
    campaign = Campaign(
        name="two", title="", question="?", claim="", methods=(muon, rarely, adam, again), rule=GAIN, leading=(lead,),
        baselines=("Muon", "Adam", again.name), further=(noise_of(muon, GAIN),), comparison_seeds=5,
    )  # fmt: skip
    assert [campaign.rival_of(method) for method in campaign.methods] == ["Adam", "Muon", "Adam", again.name]


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
    assert first.verdict.word == "better" and first.verdict.effect is not None
    assert first.verdict.effect.mean == pytest.approx(np.mean(each), abs=1e-12)
    assert first.verdict.effect.sd == pytest.approx(np.std(each, ddof=1), rel=1e-9)
    assert [a.verdict.word for a in answers["Does K cost anything?"]] == ["worse", "worse"]
    assert analyze(SCAN, content).winner is None, "a cost that is shown is no win"


def test_no_cost_is_no_difference() -> None:
    analysis = analyze(SCAN, data(Muon20=2.0))
    assert {a.contrast.name: a.verdict.word for a in analysis.answers} == {
        "Muon's cost minus Adam's": "better",
        "Muon, K = 20 against Muon, K = 1": "no difference that matters",
        "Adam, K = 20 against Adam, K = 1": "worse",
    }


@pytest.mark.parametrize(
    ("word", "methods"),
    [
        ("better", ["b"]),  # a better rate of the baseline would raise a - b
        ("worse", ["a"]),
        ("no difference that matters", ["a", "b"]),
        ("undecided", []),
    ],
)
def test_whose_better_tuning_could_overturn_an_answer(word: Word, methods: list[str]) -> None:
    contrast = Contrast(name="a - b", weights={"a": 1, "b": -1, "c": 0}, question="?", rule=GAIN)
    assert contrast.methods_that_could_overturn(word) == methods


def test_a_rate_at_the_edge_takes_its_verdicts_and_no_others() -> None:
    content = data()
    for r in content["runs"]:
        if r["stage"] == "comparison" and r["method"] == named("Muon", 20):
            r["lr"] = LRS[-1]
    verdicts = {a.contrast.name: a.verdict for a in analyze(SCAN, content).answers}
    taken = verdicts["Muon, K = 20 against Muon, K = 1"]
    assert taken.word == "undecided" and "Muon, K = 20 is at the edge of its grid" in taken.reason
    assert verdicts["Adam, K = 20 against Adam, K = 1"].word == "worse"
    # a better tuned K = 20 would lower Muon's cost still more
    assert verdicts["Muon's cost minus Adam's"].word == "better"


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


@pytest.mark.drawn
def test_a_report_of_several_questions(tmp_path: Path) -> None:
    write_data(tmp_path, data())
    path, _ = write_report(SCAN, tmp_path)
    text = path.read_text()
    order = [
        "Muon's cost minus Adam's: better, 0.150 nats per token lower [0.145, 0.155], on all 4 seeds.",
        "Neither comparison is better; 2 are worse (+0.05",
        "## Answers",
        "**Does Muon need it less often?** Predicted lower: confirmed.",
        "| Muon's cost minus Adam's | **better** |",
        "**Does K cost anything?** Predicted higher: confirmed for all of 2.",
        "| Adam, K = 20 against Adam, K = 1 | **worse** |",
    ]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    none = "No method is better than the baseline of its family by the rule."
    assert none in text, "a smaller cost is no better method"
    for kind in ("effects", "scan", "loss_against_lr", "differences", "telemetry"):
        assert f"figures/scan_{kind}.png" in text
        assert (tmp_path / "figures" / f"scan_{kind}.png").stat().st_size > 10_000

    table = known_map([CampaignStudy(SCAN)], tmp_path).splitlines()
    assert table[0] == "| question | what matters | `tiny` (1,000), text.txt |" and len(table) == 4
    assert table[2].startswith("| Does Muon need it less often? | 0.02 nats per token | [**better**: −0.15")
    assert table[2].endswith("](SCAN_REPORT.md) |") and "| [2 **worse**: +0.05" in table[3]
    write_index([CampaignStudy(SCAN)], tmp_path)
    index = (tmp_path / "README.md").read_text()
    assert "Of 2 questions about methods, 2 have been asked at one size and on one text only." in index
    assert "`tiny` (1,000), text.txt; 2026-01-31." in index and "| Adam, K = 20 against Adam, K = 1 | worse |" in index


def test_a_campaign_with_outdated_data_is_named_in_the_index_and_stops_no_other(tmp_path: Path) -> None:
    write_data(tmp_path, data())
    edited = dataclasses.replace(SCAN, leading=())
    with pytest.raises(OutdatedDataError, match=r"scan\.json: collected before the experiment's file was changed"):
        read_data(edited, tmp_path)
    table = known_map([CampaignStudy(edited)], tmp_path)
    assert "| Does" not in table
    assert table.endswith("were collected: SCAN_REPORT.md (`python runners/scan.py` rebuilds it).\n")
    assert "Not listed" not in known_map([CampaignStudy(SCAN)], tmp_path)


def test_a_campaign_at_two_sizes_has_two_reports_and_one_row(tmp_path: Path) -> None:
    """Data of another preset have another name, and an answer of their own in the question's row."""
    usual, larger = CampaignStudy(SCAN), CampaignStudy(SCAN).at("rung-1")
    assert (larger.name, larger.runner) == ("scan_at_rung_1", "scan") and larger.experiment.digest == SCAN.digest
    write_data(tmp_path, data())
    changed = {"campaign": "scan_at_rung_1", "preset": "rung-1", "parameters": 131_000}
    write_data(tmp_path, data(Muon20=2.0) | changed)
    write_index([usual], tmp_path)
    index = (tmp_path / "README.md").read_text()
    assert "| question | what matters | `tiny` (1,000), text.txt | `rung-1` (0.13M), text.txt |" in index
    (row,) = [line for line in index.splitlines() if line.startswith("| Does K cost anything? |")]
    assert "| [2 **worse**: +0.05" in row and "(SCAN_REPORT.md) | [1 **no difference that matters**: +0.000" in row
    assert row.endswith("(SCAN_AT_RUNG_1_REPORT.md) |")
    assert "Of 2 questions about methods, 0 have been asked at one size and on one text only." in index
    lines = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [(line["campaign"], line["preset"]) for line in lines] == [("scan", "tiny")] * 3 + [("scan", "rung-1")] * 3
    assert usual.at("tiny").name == "scan"
    given = usual.parser().parse_args(["--preset", "rung-1", "--out", str(tmp_path)])
    usual.plan(given)
    assert usual.name == "scan_at_rung_1" and usual.runner == "scan"
    write_index([usual], tmp_path)
    assert (tmp_path / "README.md").read_text() == index, "the same, whatever size was run last"
    usual.plan(usual.parser().parse_args(["--out", str(tmp_path)]))
    assert usual.name == "scan"


def test_a_campaign_on_two_texts_has_two_reports_and_one_row(tmp_path: Path) -> None:
    usual = CampaignStudy(SCAN)
    text = tmp_path / "prose.txt"
    text.write_text("".join(f"{i} sentences, {i * 7 % 13} of them plain.\n" for i in range(400)))
    flags = ["--data", str(text), "--text", "Plain English", "--reports", str(tmp_path)]
    given = usual.parser().parse_args(["--preset", "rung-1", *flags])
    digest = usual.plan(given).data_digest
    assert usual.name == "scan_at_rung_1_on_plain_english" and usual.runner == "scan"
    write_data(tmp_path, data())
    changed = {
        "campaign": usual.name,
        "preset": "rung-1",
        "parameters": 131_000,
        "data": "Plain English",
        "data_digest": digest,
    }
    write_data(tmp_path, data(Muon20=2.0) | changed)
    write_data(tmp_path, data() | {"campaign": "scan_on_other", "data": "other"})
    assert [one.name for one in usual.wherever_known(tmp_path)] == ["scan", "scan_on_other", usual.name]
    write_index([usual], tmp_path)
    index = (tmp_path / "README.md").read_text()
    columns = "`tiny` (1,000), other | `tiny` (1,000), text.txt | `rung-1` (0.13M), Plain English |"
    assert f"| question | what matters | {columns}" in index
    (row,) = [line for line in index.splitlines() if line.startswith("| Does K cost anything? |")]
    assert row.endswith("(SCAN_AT_RUNG_1_ON_PLAIN_ENGLISH_REPORT.md) |") and "(SCAN_ON_OTHER_REPORT.md)" in row
    usual.plan(given)
    for name, other, message in (
        ("/", [], "--text '/': a name has letters"), ("stdlib", [], "not that of another source"),
        ("plain english", [], "results on other data of this name"),
        ("Plain English", ["--data", "stdlib"], "results on other data of this name"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            usual.plan(usual.parser().parse_args(["--preset", "rung-1", *flags, "--text", name, *other]))
    with pytest.raises(InputError, match="--text is the name of --data, which is not given"):
        usual.plan(usual.parser().parse_args(["--text", "Plain English"]))


def test_where_runs_are_long_some_methods_are_tried_at_their_rates_there() -> None:
    lrs = {named("Muon", 1): (0.01, 0.02), named("Muon", 20): (0.1, 0.2), named("Adam", 1): (0.1, 0.3)}
    two = AtScale(lrs=lrs, fields={"steps": 9}, comparison_seeds=7, claim="  Less.")
    campaign = dataclasses.replace(SCAN, at_scale={"rung-2": two})
    there = campaign.at("rung-2")
    assert {method.name: method.lrs for method in there.methods} == lrs and there.comparison_seeds == 7
    assert there.fields == {"steps": 9} and there.claim.endswith("\n\n**At `rung-2`.** Less.")
    assert there.baselines == SCAN.baselines
    assert [contrast.name for contrast in there.contrasts()] == ["Muon, K = 20 against Muon, K = 1"], "no Adam, K = 20"
    assert campaign.digest == SCAN.digest == campaign.at("rung-1").digest != there.digest
    assert CampaignStudy(campaign).at("rung-2").experiment.digest == there.digest


def test_what_is_said_of_results_belongs_to_a_preset() -> None:
    larger = AtScale(reading="Much.", claim="More.")
    campaign = dataclasses.replace(SCAN, reading="Little.", follows="So.", at_scale={"rung-1": larger})
    there = campaign.at("rung-1")
    assert (there.reading, there.follows, campaign.at("rung-2").reading) == ("Much.", "", "")
    assert there.claim == "Nothing.\n\n**At `rung-1`.** More." and campaign.at("rung-2").claim == "Nothing."
    assert there.methods == SCAN.methods and there.digest == SCAN.digest and campaign.at("tiny") is campaign


def test_a_question_can_be_another_at_another_preset_and_so_can_what_is_predicted() -> None:
    question = SCAN.leading[0].question
    there = AtScale(question="Does K matter?", predicted={"Does K matter?": "not higher", question: None})
    campaign = dataclasses.replace(SCAN, at_scale={"rung-1": there}).at("rung-1")
    assert [(one.question, one.rule.predicted) for one in campaign.contrasts()] == [
        (question, None), ("Does K matter?", "not higher"), ("Does K matter?", "not higher")
    ]  # fmt: skip
    assert campaign.rule == dataclasses.replace(SCAN.rule, predicted="not higher")


def test_a_method_can_have_a_question_of_its_own() -> None:
    methods = [dataclasses.replace(m, question="Of Muon?" if m.family == "Muon" else "") for m in SCAN.methods]
    campaign = dataclasses.replace(SCAN, methods=tuple(methods))
    asked = {one.name: (one.question, one.rule) for one in campaign.contrasts()[1:]}
    assert asked == {
        "Muon, K = 20 against Muon, K = 1": ("Of Muon?", SCAN.rule),
        "Adam, K = 20 against Adam, K = 1": (SCAN.question, SCAN.rule),
    }
    assert campaign.digest != SCAN.digest, "other comparisons share one error rate"
    for changed, kept in (("Of Muon?", SCAN.question), (SCAN.question, "Of Muon?")):
        there = dataclasses.replace(campaign, at_scale={"rung-1": AtScale(predicted={changed: "level"})}).at("rung-1")
        rules = {one.question: one.rule for one in there.contrasts()}
        assert rules[changed].predicted == "level" and rules[kept] == SCAN.rule


def test_a_method_can_have_a_rule_of_its_own_and_win_by_it() -> None:
    """A gain of 0.05 is not enough for the campaign's rule here, and is for the method's."""
    strict = dataclasses.replace(GAIN, smallest_effect=0.1)
    methods = [dataclasses.replace(m, question="Why?" * (m.family == "Muon"), rule=GAIN if m.family == "Muon" else None)
               for m in SCAN.methods]  # fmt: skip
    campaign = dataclasses.replace(SCAN, methods=tuple(methods), rule=strict)
    found = analyze(campaign, data(Muon20=1.95, Adam20=2.05))
    answers = {answer.contrast.name: answer for answer in found.answers}
    assert answers["Muon, K = 20 against Muon, K = 1"].verdict.word == "better"
    assert answers["Adam, K = 20 against Adam, K = 1"].verdict.word == "no difference that matters"
    assert found.winner == "Muon, K = 20" and found.paired_noise is not None


def test_a_cell_of_the_map_has_a_line_for_each_report_that_answers(tmp_path: Path) -> None:
    again = dataclasses.replace(SCAN, name="again")
    for campaign in (SCAN, again):
        write_data(tmp_path, data() | {"campaign": campaign.name})
    rows = known_map([CampaignStudy(campaign) for campaign in (SCAN, again)], tmp_path).splitlines()[2:]
    assert len(rows) == 2 and all("](SCAN_REPORT.md)<br>[" in one and "](AGAIN_REPORT.md)" in one for one in rows)


@pytest.mark.parametrize(
    ("preset", "there", "message"),
    [
        ("rung-1", AtScale(lrs={"Muon": (0.1,)}), "scan at rung-1: rates of no method"),
        ("tiny", AtScale(claim="More."), "scan at tiny: the usual preset"),
        ("rung-1", AtScale(aux_lrs=(0.1, 0.2)), "a grid of the auxiliary rate without `lrs`"),
        ("rung-1", AtScale(predicted={"Why?": None}), "a prediction for no question"),
        (
            "rung-1",
            AtScale(comparison_seeds=1, lrs=dict.fromkeys((named("Muon", 1), named("Muon", 20)), LRS)),
            "the rule asks for 2 seeds",
        ),
    ],
)
def test_an_unsound_statement_about_a_preset_is_refused(preset: str, there: AtScale, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SCAN, at_scale={preset: there})


def test_names_instead_of_places_as_their_documentation_shows() -> None:
    modules = ngpt.campaign.engine, ngpt.sources, ngpt.campaign.definition.experiment
    assert [doctest.testmod(module) for module in modules] == [(0, 2), (0, 1), (0, 1)]
