"""`--watch` on made-up runs: the numbers worked out by hand, no word of a verdict, nothing written, and how it ends."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import pytest
from mini_campaign import CAMPAIGN, carry_out, heed_interrupts
from mini_gates import GATES
from mini_pretraining import CAMPAIGN as AFTER_AUTOMATA

from ngpt.campaign import engine
from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.command import CampaignStudy, choose_hidden_rates, choose_rates
from ngpt.campaign.definition import Campaign, Word
from ngpt.campaign.definition.plan import Plan, PlannedRun
from ngpt.campaign.entrant import EntrantStudy
from ngpt.campaign.execution.collect import collect
from ngpt.campaign.gates.command import GatesStudy
from ngpt.campaign.report.words import effect_of
from ngpt.errors import exit_code_of
from ngpt.files import json_text
from ngpt.training.record import RunRecord

Step = Callable[[], object]

LOSSES = {("Muon", 0.01): 2.5, ("Muon", 0.03): 2.25, ("Muon", 0.1): 2.75,
          ("Adam", 0.003): 2.75, ("Adam", 0.01): 2.5, ("Adam", 0.03): 3.0}  # fmt: skip
"""Of the tuning runs on the first seed; a quarter more on every further one."""

SEEDS = (30_000, 30_001, 30_002)
"""On which the methods are compared where rates are chosen on three."""

COMPARED = {"Muon": (2.0, 2.5, 3.0), "Adam": (2.1, 2.64, 3.12)}
"""Differences -0.10, -0.14, -0.12."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("".join(f"{i} green bottles on a wall of {i * 5 % 11}\n" for i in range(400)))
    return tmp_path


def flags(folder: Path, *more: str) -> list[str]:
    return ["--data", f"{folder}/text.txt", "--out", f"{folder}/runs", "--seeds", "3", *more]


def plan_in(folder: Path, campaign: Campaign = CAMPAIGN) -> Plan:
    study = CampaignStudy(campaign)
    return study.plan(study.parser().parse_args(flags(folder)))


def end(folder: Path, run: PlannedRun, loss: float | None, status: str = "done") -> None:
    """Leave what a run leaves that has ended."""
    place = folder / "runs" / run.run_id
    place.mkdir(parents=True, exist_ok=True)
    line = {"step": 4, "loss": 3.0, "train_seconds": 1.0} | ({} if loss is None else {"val_loss": loss})
    (place / "metrics.jsonl").write_text(json_text(line))
    message = None if status in ("done", "running") else f"it {status}"
    RunRecord(
        run_id=run.run_id, digest="0" * 64, name=run.name, status=status, seed=run.seed, config={}, steps=4,
        final_val_loss=loss, message=message, train_seconds=1.0,
    ).write(place)  # type: ignore[arg-type]  # fmt: skip


def tune(folder: Path, *seeds: int) -> None:
    for run in plan_in(folder).tuning_runs():
        if run.seed in seeds:
            end(folder, run, LOSSES[run.arm.method, run.arm.lr] + 0.25 * run.seed)


def compare(folder: Path, *seeds: int, methods: Sequence[str] = ("Muon", "Adam")) -> None:
    plan = plan_in(folder)
    for run in plan.comparison_runs(choose_rates(plan)):
        if run.seed in seeds and run.arm.method in methods:
            end(folder, run, COMPARED[run.arm.method][SEEDS.index(run.seed)])


def content(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def watch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *steps: Step,
    campaign: Campaign = CAMPAIGN,
) -> tuple[int, list[list[str]]]:  # fmt: skip
    """The exit code, and the lines shown before each of the steps and after the last one; Ctrl-C follows them."""
    coming = iter(steps)
    before = content(folder)

    def sleep(seconds: float) -> None:
        nonlocal before
        assert content(folder) == before, "a watcher wrote"
        step = next(coming, None)
        if step is None:
            raise KeyboardInterrupt
        step()
        before = content(folder)

    monkeypatch.setattr("ngpt.campaign.command.time.sleep", sleep)
    capsys.readouterr()
    code = exit_code_of(lambda: engine.carry_out(CampaignStudy(campaign), flags(folder, "--watch")))
    assert content(folder) == before, "a watcher wrote"
    shown = capsys.readouterr().out
    assert not [word for word in (*get_args(Word), "supported", "refuted", "inconclusive") if word in shown.lower()]
    return code, [block.splitlines() for block in shown.split("\n\n")]


