"""Published answers: `verdicts.jsonl`, its schema, the prose beside them, the width of tables; none is stale."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from experiments import CAMPAIGNS, INDEX
from experiments.regenerate_docs import COMMAND
from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign
from ngpt.campaign.execution.collect import data_path, read_data
from ngpt.campaign.report.index import VERDICTS, runs_left, write_index

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"
FIRST = json.loads((ROOT / "tests" / "golden" / "first_answers.json").read_text(encoding="utf-8"))
"""Answers and numbers of the campaigns of the first stage, from before there were four words"""

PUBLISHED = [campaign for campaign in CAMPAIGNS if data_path(REPORTS, campaign.name).exists()]
WIDEST = 142
"""characters that a screen of 1,200 pixels shows in a line"""


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (REPORTS / VERDICTS).read_text(encoding="utf-8").splitlines()]


def test_the_verdicts_are_those_of_the_data(tmp_path: Path) -> None:
    shutil.copytree(REPORTS / "data", tmp_path / "data")
    write_index(INDEX, tmp_path)
    assert (tmp_path / VERDICTS).read_text() == (REPORTS / VERDICTS).read_text(), COMMAND


def test_every_line_is_of_the_schema_and_no_id_comes_twice() -> None:
    schema = json.loads((REPORTS / "verdicts.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    found = lines()
    for line in found:
        validator.validate(line)
        assert (line["answer"] is None) == line["control"] and line["agreeing"] <= line["seeds"]
        assert line["low"] <= line["effect"] <= line["high"]
        assert (REPORTS / line["report"]).exists()
    assert len({line["id"] for line in found}) == len(found) > 90
    anywhere = {
        campaign.name for campaign in CAMPAIGNS for place in CampaignStudy(campaign).wherever_known(REPORTS)
        if not runs_left(place.read(REPORTS))
    }  # fmt: skip
    assert {line["campaign"] for line in found} == anywhere >= {campaign.name for campaign in PUBLISHED}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(found[0] | {"answer": "refuted"})
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({key: value for key, value in found[0].items() if key != "seeds"})


def test_the_numbers_of_the_first_stage_stand_behind_the_new_words() -> None:
    """A prediction is confirmed exactly where it was called supported; no effect clear of zero changes sides."""
    compared = 0
    for campaign in PUBLISHED:
        data = read_data(campaign, REPORTS)
        if FIRST.get(campaign.name, {}).get("dates") != data["dates"]:
            continue  # made again, or new
        answers = {answer.contrast.name: answer for answer in analyze(campaign, data).answers}
        assert answers.keys() == FIRST[campaign.name]["answers"].keys()
        for name, (label, mean, low, high, n) in FIRST[campaign.name]["answers"].items():
            verdict, control = answers[name].verdict, answers[name].contrast.control
            assert verdict.effect is not None
            now = (verdict.effect.mean, verdict.effect.t_low, verdict.effect.t_high, verdict.effect.n)
            assert now == pytest.approx((mean, low, high, n), abs=1e-9)
            if campaign.rule.predicted in ("lower", "higher"):
                assert control or bool(verdict.confirmed) == (label == "supported"), name
            assert verdict.word != "better" or high < 0
            assert verdict.word != "worse" or low > 0
            compared += 1
    assert compared > 80


@pytest.mark.parametrize("experiment", [study.experiment for study in INDEX], ids=lambda experiment: experiment.name)
def test_what_is_published_says_what_it_does_not_show_and_what_follows(experiment: Campaign) -> None:
    if data_path(REPORTS, experiment.name).exists():
        for text in (experiment.does_not_show, experiment.follows):
            assert text.strip().endswith("."), "written once the results are there"


def test_every_figure_is_in_a_report_and_is_there_in_both_formats() -> None:
    texts = "".join(report.read_text(encoding="utf-8") for report in REPORTS.glob("*_REPORT.md"))
    shown = {name for name in re.findall(r"\(figures/([^)]*)\)", texts)}
    assert shown == {path.name for path in (REPORTS / "figures").iterdir()}
    assert {name.removesuffix(".png") for name in shown if name.endswith(".png")} == {
        name.removesuffix(".svg") for name in shown if name.endswith(".svg")
    }


def test_no_table_is_wider_than_a_screen() -> None:
    """Of what a reader sees: links and emphasis are not shown, and a cell may have several lines."""
    for report in sorted(REPORTS.glob("*_REPORT.md")):
        for line in report.read_text(encoding="utf-8").splitlines():
            if line.startswith("|") and "GATES" not in report.name:
                assert len(line.replace("**", "").replace("`", "")) <= WIDEST, f"{report.name}: {line}"


def test_every_report_shows_a_control_for_noise_where_one_has_been_run() -> None:
    """Its own, or those of other campaigns at the same preset, on the same text and as long."""
    found = lines()
    where = {(line["preset"], line["data"], line["tokens"]) for line in found if line["control"]}
    reports = {line["report"] for line in found if (line["preset"], line["data"], line["tokens"]) in where}
    assert len(reports) > 15
    without = [name for name in reports if "**Control: " not in (REPORTS / name).read_text(encoding="utf-8")]
    assert not without
