"""A campaign that goes on from collected data: what was carried out elsewhere is not repeated."""

import copy
import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ngpt.campaign.definition import Method
from ngpt.errors import InputError
from ngpt.files import read_json, write_json
from ngpt.machine import core_count

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import CAMPAIGN, SMALL, carry_out

SHORT = dataclasses.replace(CAMPAIGN, fields={**SMALL, "steps": 8})
TIMES = ("tokens_per_second", "train_seconds", "eval_seconds")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a whole campaign, and its data."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    assert carry_out(SHORT, flags(folder, folder / "there")) == 0
    return folder, read_json(folder / "there/reports/data/mini.json")


def flags(folder: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(folder / "text.txt"), "--out", str(out), *more]


def part(data: dict[str, Any], path: Path, *stages: str, device: str = "another machine") -> Path:
    """A file with the rows of these stages, the others missing, as from another machine."""
    content = copy.deepcopy(data) | {"dates": ["2026-01-01"]}
    content["environments"] = [{**content["environments"][0], "device": device}]
    for row in content["runs"]:
        if row["stage"] not in stages:
            row["status"] = "missing"
    write_json(path, content)
    return path


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = copy.deepcopy([{k: v for k, v in row.items() if k not in (*TIMES, "environment")} for row in rows])
    for row in kept:
        row["val"].pop("seconds")
    return kept


