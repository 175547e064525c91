"""The gates: a whole Muon passes, a broken one fails, faults lead to the fallbacks, each target is kept to."""

import copy
import dataclasses
import itertools
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mini_campaign import heed_interrupts
from mini_gates import GATES
from torch import Tensor, nn

from ngpt.campaign import engine
from ngpt.campaign.definition.plan import PlannedRun
from ngpt.campaign.execution.collect import read_data
from ngpt.campaign.execution.execute import Outcome
from ngpt.campaign.gates.command import GatesStudy
from ngpt.campaign.gates.definition import Gates
from ngpt.campaign.gates.judge import judge_gates, overall
from ngpt.campaign.gates.report import write_gates_report
from ngpt.campaign.report.index import known_map, write_index
from ngpt.config import RunConfig, Runtime
from ngpt.errors import InputError
from ngpt.files import read_json
from ngpt.optim import muon, steps
from ngpt.optim.build import Optimizers, build_optimizers
from ngpt.optim.muon import SimpleMuon
from ngpt.training import trainer
from ngpt.training.trainer import train

SCRIPT = Path(__file__).with_name("mini_gates.py")
TEXT = "".join(f"{i} green bottles, {i * 7 % 13} of them hanging on the wall of {i * i % 31}.\n" for i in range(400))


def in_this_process(runs: list[PlannedRun], *, out: Path, jobs: int, device: str, threads: int) -> Outcome:
    """`execute` without processes, where what a test patched is in place."""
    for run in runs:
        train(run.config, Runtime(out=out, threads=1, progress=False, keep_weights=False, resume=True))
    return Outcome()


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "execute", in_this_process)


def carry_out(gates: Gates, arguments: list[str]) -> int:
    """The exit code of the gates' runner with these arguments."""
    return engine.carry_out(GatesStudy(gates), arguments)


def judge(folder: Path, gates: Gates = GATES) -> tuple[int, dict[str, Any]]:
    """Exit code, and the collected data."""
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text(TEXT)
    places = ["--data", folder / "text.txt", "--out", folder / "runs", "--reports", folder / "r"]
    code = carry_out(gates, [str(word) for word in places])
    return code, read_json(folder / "r" / "data" / f"{gates.name}.json")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of gates carried out by an optimizer that is whole."""
    folder = tmp_path_factory.mktemp("healthy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "execute", in_this_process)
        code, _ = judge(folder)
    assert code == 0
    return folder


@pytest.fixture
def data(healthy: Path) -> dict[str, Any]:
    """What the whole optimizer's gates are judged by, to be changed by the test."""
    return read_json(healthy / "r" / "data" / "mini_gates.json")


def labels(gates: Gates, data: dict[str, Any]) -> dict[str, str]:
    return {gate.name: gate.label for gate in judge_gates(gates, data)}


# --- a whole optimizer and broken ones -------------------------------------------------------------------------------


def test_a_whole_optimizer_passes(healthy: Path, data: dict[str, Any]) -> None:
    assert labels(GATES, data) == dict.fromkeys(("G1", "G2", "G3", "G4", "G5", "G6", "G7"), "PASS")
    text = (healthy / "r" / "MINI_GATES_REPORT.md").read_text()
    assert "**Does Muon pass? PASS.**" in text and text.count("**PASS**") == 7
    assert (healthy / "r" / "figures" / "mini_gates_curves.png").stat().st_size > 10_000
    assert len(data["runs"]) == 6 + 6 + 2 + 2 + 2 and {row["status"] for row in data["runs"]} == {"done"}


def flip_the_sign(patch: pytest.MonkeyPatch) -> None:
    move = steps.linear_move
    patch.setattr(steps, "linear_move", lambda W, O, lr, **options: move(W, -O, lr, **options))


def skip_the_polar_factor(patch: pytest.MonkeyPatch) -> None:
    """Momentum alone, with the Frobenius norm that a polar factor has."""

    def normalize(G: Tensor, **_: Any) -> Tensor:
        return G * (min(G.shape[-2:]) ** 0.5 / torch.linalg.matrix_norm(G, keepdim=True))

    patch.setattr(muon.polar, "orthogonalize", normalize)