def test_from_the_first_run_to_the_last(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tune_one_more() -> None:
        run = plan_in(folder).tuning_runs()[0]
        end(folder, run, LOSSES[run.arm.method, run.arm.lr])

    code, (empty, one, first_seed, two, tuned, single, pairs, three, last) = watch(
        folder, monkeypatch, capsys,
        tune_one_more, lambda: tune(folder, 0), lambda: tune(folder, 1), lambda: None, lambda: tune(folder, 2),
        lambda: compare(folder, SEEDS[0]), lambda: compare(folder, SEEDS[1]), lambda: compare(folder, SEEDS[2]),
    )  # fmt: skip
    assert code == 0 and last == ["no run is left; the report has the answers"]

    nothing = ["method  leads so far, by mean final_val_loss  seeds so far",
               "Muon    –                                     0 of 3",
               "Adam    –                                     0 of 3"]  # fmt: skip
    assert empty == ["mini: 0 of 24 runs have ended (tuning 0 of 18)", "not final:", *nothing]
    assert one == ["mini: 1 of 24 runs have ended (tuning 1 of 18)", "not final:", *nothing]
    assert first_seed == [
        "mini: 6 of 24 runs have ended (tuning 6 of 18)",
        "not final:",
        "method  leads so far, by mean final_val_loss  seeds so far",
        "Muon    lr 0.03: 2.2500 nats per token        1 of 3",
        "Adam    lr 0.01: 2.5000 nats per token        1 of 3",
    ]
    assert two[3] == "Muon    lr 0.03: 2.3750 nats per token        2 of 3", "(2.25 + 2.5) / 2"

    none_yet = ["contrast           effect so far [95% interval]  seeds so far", "Muon against Adam  –"]
    assert tuned[0] == "mini: 18 of 24 runs have ended (tuning 18 of 18, comparison 0 of 6)"
    assert tuned[1:3] == ["not final:", none_yet[0]] and tuned[3].split()[-4:] == ["–", "0", "of", "3"]
    assert single[3].split()[-4:] == ["–", "1", "of", "3"], "one difference has no interval"
    # mean -0.12 -+ t sd / sqrt(n): 12.7062 * 0.0282843 / sqrt(2) = 0.2541, then 4.3027 * 0.02 / sqrt(3) = 0.0497
    assert pairs == [
        "mini: 22 of 24 runs have ended (tuning 18 of 18, comparison 4 of 6)",
        "not final:",
        "contrast           effect so far [95% interval]               seeds so far",
        "Muon against Adam  −0.1200 [−0.3741, +0.1341] nats per token  2 of 3",
    ]
    assert three[1] == "not final:" and three[3].endswith("−0.1200 [−0.1697, −0.0703] nats per token  3 of 3")

    study, plan = CampaignStudy(CAMPAIGN), plan_in(folder)
    runs = [*plan.tuning_runs(), *plan.comparison_runs(choose_rates(plan))]
    data = collect(
        CAMPAIGN, runs, plan.out, failures={}, figures=study.figures, known={}, preset=plan.preset,
        **study.details(plan, runs),
    )  # fmt: skip
    (answer,) = analyze(CAMPAIGN, data).answers
    assert three[3].split("  ")[1] == f"{effect_of(answer)} nats per token", "the report has the same number"


def test_only_whole_pairs_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(folder, 0, 1, 2)
    compare(folder, *SEEDS, methods=["Muon"])
    compare(folder, SEEDS[0], SEEDS[2], methods=["Adam"])
    code, (shown, _) = watch(folder, monkeypatch, capsys)
    assert code == 130, "Ctrl-C"
    # differences -0.10 and -0.12: -0.11 -+ 12.7062 * 0.0141421 / sqrt(2)
    assert shown[-1] == "Muon against Adam  −0.1100 [−0.2371, +0.0171] nats per token  2 of 3"


def test_what_is_not_done_leads_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best rate of Muon diverges on one seed, the best of Adam fails on one; a run that is going on waits."""
    tune(folder, 0, 1)
    runs = {(run.arm.method, run.arm.lr, run.seed): run for run in plan_in(folder).tuning_runs()}
    end(folder, runs["Muon", 0.03, 0], None, "diverged")
    end(folder, runs["Adam", 0.01, 1], None, "failed")
    end(folder, runs["Adam", 0.03, 2], None, "running")
    code, (before, after, _) = watch(folder, monkeypatch, capsys, lambda: tune(folder, 2))
    assert code == 130 and before[0] == "mini: 12 of 24 runs have ended (tuning 12 of 18; 1 failed)"
    assert before[3:] == ["Muon    lr 0.01: 2.6250 nats per token        2 of 3",
                          "Adam    lr 0.003: 2.8750 nats per token       2 of 3"]  # fmt: skip
    assert after[0] == "mini: 18 of 24 runs have ended (tuning 18 of 18, comparison 0 of 6; 1 failed)", "it goes on"
    rates = {name: arm.lr for name, arm in choose_hidden_rates(plan_in(folder)).items()}
    assert rates == {"Muon": 0.01, "Adam": 0.003}, "those that led"


def test_two_rates(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = dataclasses.replace(CAMPAIGN, aux_lrs=(0.005, 0.01))
    plan = plan_in(folder, campaign)
    tune_both = [(run, LOSSES[run.arm.method, run.arm.lr]) for run in plan.tuning_runs()]
    for run, loss in tune_both:
        end(folder, run, loss)
    auxiliary = plan.auxiliary_runs(choose_hidden_rates(plan))
    for run in auxiliary[:3]:
        end(folder, run, 2.0 if run.arm.method == "Muon" else 4.0)
    code, (shown, _) = watch(folder, monkeypatch, capsys, campaign=campaign)
    assert code == 130 and shown[0] == "mini: 21 of 30 runs have ended (tuning 18 of 18, auxiliary 3 of 6)"
    assert shown[3:] == ["Muon    lr 0.03, aux 0.005: 2.0000 nats per token  2 of 3",
                         "Adam    lr 0.01, aux 0.01: 2.5000 nats per token   1 of 3"]  # fmt: skip


def test_before_there_is_anything_to_tune(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the weights of one seed, which diverged, nothing can follow."""
    sources = plan_in(folder, AFTER_AUTOMATA).pretraining_runs("tuning")

    def end_them() -> None:
        for run in sources:
            end(folder, run, *((2.0, "done") if run.seed else (None, "diverged")))

    code, (before, after, last) = watch(folder, monkeypatch, capsys, end_them, campaign=AFTER_AUTOMATA)
    assert before == ["mini: 0 of 30 runs have ended (pretraining 0 of 3)"]
    assert after == ["mini: 3 of 30 runs have ended (pretraining 3 of 3)"]
    assert code == 0 and last == ["no run is left; the report has the answers"]


@pytest.mark.parametrize("other", ["--dry-run", "--report-only", "--reproduce"])
def test_it_excludes_the_other_modes(folder: Path, capsys: pytest.CaptureFixture[str], other: str) -> None:
    assert exit_code_of(lambda: carry_out(CAMPAIGN, flags(folder, "--watch", other))) == 2
    assert capsys.readouterr().err == f"error: {other} and --watch exclude each other\n"
    assert not (folder / "runs").exists()


def test_what_has_no_contrasts_refuses_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        engine.carry_out(GatesStudy(GATES), ["--watch"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --watch (see --help)\n"
    assert EntrantStudy().parser().parse_args(["a.py:A", "--watch"]).watch, "an optimizer of one's own has them"


@pytest.mark.parametrize("how", ["Ctrl-C", "nobody reads"])
def test_a_script_that_watches_ends(folder: Path, how: str) -> None:
    tune(folder, 0)
    command = [sys.executable, str(Path(__file__).with_name("mini.py")), *flags(folder, "--watch")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=heed_interrupts, **pipes)  # type: ignore[call-overload]
    if how == "Ctrl-C":
        assert process.stdout.readline() == "mini: 6 of 24 runs have ended (tuning 6 of 18)\n"
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
    else:
        process.stdout.close()
        process.stdout = None
    _, error = process.communicate(timeout=60)
    expected = (130, "interrupted\n") if how == "Ctrl-C" else (2, "error: standard output: Broken pipe\n")
    assert (process.returncode, error) == expected
