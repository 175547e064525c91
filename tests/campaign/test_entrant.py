"""An optimizer of the user's against tuned opponents: rates at equal angles, and a whole small campaign."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngpt.campaign import engine, entrant
from ngpt.campaign.definition.experiment import slug
from ngpt.campaign.entrant import EntrantStudy, grid_around, rates_and_angle
from ngpt.doctor import runs_in
from ngpt.errors import InputError
from ngpt.files import read_json, write_json
from ngpt.training.record import read_record

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import SMALL

ROOT = Path(__file__).parents[2]
RULE = f"{ROOT}/examples/my_rule.py:MyRule"
FIELDS: dict[str, Any] = {**SMALL, "schedule": "linear"}

IDLE_AT_TIMES = """
import torch


class Still(torch.optim.SGD):
    \"\"\"Moves nothing that is 16 wide: the trial's matrices are not.\"\"\"

    def step(self):
        for group in self.param_groups:
            for W in group["params"]:
                if 16 in W.shape:
                    W.grad = None
        super().step()
"""


AVERAGED = """
import torch


class Averaged(torch.optim.SGD):
    \"\"\"Says that it validates with other weights than those it trains.\"\"\"

    def train(self):
        pass

    def eval(self):
        pass
"""

LOST = """
import torch


class Lost(torch.optim.SGD):
    \"\"\"Makes whatever is 16 wide infinite.\"\"\"

    @torch.no_grad()
    def step(self):
        super().step()
        for group in self.param_groups:
            for W in group["params"]:
                if 16 in W.shape:
                    W.fill_(float("nan"))
"""

INTERRUPTED = """
import os
import signal

import torch


class Interrupted(torch.optim.SGD):
    \"\"\"Is interrupted at its ninth step on matrices that are 16 wide.\"\"\"

    def step(self):
        super().step()
        if any(16 in W.shape for group in self.param_groups for W in group["params"]):
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps == 9:
                os.kill(os.getpid(), signal.SIGINT)
"""

SECANT = """
import torch


class Secant(torch.optim.Optimizer):
    \"\"\"Steps against the gradient over its last change.\"\"\"

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for W in group["params"]:
                last = self.state[W].get("last", torch.zeros_like(W))
                change = W.grad - last
                W -= group["lr"] * W.grad.sign() * (change / change).square()
                self.state[W]["last"] = W.grad.clone()
"""


@pytest.fixture(scope="module")
def small_campaigns() -> Iterator[None]:
    """Three rates, two auxiliary ones, two tuning seeds and eight steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entrant, "FACTORS", (0.5, 1.0, 2.0))
        patch.setattr(entrant, "AUX_LRS", (0.005, 0.01))
        patch.setattr(entrant, "TUNING_SEEDS", 2)
        patch.setattr(entrant, "TINY_STEPS", 8)
        yield


def flags_in(folder: Path) -> list[str]:
    """The flags of a campaign on a text, both in a folder."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    return ["--data", str(folder / "text.txt"), "--out", str(folder / "out")]


@pytest.fixture
def arguments(small_campaigns: None, tmp_path: Path) -> list[str]:
    return flags_in(tmp_path)


def quick_in(folder: Path, rule: str = RULE) -> list[str]:
    """The words of a campaign of the example at given rates."""
    return [rule, *flags_in(folder), "--lrs", "0.01", "0.02", "0.04"]


@pytest.fixture(scope="module")
def carried_out(small_campaigns: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which that campaign has been carried out."""
    folder = tmp_path_factory.mktemp("quick")
    assert carry_out(quick_in(folder)) == 0
    return folder


@pytest.fixture
def quick(carried_out: Path, tmp_path: Path) -> list[str]:
    """The words of that campaign in `tmp_path`, where it has been carried out."""
    shutil.copytree(carried_out, tmp_path, dirs_exist_ok=True)
    return quick_in(tmp_path)


def carry_out(arguments: list[str]) -> int:
    fields = {key: value for key, value in SMALL.items() if key != "aux_lr"}
    return engine.carry_out(EntrantStudy(["muon_lr_sweep"], fields), arguments)


def test_names_as_files() -> None:
    assert slug("MyRule") == "my_rule" and slug("SOAP") == "soap" and slug("a b/c") == "a_b_c"


@pytest.mark.parametrize("arguments", ["", "momentum=0.5"])
def test_pytorchs_muon_turns_vectors_as_far_as_the_built_in_one(arguments: str, tmp_path: Path) -> None:
    """So that their rates at equal angles are equal."""
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    fields = {**FIELDS, "data": str(tmp_path / "text.txt")}
    words = " ".join(["weight_decay=0.0", *([arguments] if arguments else [])])
    given = [{"optimizer": "torch.optim:Muon", "optimizer_args": words}]
    (middle,), angle = rates_and_angle(given, "tiny", fields, "cpu")
    assert middle == pytest.approx(0.03, rel=0.1) and 0.005 < angle < 0.05
    assert grid_around(0.0312) == (0.0078, 0.016, 0.031, 0.062, 0.12)