def give_muon_nothing(patch: pytest.MonkeyPatch) -> None:
    def build(model: nn.Module, config: RunConfig, owned: Any) -> Optimizers:
        made = build_optimizers(model, config, owned)
        if config.optim.optimizer == "muon":
            made.hidden = SimpleMuon([nn.Parameter(torch.zeros(2, 2))], lr=config.optim.lr)
        return made

    patch.setattr(trainer, "build_optimizers", build)


@pytest.mark.parametrize(
    ("sabotage", "failing"),
    [
        (flip_the_sign, {"G3", "G6"}),
        (skip_the_polar_factor, {"G1"}),
        (give_muon_nothing, {"G1"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.usefixtures("in_place")
def test_a_sabotaged_optimizer_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sabotage: Callable[[pytest.MonkeyPatch], None],
    failing: set[str],
) -> None:
    sabotage(monkeypatch)
    code, data = judge(tmp_path)
    found = labels(GATES, data)
    assert code == 1 and failing <= {name for name, label in found.items() if label == "FAIL"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("mini_gates: FAIL (") and lines[-1].endswith("MINI_GATES_REPORT.md")
    assert "**Does Muon pass? FAIL (" in (tmp_path / "r" / "MINI_GATES_REPORT.md").read_text()


# --- fallbacks, by injecting the fault -------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_place")
def test_nan_leads_to_normuon_and_fails_the_stability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, step = itertools.count(1), SimpleMuon.step

    def broken(optimizer: SimpleMuon) -> None:
        step(optimizer)
        plain = optimizer.param_groups[0]["normuon"] is None
        if plain and next(calls) % 20 == 0:
            for group in optimizer.param_groups:
                torch._foreach_mul_([parameter.detach() for parameter in group["params"]], math.nan)

    monkeypatch.setattr(SimpleMuon, "step", broken)
    code, data = judge(tmp_path)
    gates = {gate.name: gate for gate in judge_gates(GATES, data)}
    (row,) = (row for row in data["runs"] if (row["task"], row["optimizer"]) == ("stability", "Muon"))
    assert code == 1 and row["status"] == "done" and row["steps_not_finite"] == 10
    assert not gates["G5"].passed and "10 steps not finite" in gates["G5"].why
    assert f"NorMuon from step {row['fell_back_at_step']} on" in gates["G5"].muon
    assert gates["G3"].passed and gates["G7"].passed, "and it goes on"


@pytest.mark.usefixtures("in_place")
def test_a_slow_machine_drops_from_10_to_5_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By an orthogonalizer that sleeps where it has ten iterations."""
    polar = muon.polar.orthogonalize

    def slow(G: Tensor, **options: Any) -> Tensor:
        time.sleep(0.05 if options["steps"] == 10 else 0.0)
        return polar(G, **options)

    monkeypatch.setattr(muon.polar, "orthogonalize", slow)
    gates = dataclasses.replace(GATES, targets=dataclasses.replace(GATES.targets, steps_per_second=19.0))
    _, data = judge(tmp_path, gates)
    assert data["ns_steps"] == 5 and data["steps_per_second_before_the_drop"] < 19
    muons = [(row["task"], row["ns_steps"]) for row in data["runs"] if row["optimizer"] == "Muon"]
    assert muons == [("speed", 10)] * 3 + [("speed", 5)] * 3 + [(task, 5) for task, n in muons[6:]] and len(muons) == 12
    g4 = judge_gates(gates, data)[3]
    assert g4.passed and "with 5 iterations" in g4.muon and "with 10)" in g4.muon
    assert "going on with 5" in capsys.readouterr().err
    assert "it dropped to 5 iterations" in (tmp_path / "r" / "MINI_GATES_REPORT.md").read_text()


def test_iterations_by_speed() -> None:
    gates = dataclasses.replace(GATES, targets=dataclasses.replace(GATES.targets, steps_per_second=18.0))
    assert [gates.iterations_at(rate) for rate in (17.9, 18.0, math.inf)] == [5, 10, 10]


# --- every target, at its edge ---------------------------------------------------------------------------------------


def rows(data: dict[str, Any], task: str, optimizer: str = "Muon") -> list[dict[str, Any]]:
    return [row for row in data["runs"] if (row["task"], row["optimizer"]) == (task, optimizer)]


def change(task: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: [row.update(values) for row in rows(data, task)] and None


def race_at(share: float) -> Callable[[dict[str, Any]], None]:
    """Let Muon reach AdamW's final loss after this share of its steps on every seed."""

    def make(data: dict[str, Any]) -> None:
        for row, base in zip(rows(data, "race"), rows(data, "race", "AdamW"), strict=True):
            end = base["final_val_loss"]
            row["val"] = {"step": [1, share * base["steps"], base["steps"]], "loss": [end + 1, end, end - 1]}

    return make


def never_once(data: dict[str, Any]) -> None:
    race_at(0.1)(data)
    rows(data, "race")[1]["val"]["loss"] = [9.0, 8.0, 7.0]


def no_finite_step(data: dict[str, Any]) -> None:
    for optimizer in ("Muon", "AdamW"):
        for row in rows(data, "stability", optimizer):
            row |= {"status": "diverged", "steps_not_finite": row["steps"]}
            for name in ("first_loss", "largest_grad_norm", "lr_first", "lr_last", "steps_per_second"):
                row.pop(name, None)


TELEMETRY = {"step": [1, 8], "orthogonality_error": [0.1, 0.2], "rotation_hidden_rad": [0.1, 0.1],
             "rotation_embedding_rad": [0.1, 0.1], "rotation_head_rad": [0.1, 0.1]}  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "edit", "passes"),
    [
        ("G1", change("stability", telemetry=TELEMETRY | {"orthogonality_error": [0.9, 1.0, 5.0]}), True),
        ("G1", change("stability", telemetry=TELEMETRY | {"orthogonality_error": [0.9, 1.1, 5.0]}), False),
        ("G1", change("stability", telemetry=TELEMETRY | {"rotation_hidden_rad": [0.1, 0.0]}), False),
        ("G1", change("stability", telemetry={"step": []}), False),
        ("G1", change("stability", status="failed"), False),
        ("G2", change("stability", lr_first=0.11), False),
        ("G2", change("stability", lr_last=5e-5), False),
        ("G2", change("stability", lr_last=4.6e-5), False),
        ("G2", change("stability", telemetry=TELEMETRY | {"rotation_embedding_rad": [0.0, 0.1]}), False),
        ("G2", change("stability", first_loss=0.0), False),
        ("G2", no_finite_step, False),
        ("G3", change("overfit", final_val_bpb=0.99), True),
        ("G3", change("overfit", final_val_bpb=1.0), False),
        ("G4", change("speed", steps_per_second=1.0), True),
        ("G4", change("speed", steps_per_second=0.99), False),
        ("G4", lambda data: [row.pop("steps_per_second") for row in rows(data, "speed")] and None, False),
        ("G5", change("stability", steps=80), False),
        ("G5", change("stability", steps_not_finite=1), False),
        ("G5", change("stability", status="diverged"), False),
        ("G5", change("stability", status="missing"), False),
        ("G5", no_finite_step, False),
        ("G6", race_at(0.89), True),
        ("G6", race_at(0.91), False),
        ("G6", never_once, False),
        ("G6", lambda data: data["runs"].remove(rows(data, "race")[0]), False),
        ("G7", change("automata", final_val_loss=1.0), True),
        ("G7", change("automata", final_val_loss=100.0), False),
        ("G7", lambda data: [data["runs"].remove(row) for row in rows(data, "automata", "AdamW")], False),
    ],
)  # fmt: skip
def test_targets(
    data: dict[str, Any], gate: str, edit: Callable[[dict[str, Any]], None], passes: bool, tmp_path: Path
) -> None:
    data = copy.deepcopy(data)
    edit(data)
    (found,) = (g for g in judge_gates(GATES, data) if g.name == gate)
    assert found.passed == passes and bool(found.why) != passes
    _, judged = write_gates_report(GATES, data, tmp_path)
    assert (gate in overall(judged)) != passes


def test_the_race_by_hand(data: dict[str, Any]) -> None:
    race_at(0.5)(data)
    race = judge_gates(GATES, data)[5]
    assert race.muon == "50% fewer [50%, 50%]"
    rows(data, "race")[0]["val"]["step"][1] *= 1.9
    race = judge_gates(GATES, data)[5]
    assert race.muon.startswith("35% fewer [-") and not race.passed and race.why == "not beyond noise"
    race_at(0.95)(data)
    assert judge_gates(GATES, data)[5].why == "at most 5%"


def test_automata_are_measured_against_an_even_guess(data: dict[str, Any]) -> None:
    assert data["automata_vocabulary"] == 3**4 + 2
    change("automata", final_val_loss=math.log(83) - 0.5 - 1e-9)(data)
    assert judge_gates(GATES, data)[6].passed and judge_gates(GATES, data)[6].muon == "0.50 below"



# --- the command -----------------------------------------------------------------------------------------------------


def test_the_report_is_rebuilt_from_its_data(healthy: Path, tmp_path: Path) -> None:
    data = read_data(GATES, healthy / "r")
    path, _ = write_gates_report(GATES, data, tmp_path)
    assert path.read_text() == (healthy / "r" / "MINI_GATES_REPORT.md").read_text()
    other = dataclasses.replace(GATES, targets=dataclasses.replace(GATES.targets, overfit_bpb=0.4))
    with pytest.raises(InputError, match="was changed"):
        read_data(other, healthy / "r")


def test_the_index_has_a_row_a_gate(healthy: Path) -> None:
    write_index([GatesStudy(GATES)], healthy / "r")
    index = (healthy / "r" / "README.md").read_text()
    assert all(f"| {name}: " in index for name in ("G1", "G7")) and index.count("| PASS |") == 7
    assert "| – | [**PASS** of 7 gates](" in known_map([GatesStudy(GATES)], healthy / "r")
    other = dataclasses.replace(GATES, ns_steps_if_slow=4)
    assert "Not listed" in known_map([GatesStudy(other)], healthy / "r")


def places(folder: Path) -> list[str]:
    """The flags that say where everything is."""
    (folder / "text.txt").write_text(TEXT)
    return ["--data", f"{folder}/text.txt", "--out", f"{folder}/runs", "--reports", f"{folder}/r"]


@pytest.mark.parametrize(
    ("flags", "word"),
    [(["--seeds", "2"], "--seeds must be 3"), (["--jobs", "0"], "--jobs"), (["--report-only"], "no fini")],
)  # fmt: skip
def test_refusals(tmp_path: Path, flags: list[str], word: str) -> None:
    with pytest.raises(InputError, match=word):
        carry_out(GATES, [*places(tmp_path), *flags])


@pytest.mark.slow  # as a campaign is, tests/campaign/test_campaign.py
@pytest.mark.usefixtures("in_place")
def test_interrupted_the_same_command_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = places(tmp_path)
    assert carry_out(GATES, [*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("[to do]") == 18 + 3
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *words], stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    while len(list(tmp_path.glob("runs/*/record.json"))) < 7 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command continues" in errors, errors
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/record.json") if '"done"' in p.read_text()}
    code = carry_out(GATES, words)
    told = capsys.readouterr().out
    assert told.splitlines()[-2].startswith("mini_gates: ") and code == ("PASS" not in told.splitlines()[-2])
    assert kept and all(path.stat().st_mtime_ns == when for path, when in kept.items()), "nothing is repeated"
    report = (tmp_path / "r" / "MINI_GATES_REPORT.md").read_text()
    assert (carry_out(GATES, [*words, "--report-only"]), capsys.readouterr().out) == (code, told)
    assert (tmp_path / "r" / "MINI_GATES_REPORT.md").read_text() == report