def test_a_campaign_goes_on_from_data_collected_elsewhere(
    begun: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, whole = begun
    known = str(part(whole, tmp_path / "part.json", "tuning"))
    here = flags(folder, tmp_path / "here", "--known", known)
    assert carry_out(SHORT, [*here, "--dry-run"]) == 0
    assert "16 runs, 12 finished; " in capsys.readouterr().out
    assert carry_out(SHORT, here) == 0
    carried_out = {path.parent.name for path in (tmp_path / "here").glob("*/record.json")}
    assert carried_out == {row["run_id"] for row in whole["runs"] if row["stage"] == "comparison"}
    data = read_json(tmp_path / "here/reports/data/mini.json")
    assert untimed(data["runs"]) == untimed(whole["runs"]), "the same results, to the bit"
    assert [(e["device"] == "another machine", e["runs"]) for e in data["environments"]] == [(True, 12), (False, 4)]
    places = {(row["stage"], row["environment"]) for row in data["runs"]}
    assert places == {("tuning", 0), ("comparison", 1)}
    assert data["dates"][0] == "2026-01-01" and len(data["dates"]) == 2 and "--known" not in data["command"]
    assert (data["parameters"], data["eval_tokens"]) == (whole["parameters"], whole["eval_tokens"])
    report = (tmp_path / "here/reports/MINI_REPORT.md").read_text()
    assert "another machine" in report and "Adam" in report


def test_data_of_two_machines_are_put_together(begun: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, whole = begun
    one = part(whole, tmp_path / "one.json", "tuning", device="first")
    two = part(whole, tmp_path / "two.json", "comparison", device="second")
    here = flags(folder, tmp_path / "here", "--known", str(one), "--known", str(two))
    assert carry_out(SHORT, here) == 0
    assert not list((tmp_path / "here").glob("*/record.json")), "no run is left"
    data = read_json(tmp_path / "here/reports/data/mini.json")
    assert untimed(data["runs"]) == untimed(whole["runs"])
    assert [(e["device"], e["runs"]) for e in data["environments"]] == [("first", 12), ("second", 4)]
    again = flags(folder, tmp_path / "again", "--known", str(tmp_path / "here/reports/data/mini.json"))
    assert carry_out(SHORT, [*again, "--report-only"]) == 0, "and what was put together can be passed on"
    passed_on = read_json(tmp_path / "again/reports/data/mini.json")
    assert (passed_on["runs"], passed_on["environments"]) == (data["runs"], data["environments"])


def test_runs_of_other_configurations_are_no_help(
    begun: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, whole = begun
    known = str(part(whole, tmp_path / "part.json", "tuning"))
    here = [*flags(folder, tmp_path / "here", "--known", known), "--report-only"]
    longer = dataclasses.replace(SHORT, fields={**SMALL, "steps": 9})
    with pytest.raises(InputError, match="no finished run of mini"):
        carry_out(longer, here)
    assert "0 of the 12 finished runs in --known are of this campaign" in capsys.readouterr().err
    more = dataclasses.replace(SHORT, methods=(*SHORT.methods, Method(name="more", fields={"optimizer": "muon",
                               "nesterov": False}, lrs=(0.01, 0.03, 0.1))))  # fmt: skip
    assert carry_out(more, here) == 0
    assert "12 of the 12 finished runs in --known are of this campaign" in capsys.readouterr().err


def test_a_report_alone_replaces_no_data_that_have_more_runs(
    begun: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, whole = begun
    known = str(part(whole, tmp_path / "part.json", "tuning"))
    here = flags(folder, tmp_path / "here", "--known", known)
    assert carry_out(SHORT, here) == 0
    collected = tmp_path / "here/reports/data/mini.json"
    data = collected.read_text()
    shutil.rmtree(next((tmp_path / "here").glob("*/record.json")).parent)
    assert carry_out(SHORT, [*here, "--report-only"]) == 0
    assert collected.read_text() == data
    assert "has more finished runs of this campaign than" in capsys.readouterr().err
    write_json(collected, read_json(collected) | {"code_digest": "of earlier code"})
    data = collected.read_text()
    assert carry_out(SHORT, [*here, "--report-only"]) == 0
    assert collected.read_text() == data, "whatever code they are of"


def test_a_run_that_failed_here_and_ended_elsewhere_has_ended(
    begun: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, whole = begun
    here = flags(folder, tmp_path, "--known", str(part(whole, tmp_path / "part.json", "tuning")))
    assert carry_out(SHORT, here) == 0
    taken = next(row for row in whole["runs"] if row["stage"] == "tuning")
    shutil.copytree(tmp_path / whole["runs"][-1]["run_id"], tmp_path / taken["run_id"])
    record = tmp_path / taken["run_id"] / "record.json"
    failed = {"run_id": taken["run_id"], "status": "failed", "message": "no space left"}
    write_json(record, read_json(record) | failed)
    (tmp_path / "reports/data/mini.json").unlink()
    assert carry_out(SHORT, [*here, "--report-only"]) == 0
    rows = read_json(tmp_path / "reports/data/mini.json")["runs"]
    assert {row["status"] for row in rows} == {"done"}


def test_a_campaign_with_known_runs_can_be_watched(
    begun: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, whole = begun
    known = tmp_path / "whole.json"
    write_json(known, whole)
    assert carry_out(SHORT, [*flags(folder, tmp_path / "here", "--known", str(known)), "--watch"]) == 0
    shown = capsys.readouterr().out
    assert "16 of 16 runs have ended" in shown and "effect so far" in shown


def test_a_report_alone_says_how_many_runs_there_were_at_a_time(
    begun: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = begun
    jobs = 1 + core_count()
    assert carry_out(SHORT, flags(folder, tmp_path, "--jobs", str(jobs))) == 0
    assert carry_out(SHORT, flags(folder, tmp_path, "--report-only")) == 0
    assert read_json(tmp_path / "reports/data/mini.json")["jobs"] == jobs


def test_a_tuning_run_that_failed_does_not_end_the_report(begun: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Another rate than its own is chosen, and the runs at that rate are collected again too."""
    folder, _ = begun
    assert carry_out(SHORT, flags(folder, tmp_path)) == 0
    whole = read_json(tmp_path / "reports/data/mini.json")
    (lost,) = [r for r in whole["runs"] if (r["stage"], r["method"], r["lr"], r["seed"]) == ("tuning", "Muon", 0.01, 1)]
    record = tmp_path / lost["run_id"] / "record.json"
    write_json(record, read_json(record) | {"status": "failed", "message": "no space left"})
    (tmp_path / "reports/data/mini.json").unlink()
    assert carry_out(SHORT, flags(folder, tmp_path, "--report-only")) == 1
    data = read_json(tmp_path / "reports/data/mini.json")
    assert [row["run_id"] for row in data["runs"]] == [row["run_id"] for row in whole["runs"]]
    assert {row["message"] for row in data["runs"] if row["status"] == "failed"} == {"no space left"}


def test_what_is_no_collected_data_is_refused_in_one_line(begun: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, whole = begun
    record = next((folder / "there").glob("*/record.json"))
    several = copy.deepcopy(whole) | {"environments": whole["environments"] * 2}
    for row in several["runs"]:
        del row["environment"]
    write_json(tmp_path / "old.json", several)
    write_json(tmp_path / "code.json", copy.deepcopy(whole) | {"code_digest": "0" * 64})
    write_json(tmp_path / "data.json", copy.deepcopy(whole) | {"data_digest": "0" * 64})
    for path, message in (
        (record, "not the collected data of a campaign"), (tmp_path / "old.json", "collected before rows said where"),
        (tmp_path / "none.json", "no such file"), (tmp_path / "code.json", "runs with other code, digest 000000000000"),
        (tmp_path / "data.json", "runs with other data, digest 000000000000"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{path.name}: {message}"):
            carry_out(SHORT, flags(folder, tmp_path / "here", "--known", str(path)))
    known = flags(folder, tmp_path / "here", "--known", str(part(whole, tmp_path / "part.json", "tuning")))
    with pytest.raises(InputError, match="--known: runs that end by the clock are compared on one machine only"):
        carry_out(dataclasses.replace(CAMPAIGN, budget_seconds=1.0), known)
    with pytest.raises(InputError, match="--reproduce repeats runs, and --known takes them from data"):
        carry_out(SHORT, [*known, "--reproduce"])
    assert not (tmp_path / "here").exists()


def test_weights_to_start_from_are_made_again(tmp_path: Path) -> None:
    """The runs that start from them are then the same, so they are taken from the data."""
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    start = {**SMALL, "steps": 4, "data": str(tmp_path / "text.txt")}
    first, *others = SHORT.methods
    campaign = dataclasses.replace(SHORT, methods=(dataclasses.replace(first, pretraining=start), *others))
    assert carry_out(campaign, flags(tmp_path, tmp_path / "there")) == 0
    known = str(tmp_path / "there/reports/data/mini.json")
    assert carry_out(campaign, flags(tmp_path, tmp_path / "here", "--known", known)) == 0
    data = read_json(tmp_path / "here/reports/data/mini.json")
    carried_out = {path.parent.name for path in (tmp_path / "here").glob("*/record.json")}
    assert carried_out == {row["run_id"] for row in data["runs"] if row["stage"] == "pretraining"} != set()
    whole = read_json(Path(known))
    assert untimed(data["runs"]) == untimed(whole["runs"])
