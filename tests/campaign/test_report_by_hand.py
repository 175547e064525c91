"""Every column of a report's tables, of the index and of `verdicts.jsonl`, on an example small enough to work by hand.

Losses are chosen so that means, standard deviations and shares can be checked in the head. With three seeds, the 95% t
interval is the mean plus or minus 4.3027 sd / sqrt(3), which is 2.4841 sd; with two, 12.7062 sd / sqrt(2).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign, Contrast, Method, Reading, Rule, noise_of, on_other_batches
from ngpt.campaign.execution.collect import write_data
from ngpt.campaign.report import markdown
from ngpt.campaign.report.controls import controls_of_others
from ngpt.campaign.report.index import known_map, write_index
from ngpt.campaign.report.markdown import settings_of, write_report
from ngpt.campaign.report.words import headline, prediction, reach
from ngpt.errors import InputError

LRS = (0.01, 0.02, 0.04)
BASE, GOOD = Method(name="base", fields={"lr": 1}, lrs=LRS), Method(name="good", fields={"lr": 2}, lrs=LRS)
RULE = Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=3)
HAND = Campaign(
    name="hand",
    title="By hand",
    question="Who ends lower?",
    claim="Nothing.",
    methods=(BASE, GOOD, Method(name="bad", fields={"lr": 3}, lrs=LRS), on_other_batches(BASE)),
    baselines=("base", "base, other batches"),
    rule=RULE,
    further=(noise_of(BASE, RULE),),
    fields={"steps": 8},
    tuning_seeds=2,
    comparison_seeds=3,
    reading="What it shows.",
    does_not_show="Much.",
    follows="Little.",
)
TUNING: dict[str, dict[float, tuple[float, float]]] = {
    "base": {0.01: (2.3, 2.5), 0.02: (2.1, 2.3), 0.04: (2.3, 2.5)},
    "good": {0.01: (2.2, 2.4), 0.02: (2.0, 2.0), 0.04: (2.2, 2.4)},
    "bad": {0.01: (2.5, 2.5), 0.02: (2.6, 2.6), 0.04: (2.7, 2.7)},
}
FINAL = {
    "base": (2.20, 2.30, 2.40),
    "good": (2.08, 2.20, 2.29),  # minus base: -0.12, -0.10, -0.11
    "bad": (2.60, 2.72, 2.81),  # 0.40, 0.42, 0.41
    "base, other batches": (2.21, 2.29, 2.43),  # 0.01, -0.01, 0.03
}
SPEED = {"base": 100.0, "good": 50.0, "bad": 200.0, "base, other batches": 100.0}
FALL = {"base": 0.5, "good": 0.25, "bad": 0.5, "base, other batches": 0.5}
ROTATION = {"base": 0.03, "good": 0.05, "bad": 0.01, "base, other batches": 0.03}
CHOSEN = {"base": 0.02, "good": 0.02, "bad": 0.01, "base, other batches": 0.02}


def run(stage: str, method: str, lr: float, seed: int, loss: float) -> dict[str, Any]:
    """The loss falls by FALL from step 4 to the last step, 8; 35 s of training and 1 s of validation, 0.01 hours.

    The first step turns vectors further than the rest, and counts in no mean.
    """
    curve = {"step": [4, 8], "loss": [loss + FALL[method], loss], "seconds": [17.0, 35.0]}
    rotation = ROTATION[method]
    return {
        "stage": stage, "method": method, "lr": lr, "aux_lr": 0.005, "seed": seed, "status": "done", "steps": 8,
        "run_id": f"{method}-{lr}-{seed}", "final_val_loss": loss, "tokens_per_second": SPEED[method],
        "train_seconds": 35.0, "eval_seconds": 1.0, "skipped_steps": 0, "val": curve, "train": curve,
        "first_sha256": f"{method}{lr}{seed}", "final_sha256": f"{method}{lr}{seed}",
        "telemetry": {"step": [1, 4, 8], "rotation_hidden_rad": [9 * rotation, rotation / 2, rotation * 3 / 2],
                      "gate_mean": [0.9, 0.2, 0.4]},
    }  # fmt: skip


def collected() -> dict[str, Any]:
    rows = [run("tuning", name, lr, seed, loss) for name, grid in TUNING.items()
            for lr, losses in grid.items() for seed, loss in enumerate(losses)]  # fmt: skip
    rows += [run("comparison", name, CHOSEN[name], 50 + seed, loss)
             for name, losses in FINAL.items() for seed, loss in enumerate(losses)]  # fmt: skip
    environment = {"threads": 1, "commit": "abc", "python": "3.11", "torch": "2.13", "numpy": "2", "runs": len(rows)}
    extra = {"base": "", "good": " --good 1 2", "bad": "", "base, other batches": " --data-order 1"}
    return {
        "campaign": "hand", "definition": HAND.digest, "preset": "tiny", "data": "stdlib", "tokenizer": "bytes",
        "data_digest": "d" * 64, "code_digest": "c" * 64, "command": "python runners/hand.py", "jobs": 2,
        "planned_runs": len(rows), "tuning_seeds": 2, "comparison_seeds": 3, "parameters": 250_000, "eval_tokens": 64,
        "model": {"layers": 1, "width": 16, "context": 16, "arch": "gated-ngpt"}, "dates": ["2026-01-30", "2026-01-31"],
        "training": {"steps": 8, "batch": 2000, "dtype": "float32", "schedule": "linear", "aux_lr": 0.005,
                     "decay_share": 1.0, "projection_every": [7], "grad_clip": None},
        "environments": [{"device": "made up (AVX2, 2 cores)", **environment}], "runs": rows,
        "commands": {f"{r['method']}|{r['lr']}|{r['aux_lr']}|{r['seed']}": f"--lr {r['lr']}{extra[r['method']]} "
                     f"--seed {r['seed']}" for r in rows},
    }  # fmt: skip


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hand")
    write_data(folder, collected())
    write_report(HAND, folder)
    write_index([CampaignStudy(HAND)], folder)
    return folder


def table_after(text: str, heading: str) -> list[str]:
    """The rows of the first table after a heading, without the line of dashes."""
    lines = text[text.index(heading) :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = [lines[first]]
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(line)
    return rows


def test_another_text_has_a_reading_of_its_own_or_none(tmp_path: Path) -> None:
    """That of the usual text is not shown there, and neither is one while runs are missing."""
    theirs = Reading(reading="As on the other.", follows="More texts.")
    campaign = dataclasses.replace(HAND, on_texts={("tiny", "English"): theirs})
    study = CampaignStudy(campaign)
    for text, said in (("English", theirs.reading), ("French", None)):
        there = study.at("tiny", text).experiment
        assert there.digest == HAND.digest and there.name == f"hand_on_{text.lower()}"
        for data in (collected(), collected() | {"planned_runs": 99}):
            write_data(tmp_path, data | {"campaign": there.name, "data": text})
            write_report(there, tmp_path)
            report = (tmp_path / there.report_name).read_text()
            shown = said is not None and data["planned_runs"] != 99
            assert (theirs.reading in report) == ("**What follows.** More texts." in report) == shown
            assert HAND.reading not in report and "**What this does not show.**" not in report
    with pytest.raises(ValueError, match=r"hand: a reading at \['rung-1'\], where nothing is stated"):
        dataclasses.replace(HAND, on_texts={("rung-1", "English"): theirs})


def test_where_nothing_is_tuned_nothing_is_said_of_tuning(tmp_path: Path) -> None:
    fixed = dataclasses.replace(HAND, methods=tuple(dataclasses.replace(m, lrs=(0.02,)) for m in HAND.methods[:2]),
                                baselines=("base",), further=())  # fmt: skip
    rows = [row for row in collected()["runs"] if row["stage"] == "comparison" and row["method"] in ("base", "good")]
    write_data(tmp_path, collected() | {"definition": fixed.digest, "runs": rows, "planned_runs": len(rows)})
    write_report(fixed, tmp_path)
    text = (tmp_path / "HAND_REPORT.md").read_text()
    assert "; 8 steps a run; 3 seeds, nothing tuned. *Cost.*" in text and "## Tuning" not in text
    assert "No rate is tuned: each is part of its method. Runs with the same seed" in text
    assert "−0.1100<br>(rates not tuned)](HAND_REPORT.md) |" in known_map([CampaignStudy(fixed)], tmp_path)


def test_the_first_screen(reports: Path) -> None:
    text = (reports / "HAND_REPORT.md").read_text()
    screen = text[: text.index("## Answers")]
    assert screen.startswith(
        "# By hand\n\n"
        "**On a 0.25M-parameter model trained on 0.26M tokens of Python's standard library, of 2 methods against base, "
        "1 is better (−0.1100 nats per token: good) and 1 is undecided (+0.4100: bad; only because a best rate is at "
        "the edge of its grid or runs are missing).**\n\n"
        "[![Effects](figures/hand_effects.png)](figures/hand_effects.svg)\n\n"
        "What it shows.\n\n**What this does not show.** Much.\n\n**What follows.** Little.\n\n"
    )
    # 18 runs tune and 12 compare, 0.01 hours each. Half of t_2 / sqrt(3) is t_4 / sqrt(5); 5 seeds of 4 methods.
    assert screen.endswith(
        "*Scope.* Preset `tiny`: gated-ngpt, 1 layer, 16 wide; data `stdlib`; 8 steps a run; 2 tuning seeds and 3 "
        "separate comparison seeds. *Cost.* 30 runs, 0.3 core-hours. *To be surer:* intervals half as wide need 5 new "
        "seeds (`--comparison-seeds 5`), 0.2 core-hours.\n\n"
    )


def test_the_answers(reports: Path) -> None:
    text = (reports / "HAND_REPORT.md").read_text()
    assert "**Who ends lower?** Predicted lower: confirmed for 1 of 2 (1 undecided).\n" in text
    head, good, bad = table_after(text, "**Who ends lower?**")
    effect = "effect [95% interval], nats per token"
    assert head == f"| method, against base | answer | {effect} | seeds with that sign | p (Holm) |"
    assert good.startswith("| good | **better** | −0.1100 [−0.1348, −0.0852] | 3 of 3 | ")
    assert bad.startswith("| bad | **undecided (higher)** | +0.4100 [+0.3852, +0.4348] | 3 of 3 | ")
    # t is 19.05 and 71.0 with 2 degrees of freedom: p is 0.0027 and 0.0002, which Holm doubles
    assert good.endswith("| 0.0027 |") and bad.endswith("| < 0.001 |")
    assert "- *bad* is undecided: the numbers say worse, but the best rate of bad is at the edge of its grid.\n" in text
    _, again = table_after(text, "**Control: how much do other batches change base?**\n")
    assert again.startswith("| base, other batches | control | +0.0100 [−0.0397, +0.0597] | 2 of 3 | ")
    assert "a control, which gets no answer." in text


def test_what_differs(reports: Path) -> None:
    text = (reports / "HAND_REPORT.md").read_text()
    part = text[text.index("## What differs") : text.index("## Tuning")]
    assert "- *good* against base: `--good 1 2`\n- *bad* against base: `--lr 0.01` instead of `0.02`\n" in part
    assert "base, other batches" not in part, "it is the baseline of its own family"


def test_what_differs_includes_what_the_preset_implies() -> None:
    data = {"preset": "rung-1", "training": {"aux_lr": 0.005}}
    adam = settings_of("python train_architectural.py --preset rung-1 --optimizer adam --aux-lr 0.01 --seed 3", data)
    assert adam == {
        "--preset": "rung-1", "--optimizer": "adam", "--aux-lr": "0.01", "--lr": "0.01", "--adam-beta1": "0.7"
    }  # fmt: skip
    data["training"]["aux_lr"] = 0.01  # of the first run; the flag is left out where it is the default
    muon = settings_of("python train_architectural.py --preset rung-1 --lr 0.03", data, 0.005)
    assert muon == {
        "--preset": "rung-1", "--optimizer": "muon", "--aux-lr": "0.005", "--lr": "0.03", "--adam-beta1": "0.9"
    }  # fmt: skip


def test_tuning(reports: Path) -> None:
    text = (reports / "HAND_REPORT.md").read_text()
    assert table_after(text, "## Tuning") == [
        "| method | rate: loss |",
        "| base | 0.01: 2.400, **0.02: 2.200**, 0.04: 2.400 |",
        "| good | 0.01: 2.300, **0.02: 2.000**, 0.04: 2.300 |",
        "| bad | **0.01: 2.500**, 0.02: 2.600, 0.04: 2.700 |",
        "| base, other batches | at the rates of base |",
    ]
    assert table_after(text, "At equal rates, ") == [
        "| method | rate: difference | standard deviation |",
        "| good | 0.01: −0.1000, 0.02: −0.2000, 0.04: −0.1000 | 0.0816 |",  # sqrt(0.02 / 3)
        "| bad | 0.01: +0.1000, 0.02: +0.4000, 0.04: +0.3000 | 0.1414 |",
    ]
    # base: 0.02 above its lowest mean a tenth of the way, in log rate, to either neighbor: 0.02 * 2 ** +-0.1
    _, base, good, bad = table_after(text, "The optimum of a parabola")
    assert base.startswith("| base | 0.02 | ") and base.endswith(" | 0.019 to 0.021 | 0.1 |")
    assert good.endswith(" | 0.019 to 0.021 | 0.0 |")  # a fifteenth of the way: 0.0401 decades
    assert bad.startswith("| bad | 0.01 (edge of the grid) | ") and " | below 0.01 to 0.011 | " in bad
    # at the optima, seed by seed: 2.0 - 2.1 and 2.0 - 2.3
    assert table_after(text, "How much of an effect could be due") == [
        "| comparison | at the chosen rates | at the fitted optima |",
        "| good against base | −0.1100 [−0.1348, −0.0852] | −0.2000 [−1.4706, +1.0706] |",
    ]


def test_results(reports: Path) -> None:
    text = (reports / "HAND_REPORT.md").read_text()
    assert table_after(text, "## Results") == [
        "| method | rate | final_val_loss | runs |",
        "| base | 0.02 | 2.3000 ± 0.1000 | 3 |",
        "| good | 0.02 | 2.1900 ± 0.1054 | 3 |",  # deviations -0.11, 0.01, 0.10
        "| bad | 0.01 | 2.7100 ± 0.1054 | 3 |",
        "| base, other batches | 0.02 | 2.3100 ± 0.1114 | 3 |",
    ]
    # differences of sd 0.01 each; that of other batches, sd 0.02, belongs to another question
    assert "(standard deviation over the comparison seeds): 0.1000 (base), 0.1114 (base, other batches)." in text
    assert "a paired difference: 0.0100. Largest gain over its baseline by the rule: **good**." in text
    # good falls by 0.25 in 4 steps and is at base's final loss 0.12, 0.10, 0.11 above its own: after 6.08, 6.4, 6.24
    # of 8 steps, which is 76, 80, 78%. Its steps take twice the time.
    assert table_after(text, "Each method against another") == [
        "| method | against | steps | training time | relative speed | difference in training |",
        "| good | base | 78% [73%, 83%] | 156% [146%, 166%] | 0.50 | −11% |",
        "| bad | base | not reached on 3 of 3 seeds | not reached on 3 of 3 seeds | 2.00 | +41% |",
    ]
    assert table_after(text, "<details><summary>Every comparison seed") == [
        "| method | final_val_loss on seeds 50, 51, 52 |",
        "| base | 2.2000, 2.3000, 2.4000 |",
        "| good | 2.0800, 2.2000, 2.2900 |",
        "| bad | 2.6000, 2.7200, 2.8100 |",
        "| base, other batches | 2.2100, 2.2900, 2.4300 |",
    ]


def test_telemetry_and_cost(reports: Path) -> None:
    text = (reports / "HAND_REPORT.md").read_text()
    assert table_after(text, "## What the steps did")[:3] == [
        "| method | rotation, hidden |",
        "| base | 0.03 |",
        "| good | 0.05 |",
    ]
    rest = text[text.index("| rotation, hidden |") :]
    assert table_after(rest[rest.index("\n\n") :], "|")[:2] == ["| method | gate |", "| base | 0.3 |"]
    assert table_after(text, "Training and validation, of all runs") == [
        "| method | tuning runs | comparison runs | core-hours | tokens/s | seconds a run | share of validation |",
        "| base | 6 | 3 | 0.09 | 100 | 35.0 | 3% |",
        "| good | 6 | 3 | 0.09 | 50 | 35.0 | 3% |",
        "| bad | 6 | 3 | 0.09 | 200 | 35.0 | 3% |",
        "| base, other batches | 0 | 3 | 0.03 | 100 | 35.0 | 3% |",
    ]
    assert "30 runs planned: 30 done.\nNo run failed or diverged, and no step was skipped.\n" in text
    assert "python train_architectural.py --lr 0.02 --good 1 2 --seed 50 --threads 1 --out single\n" in text


def test_a_campaign_without_a_control_shows_those_of_published_ones(
    reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods, baselines = HAND.methods[:-1], HAND.baselines[:-1]
    alone = dataclasses.replace(HAND, name="alone", methods=methods, baselines=baselines, further=())
    rows = [row for row in collected()["runs"] if row["method"] != "base, other batches"]
    mine = {**collected(), "campaign": "alone", "definition": alone.digest, "runs": rows, "planned_runs": len(rows)}
    monkeypatch.setattr(markdown, "PUBLISHED", reports)
    write_data(tmp_path, mine)
    text = write_report(alone, tmp_path)[0].read_text()
    assert table_after(text, "**Control: how much does the order of the data alone change the loss?**") == [
        "| comparison | campaign | effect [95% interval], nats per token | seeds with that sign |",
        "| base, other batches against base | `hand` | +0.0100 [−0.0397, +0.0597] | 2 of 3 |",
    ]
    assert "the order of the data alone" not in (reports / "HAND_REPORT.md").read_text(), "it has its own"

    analysis = analyze(alone, mine)
    training, model = mine["training"], mine["model"]
    elsewhere: tuple[dict[str, Any], ...] = (
        {"preset": "rung-1"}, {"data": "other.txt"}, {"training": {**training, "steps": 9}},
        {"model": {**model, "arch": "gpt"}}, {"training": {**training, "budget_seconds": 8.0}},
    )  # fmt: skip
    assert controls_of_others(analysis, mine, reports)
    assert not any(controls_of_others(analysis, {**mine, **change}, reports) for change in elsewhere)
    assert controls_of_others(analysis, mine, tmp_path / "nothing") == []


def test_the_index_and_the_verdicts(reports: Path) -> None:
    index = (reports / "README.md").read_text()
    assert known_map([CampaignStudy(HAND)], reports) == (
        "| question | what matters | `tiny` (0.25M), stdlib |\n|---|---|---|\n"
        "| Who ends lower? | 0.02 nats per token "
        "| [1 **better**: −0.1100<br>1 **undecided**: +0.4100](HAND_REPORT.md) |\n"
    )
    assert "Of 1 questions about methods, 1 has been asked at one size and on one text only." in index
    assert table_after(index, "Who ends lower? Against base:") == [
        "| comparison | answer | effect [95% interval] | seeds |",
        "| good | better | −0.1100 [−0.1348, −0.0852] nats per token | 3 of 3 |",
        "| bad | undecided (higher) | +0.4100 [+0.3852, +0.4348] nats per token | 3 of 3 |",
    ]
    lines = [json.loads(line) for line in (reports / "verdicts.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "id": "hand | tiny, stdlib | good against base", "campaign": "hand", "question": "Who ends lower?",
        "contrast": "good against base", "answer": "better", "confirmed": True, "effect": -0.11, "low": -0.134841,
        "high": -0.085159, "unit": "nats per token", "smallest_effect": 0.02, "seeds": 3, "agreeing": 3,
        "preset": "tiny", "parameters": 250_000, "tokens": 8 * 2000 * 16, "data": "stdlib", "arch": "gated-ngpt",
        "control": False, "date": "2026-01-31", "commit": "abc", "report": "HAND_REPORT.md",
    }  # fmt: skip
    assert (lines[1]["answer"], lines[1]["confirmed"], lines[1]["effect"]) == ("undecided", False, 0.41)
    assert (lines[2]["answer"], lines[2]["confirmed"], lines[2]["control"]) == (None, None, True)
    assert (lines[2]["effect"], lines[2]["agreeing"], len(lines)) == (0.01, 2, 3)


def test_answers_of_campaigns_that_nobody_lists_any_more_are_kept(tmp_path: Path) -> None:
    """As of an optimizer that was tried before another one; not without its report, and never twice."""
    once, again = (dataclasses.replace(HAND, name=name) for name in ("first", "second"))
    for campaign in (once, again):
        write_data(tmp_path, collected() | {"campaign": campaign.name})
        write_report(campaign, tmp_path)
        write_index([CampaignStudy(campaign)], tmp_path)
    write_index([CampaignStudy(again)], tmp_path)
    campaigns = [json.loads(line)["campaign"] for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert campaigns == ["second"] * 3 + ["first"] * 3
    index = (tmp_path / "README.md").read_text()
    assert table_after(index, "### [FIRST_REPORT.md](FIRST_REPORT.md)\n\n`tiny` (0.25M), stdlib; 2026-01-31.\n") == [
        "| comparison | answer | effect [95% interval] | seeds |",
        "| good against base | better | −0.1100 [−0.1348, −0.0852] nats per token | 3 of 3 |",
        "| bad against base | undecided | +0.4100 [+0.3852, +0.4348] nats per token | 3 of 3 |",
        "| base, other batches against base | control | +0.0100 [−0.0397, +0.0597] nats per token | 2 of 3 |",
    ]
    (tmp_path / "FIRST_REPORT.md").unlink()
    write_index([CampaignStudy(again)], tmp_path)
    assert "FIRST" not in (tmp_path / "README.md").read_text()
    (tmp_path / "verdicts.jsonl").write_text("{")
    with pytest.raises(InputError, match="verdicts.jsonl: damaged; remove it"):
        write_index([CampaignStudy(again)], tmp_path)


def test_what_an_effect_is_worth_in_training() -> None:
    """Base's curve falls by 0.5 over the last half of its steps, so 0.11 of its loss are 11% of them."""
    analysis = analyze(HAND, collected())
    assert analysis.exchange == pytest.approx(
        {"good against base": 0.11, "bad against base": 0.41, "base, other batches against base": 0.01}
    )
    about_good = dataclasses.replace(HAND, subject="good")
    assert headline(about_good, analysis, collected()) == [
        "On a 0.25M-parameter model trained on 0.26M tokens of Python's standard library, good is better than base: it "
        "ends 0.110 nats per token lower [0.085, 0.135], on all 3 seeds. That is as much as base gains in the last 11% "
        "of its training."
    ]
    about_bad = dataclasses.replace(HAND, subject="bad")
    assert headline(about_bad, analysis, collected())[0].endswith(
        ", whether bad is better or worse than base is undecided: it ends 0.410 nats per token higher [0.385, 0.435], "
        "on all 3 seeds; the numbers say worse, but the best rate of bad is at the edge of its grid."
    )


