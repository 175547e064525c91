"""Collected data -> what is known where: the map of all answers, the index of reports, and `verdicts.jsonl`."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ngpt.campaign.definition.experiment import Experiment
from ngpt.campaign.definition.plan import ENDED
from ngpt.campaign.execution.collect import OutdatedDataError, data_path, read_data
from ngpt.campaign.report.words import millions, signed
from ngpt.errors import as_input_error
from ngpt.files import write_text

VERDICTS = "verdicts.jsonl"
"""name of the file with one line per answer; `verdicts.schema.json` beside it describes a line"""


def final_data(experiment: Experiment, reports: Path) -> dict[str, Any] | None:
    """Return an experiment's collected data; None if there are none, they are outdated, or runs are left."""
    if not data_path(reports, experiment.name).exists():
        return None
    try:
        data = read_data(experiment, reports)
    except OutdatedDataError:
        return None
    return None if runs_left(data) else data


def runs_left(data: dict[str, Any]) -> bool:
    """Return whether runs of a campaign have neither ended nor failed, so that its answers are not final."""
    return len(data["runs"]) < data.get("planned_runs", 0) or any(row["status"] not in ENDED for row in data["runs"])


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One answer as the index lists it."""

    question: str
    contrast: str
    """name of the comparison, shortened by what the question's other answers share"""
    answer: str
    effect: str
    """with interval and unit, or what was measured instead"""
    seeds: str


@dataclass(frozen=True, kw_only=True)
class VerdictLine:
    """One line of `verdicts.jsonl`: a contrast, its answer, and the scope in which it was found."""

    id: str
    """campaign, scale and contrast; unique in the file"""
    campaign: str
    question: str
    contrast: str
    answer: str | None
    """one of the four words; None for a control"""
    confirmed: bool | None
    """whether the prediction came true; None if there was none"""
    effect: float | None
    """paired difference, first minus second; None with fewer than two pairs"""
    low: float | None
    high: float | None
    """95% t interval of the effect"""
    unit: str
    smallest_effect: float
    seeds: int
    agreeing: int
    """seeds on which the contrast has the sign of the effect"""
    preset: str
    parameters: int | None
    tokens: int | None
    """training tokens of a run; None where runs end by the clock"""
    data: str
    arch: str
    control: bool
    date: str | None
    """of the last run"""
    commit: str | None
    report: str


class Indexed(ABC):
    """An experiment that the index can list: its answers, computed from its collected data."""

    experiment: Experiment

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.experiment.name

    @property
    def runner(self) -> str:
        """Name of the experiment's script in `runners/`."""
        return self.name

    def wherever_known(self, reports: Path) -> list["Indexed"]:
        """Return the experiment at each preset and on each text for which it has data of its own in `reports`."""
        return [self] if data_path(reports, self.name).exists() else []

    def read(self, reports: Path) -> dict[str, Any]:
        """Return the collected data in `reports`, as `read_data` does."""
        return read_data(self.experiment, reports)

    @abstractmethod
    def report(self, reports: Path) -> tuple[Path, list[str], bool]:
        """Write report and figures from the collected data in `reports`.

        Returns the report's path, the answers in lines for standard output, and whether the experiment succeeded.
        """

    @abstractmethod
    def listed(self, data: dict[str, Any]) -> list[Listed]:
        """Return every answer, question by question."""

    @abstractmethod
    def cells(self, data: dict[str, Any]) -> list[tuple[str, str, str]]:
        """Return each question, the smallest effect that matters, and the answers in one cell of the map."""

    def verdicts(self, data: dict[str, Any]) -> list[VerdictLine]:
        """Return the lines of `verdicts.jsonl`, for an experiment that compares methods."""
        return []


@dataclass(frozen=True, order=True)
class Scope:
    """A column of the map: a size and a text."""

    parameters: int
    preset: str
    data: str

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Scope":
        """Return the scope of collected data."""
        return cls(data["parameters"] or 0, data["preset"], data["data"])

    @property
    def name(self) -> str:
        """Name shown to people."""
        return f"`{self.preset}`{f' ({millions(self.parameters)})' if self.parameters else ''}, {self.data}"