def test_a_whole_campaign(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert carry_out([RULE, *arguments, "--dry-run"]) == 0
    assert "70 runs, 0 finished" in capsys.readouterr().out
    assert carry_out([RULE, *arguments]) == 0
    text = (tmp_path / "out" / "reports" / "MY_RULE_REPORT.md").read_text()
    assert "# MyRule against Muon and Adam" in text and "70 runs planned: 70 done." in text
    headline = next(line for line in text.splitlines() if line.startswith("**On a "))
    assert headline.count(" nats per token ") == 3 and headline.count("MyRule") >= 3, "against Muon, Adam, equal angle"
    assert "| Muon, other batches | control |" in text and "| MyRule, equal angle | **" in text
    assert "**Which methods end lower than a tuned Muon?** No prediction was made." in text
    assert "than a tuned Adam?**" in text and "**What follows.** `tiny` is a quick look." in text
    assert "with `momentum=0.95`, or by an opponent" in text
    assert "it descends." in text and f"python runners/try_optimizer.py {RULE}" in text
    rates = next(line for line in text.splitlines() if line.startswith("| MyRule | 0."))
    assert carry_out([RULE, *arguments, "--report-only"]) == 0
    assert rates in (tmp_path / "out" / "reports" / "MY_RULE_REPORT.md").read_text(), "the same rates again"
    assert carry_out([RULE, *arguments, "--reproduce"]) == 0


def test_a_report_of_other_code_is_not_made_again_from_old_data(quick: list[str], tmp_path: Path) -> None:
    assert carry_out([*quick, "--report-only"]) == 0
    rule = tmp_path / "my_rule.py"
    rule.write_text((ROOT / "examples" / "my_rule.py").read_text().replace("0.95", "0.5"))
    with pytest.raises(InputError, match=r"my_rule\.json: of other classes than these, or of other arguments"):
        carry_out([*quick_in(tmp_path, f"{rule}:MyRule"), "--report-only"])


def test_rates_measured_at_another_preset_are_refused(quick: list[str], tmp_path: Path) -> None:
    known = str(tmp_path / "out" / "reports" / "data" / "my_rule.json")
    with pytest.raises(InputError, match=r"my_rule\.json: measured at the preset tiny"):
        carry_out([*quick, "--preset", "rung-1", "--known", known, "--dry-run"])


def test_another_text_has_a_report_of_its_own_if_it_has_a_name(quick: list[str], tmp_path: Path) -> None:
    data, other = tmp_path / "out" / "reports" / "data" / "my_rule.json", tmp_path / "other.txt"
    before = data.read_bytes()
    other.write_text("five boxing wizards jump quickly at the lazy dog\n" * 100)
    quick[quick.index("--data") + 1] = str(other)
    with pytest.raises(InputError, match=r"my_rule\.json: results on text\.txt: give --text NAME for results"):
        carry_out(quick)
    assert carry_out([*quick, "--text", "Boxing wizards"]) == 0
    assert read_json(data.with_name("my_rule_on_boxing_wizards.json"))["data"] == "Boxing wizards"
    assert (tmp_path / "out" / "reports" / "MY_RULE_ON_BOXING_WIZARDS_REPORT.md").exists()
    assert data.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["muon"], "muon: must be path/file.py:Class or package.module:Class"),
        ([RULE, "--name", "Muon, mine"], "Muon, mine is the name of another method or campaign"),
        ([RULE, "--name", "muon lr sweep"], "is the name of another method or campaign"),
        (["torch.optim:Muon"], "Muon is the name of another method or campaign: give --name another one"),
        ([RULE, "--publish"], "--publish is for the repository's own campaigns"),
        ([RULE, "--lrs", "0.1", "0.05", "0.2"], "--lrs must be positive and increasing"),
        ([RULE, "--optimizer-args", "memory=0.5"], "unexpected keyword argument 'memory'"),
        (["torch.optim:LBFGS"], "LBFGS doesn't support per-parameter options"),
        ([RULE, "--against", "muon", "sgd"], "--against sgd: must be muon, geodesic-muon, normuon, adam, or a class"),
        ([RULE, "--against", "muon", RULE], "MyRule is the name of another method or campaign"),
        ([RULE, "--against", "muon", "torch.optim:Muon"], "--against names two of one name: Muon, Muon"),
    ],
)
def test_what_makes_no_campaign_says_why(arguments: list[str], words: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        carry_out([*words, *arguments])


def test_classes_as_opponents_and_another_constraint(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    against = ["muon", "ngpt.rules:Nora nesterov=True"]
    words = ["ngpt.rules:MuonH", *arguments, "--constraint", "none", "--against", *against]
    assert carry_out([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "5 seeds of MuonH at" in printed and "5 seeds of Nora at" in printed and "note:" not in printed
    assert carry_out(words) == 0
    text = (tmp_path / "out" / "reports" / "MUON_H_REPORT.md").read_text()
    assert "# MuonH against Muon and Nora" in text and "Does MuonH end lower than a tuned Nora?" in text
    records = [read_record(folder) for folder in runs_in(tmp_path / "out")]
    fields = ("optimizer", "constraint", "optimizer_args")
    used = {tuple(record.config["optim"][name] for name in fields) for record in records}
    nora = ("ngpt.rules:Nora", "vectors", "nesterov=True")
    assert used == {("ngpt.rules:MuonH", "none", ""), nora, ("muon", "vectors", "")}
    with pytest.raises(InputError, match="of other classes than these"):
        carry_out([*words[:-1], "--report-only"])
    with pytest.raises(InputError, match="of other classes than these, or of other arguments"):
        carry_out([*words[:-1], "ngpt.rules:Nora", "--report-only"])
    assert carry_out([RULE, *arguments, "--against", "muon", "ngpt.rules:MuonH", "--dry-run"]) == 0
    assert "5 seeds of MuonH at" in capsys.readouterr().out, "which keeps a norm of its own and is not projected"


def test_one_that_cannot_be_rescaled_is_not_compared_at_equal_angles(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for rule, compared in ((RULE, True), ("ngpt.rules:EmaNesterov", False)):
        assert carry_out([rule, *arguments, "--dry-run"]) == 0
        assert ("equal angle" in capsys.readouterr().out) == compared


def test_one_that_ascends_is_said_to(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = (ROOT / "examples" / "my_rule.py").read_text()
    (tmp_path / "up.py").write_text(source.replace("W -= group", "W += group"))
    assert carry_out([f"{tmp_path}/up.py:MyRule", *arguments, "--dry-run"]) == 0
    assert re.search(r"note: MyRule does not descend: its moves have a cosine of \+0\.\d\d", capsys.readouterr().out)


def test_one_that_a_run_would_refuse_is_refused_by_a_dry_run(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "averaged.py").write_text(AVERAGED)
    with pytest.raises(InputError, match="it has methods train and eval"):
        carry_out([f"{tmp_path}/averaged.py:Averaged", *arguments, "--dry-run"])


def test_one_that_does_not_turn_vectors_here_is_caught(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "still.py").write_text(IDLE_AT_TIMES)
    with pytest.raises(InputError, match="turns vectors by 0 rad a step at lr 0.001"):
        carry_out([f"{tmp_path}/still.py:Still", *arguments])


def test_one_whose_weights_are_lost_at_once_is_caught(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "lost.py").write_text(LOST)
    with pytest.raises(InputError, match="turns vectors by nan rad a step at lr 0.001"):
        carry_out([f"{tmp_path}/lost.py:Lost", *arguments])


def test_an_interrupt_while_angles_are_measured_ends_the_campaign(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    with pytest.raises(KeyboardInterrupt):
        carry_out([f"{tmp_path}/interrupted.py:Interrupted", *arguments])
    assert not (tmp_path / "out").exists(), "no run has begun"


def test_one_that_divides_by_the_change_of_the_gradient_gets_its_report(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the gradient stays the same there is no number for its descent."""
    (tmp_path / "secant.py").write_text(SECANT)
    assert carry_out([f"{tmp_path}/secant.py:Secant", *arguments, "--lrs", "0.01", "0.02", "0.04"]) == 0
    assert "the moves of Secant are not finite" in capsys.readouterr().out
    reports = tmp_path / "out" / "reports"
    assert read_json(reports / "data" / "secant.json")["along_the_gradient"] is None
    assert "its moves are **not finite**" in (reports / "SECANT_REPORT.md").read_text()


def test_one_that_fails_where_the_gradient_stays_the_same_is_refused(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "secant.py").write_text(SECANT.replace("W -= ", "assert change.abs().min() > 0; W -= "))
    with pytest.raises(InputError, match="it fails where the gradient stays the same: .*AssertionError"):
        carry_out([f"{tmp_path}/secant.py:Secant", *arguments])


def test_a_file_of_data_cannot_name_the_code_that_runs(quick: list[str], tmp_path: Path) -> None:
    """Published data with another class in their commands are not reproduced."""
    data = tmp_path / "out" / "reports" / "data" / "my_rule.json"
    (tmp_path / "other.py").write_text("raise SystemExit(1)\n")
    content = read_json(data)
    commands = {run: text.replace(RULE, f"{tmp_path}/other.py:Other") for run, text in content["commands"].items()}
    assert commands != content["commands"]
    write_json(data, content | {"commands": commands})
    with pytest.raises(InputError, match="other.py:Other, which this campaign does not"):
        carry_out([*quick, "--reproduce"])