def test_several_answers_in_a_phrase() -> None:
    answers = analyze(HAND, collected()).answers
    assert reach(answers) == "−0.1100 to +0.4100" and reach(answers[:1]) == "−0.1100" and reach([]) == ""
    assert prediction(answers) == "Predicted lower: confirmed for 1 of 3 (2 undecided)."
    assert prediction(answers[:1]) == "Predicted lower: confirmed."
    assert prediction(answers[1:]) == "Predicted lower: confirmed for none of 2 (2 undecided)."


def test_answers_are_listed_once_no_run_is_left(tmp_path: Path) -> None:
    data = collected()
    rows = [*data["runs"][:-1], {**data["runs"][-1], "status": "running"}]
    for unfinished in (data | {"planned_runs": 31}, data | {"runs": rows}):
        write_data(tmp_path, unfinished)
        write_index([CampaignStudy(HAND)], tmp_path)
        note = "because runs are left to do: [HAND_REPORT.md](HAND_REPORT.md) (`python runners/hand.py` continues it)."
        assert note in (tmp_path / "README.md").read_text() and not (tmp_path / "verdicts.jsonl").read_text()
    rows[-1]["status"] = "failed"
    write_data(tmp_path, data | {"runs": rows})
    write_index([CampaignStudy(HAND)], tmp_path)
    assert "Not listed" not in (tmp_path / "README.md").read_text(), "one that has failed is not left to do"