def known_map(studies: Sequence[Indexed], reports: Path) -> str:
    """Return a table of questions down, sizes and texts across, with links to the reports beside it.

    An empty cell is a scope in which the question has not been asked; a cell has one entry per report that answers it.
    """
    found, note = _collected(studies, reports)
    scopes = sorted({Scope.of(data) for _, data in found})
    columns = ["question", "what matters", *(scope.name for scope in scopes)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    rows: dict[tuple[str, str], dict[Scope, list[str]]] = {}
    for study, data in found:
        for question, matters, answers in study.cells(data):
            cell = f"[{answers}]({study.experiment.report_name})"
            rows.setdefault((question, matters), {}).setdefault(Scope.of(data), []).append(cell)
    for (question, matters), cells in rows.items():
        answered = ["<br>".join(cells.get(scope, [])) for scope in scopes]
        lines.append(f"| {question} | {matters} | {' | '.join(answered)} |")
    return "\n".join(lines) + "\n" + note


def write_index(studies: Sequence[Indexed], reports: Path) -> None:
    """Write `README.md` and `verdicts.jsonl` in `reports`, from the experiments that have data there.

    Optimizers of the user's that were tried before keep their lines, as nothing here knows their campaigns any more.
    """
    found, _ = _collected(studies, reports)
    lines = [asdict(line) for study, data in found for line in study.verdicts(data)]
    others = _of_others(studies, reports)
    lines += others
    write_text(reports / VERDICTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    parts = [INTRODUCTION, _how_often(lines), known_map(studies, reports), "## Every answer\n"]
    for study, data in found:
        report, scope = study.experiment.report_name, Scope.of(data)
        parts.append(f"### [{study.experiment.title}]({report})\n\n{scope.name}; {(data['dates'] or ['–'])[-1]}.\n")
        listed = study.listed(data)
        for question in dict.fromkeys(one.question for one in listed):
            rows = [f"| {one.contrast} | {one.answer} | {one.effect} | {one.seeds} |"
                    for one in listed if one.question == question]  # fmt: skip
            parts.append(f"{question}\n\n{HEAD}" + "\n".join(rows) + "\n")
    for report in dict.fromkeys(line["report"] for line in others):
        mine = [line for line in others if line["report"] == report]
        scope = Scope(mine[0]["parameters"] or 0, mine[0]["preset"], mine[0]["data"])
        parts.append(f"### [{report}]({report})\n\n{scope.name}; {mine[0]['date'] or '–'}.\n")
        parts.append(HEAD + "\n".join(map(_row_of, mine)) + "\n")
    write_text(reports / "README.md", "\n".join(parts))


def read_verdicts(reports: Path) -> list[dict[str, Any]]:
    """Return the lines of `verdicts.jsonl` in `reports`; none without that file. Raises InputError if it is damaged."""
    path = reports / VERDICTS
    if not path.exists():
        return []
    with as_input_error(f"{path}: damaged; remove it", ValueError):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


HEAD = "| comparison | answer | effect [95% interval] | seeds |\n|---|---|---|---|\n"


def _of_others(studies: Sequence[Indexed], reports: Path) -> list[dict[str, Any]]:
    """Return the lines of the last `verdicts.jsonl` whose reports are there and are of none of these experiments."""
    own = {name for study in studies for name in (study.name, study.runner)}
    lines = read_verdicts(reports)
    return [line for line in lines if line["campaign"] not in own and (reports / line["report"]).exists()]


def _row_of(line: dict[str, Any]) -> str:
    """Return a row of a table of answers for a line of `verdicts.jsonl`."""
    effect = "–" if line["effect"] is None else f"{signed(line['effect'])} {line['unit']}"
    if line["low"] is not None:
        effect = f"{signed(line['effect'])} [{signed(line['low'])}, {signed(line['high'])}] {line['unit']}"
    return f"| {line['contrast']} | {line['answer'] or 'control'} | {effect} | {line['agreeing']} of {line['seeds']} |"


INTRODUCTION = """# Reports

Rows are questions; columns are the size of the model and the text. An empty cell has no published answer to this
question; a related one may be in another row. `tiny` is a quick look, with about a tenth of the tokens of `rung-1`:
where both are filled, trust the rung. Each answer follows thresholds fixed in the experiment's file before the runs:
**better**, **worse**, **no difference that matters**, or **undecided**. Until 2026-11-26 there were three other labels
([why](../docs/reports.md#why-the-reports-can-be-believed)). Where a question is about a difference of differences,
*better* and *worse* only say that it is below or above zero: a lead that is *worse* is a smaller lead. Effects are
differences of the final loss, first minus second, paired by seed: negative is lower. A token is a byte, except at
`155m`, where it is one of GPT-2's. The same data in machine-readable form are in [verdicts.jsonl](verdicts.jsonl).
Generated by the campaigns in `runners/`.

## What is known where
"""


def _how_often(lines: Sequence[dict[str, Any]]) -> str:
    """Return at how many sizes and texts the questions have been asked."""
    scopes: dict[str, set[tuple[str, str]]] = {}
    for line in lines:
        if not line["control"]:
            scopes.setdefault(line["question"], set()).add((line["preset"], line["data"]))
    once = sum(len(places) == 1 for places in scopes.values())
    if not scopes:
        return ""
    have = "has" if once == 1 else "have"
    return f"Of {len(scopes)} questions about methods, {once} {have} been asked at one size and on one text only.\n"


def _collected(studies: Sequence[Indexed], reports: Path) -> tuple[list[tuple[Indexed, dict[str, Any]]], str]:
    """Return the studies with data in `reports` of which no run is left to do, and a note that names the others."""
    found, outdated, unfinished = [], [], []
    for study in [known for one in studies for known in one.wherever_known(reports)]:
        report = study.experiment.report_name
        try:
            data = study.read(reports)
        except OutdatedDataError:
            outdated.append(f"{report} (`python runners/{study.runner}.py` rebuilds it)")
            continue
        if runs_left(data):
            unfinished.append(f"[{report}]({report}) (`{data['command']}` continues it)")
        else:
            found.append((study, data))
    notes = {
        "the experiment's file has changed since the data were collected": outdated,
        "runs are left to do": unfinished,
    }
    return found, "".join(f"\nNot listed, because {why}: {', '.join(them)}.\n" for why, them in notes.items() if them)