def test_a_tuning_run_that_was_lost_may_hide_a_better_rate() -> None:
    """The rate beside good's best is left out of its choice; a run that diverged there is an answer."""
    for status, word in (("failed", "undecided"), ("diverged", "better")):
        data = collected()
        (lost,) = [r for r in data["runs"] if r["run_id"] == "base-0.04-1"]
        lost["status"] = status
        del lost["final_val_loss"]
        verdict = analyze(HAND, data).answers[0].verdict
        assert verdict.word == word
        assert word == "better" or verdict.why.endswith("but 1 of the runs that tune base is missing")


def test_speeds_are_compared_on_one_machine_whatever_the_commit() -> None:
    data = collected()
    here = data["environments"][0]
    for other, count in (({"commit": "def"}, 3), ({"device": "another (AVX2, 2 cores)"}, 0)):
        data["environments"] = [here, {**here, **other}]
        for r in data["runs"]:
            r["environment"] = int(r["method"] == "base")
        good = next(summary for summary in analyze(HAND, data).summaries if summary.method.name == "good")
        assert sum(share == share for share in good.time_share) == count
        assert (good.tokens_per_second_ratio is not None) == bool(count)


def test_each_line_has_the_architecture_of_what_it_compares(tmp_path: Path) -> None:
    methods = (BASE, dataclasses.replace(GOOD, fields={"lr": 2, "arch": "gpt"}), *HAND.methods[2:])
    mixed = dataclasses.replace(HAND, methods=methods)
    write_data(tmp_path, collected() | {"definition": mixed.digest})
    study = CampaignStudy(mixed)
    lines = {line.contrast: line.arch for line in study.verdicts(study.read(tmp_path))}
    assert lines["good against base"] == "gated-ngpt and gpt" and lines["bad against base"] == "gated-ngpt"


def test_a_difference_of_zero_has_its_number() -> None:
    weights = {"good": 1.0, "bad": 1.0, "base": -2.0}
    both = Contrast(name="both", weights=weights, question="Both?", rule=RULE)
    campaign = dataclasses.replace(HAND, leading=(both,))
    data = collected()
    for r in data["runs"]:
        if r["stage"] == "comparison" and r["method"] in ("good", "bad"):
            slope = 0.01 if r["method"] == "bad" else 0.02
            r["final_val_loss"] = FINAL["base"][r["seed"] - 50] + slope * (r["seed"] - 51)
    said = headline(campaign, analyze(campaign, data), data)[0]
    assert "both: undecided, 0.000 nats per token [−0.075, 0.075], on " in said
