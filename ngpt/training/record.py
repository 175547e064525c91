"""The run folder, a contract for other programs: `config.json`, `metrics.jsonl`, `record.json`. No torch.

A number that was not measured is absent, never 0.0.
"""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ngpt.config import is_a
from ngpt.errors import InputError
from ngpt.files import content_of, read_json, write_json

LONGEST_ROW = 4096
"""No row of metrics has as many bytes"""

Status = Literal["running", "done", "diverged", "failed", "killed"]


@dataclass(kw_only=True)
class RunRecord:
    """`record.json`: what ran, on what, and what came out."""

    run_id: str
    digest: str
    """of configuration, data and code (`ngpt.identity`); equal for the runs of one arm"""
    name: str
    """for people"""
    status: Status
    seed: int
    config: dict[str, Any]
    steps: int = 0
    """optimizer steps made, skipped ones included"""
    final_val_loss: float | None = None
    """nats per token"""
    final_val_bpb: float | None = None
    """bits per byte; absent where the tokens' byte lengths are not known"""
    eval_tokens: int | None = None
    """validation tokens behind the two figures"""
    tokens_per_second: float | None = None
    """tokens over seconds of the steps that count in `train_seconds`"""
    train_seconds: float = 0.0
    """the steps: batch, forward, backward, optimizer; without start-up, what measures, and files. A process's first
    step is start-up: it allocates, selects and compiles. By the clock of the configuration"""
    timed_steps: int = 0
    """steps that count in `train_seconds`"""
    eval_seconds: float = 0.0
    """validations and telemetry"""
    skipped_steps: int = 0
    """steps whose gradient was not finite"""
    fell_back_at_step: int | None = None
    """steps made when --nan-fallback took over; absent: it never did"""
    parameters: int | None = None
    weights_sha256: dict[str, str] = field(default_factory=dict)
    """digest of all weights after the first step ("first") and at the end ("final")"""
    peak_memory_bytes: int | None = None
    message: str | None = None
    """why the run failed or diverged"""
    orthogonaliser: str | None = None
    """of Muon: which code takes its products, in which precision"""
    engine: str | None = None
    """what carried the steps out: eager or compiled, and whether by CUDA graphs"""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    threads: int = 0
    ranks: int = 1
    """processes that carried the run out"""
    commit: str | None = None
    """git commit of the code, with + behind it if files were changed since"""
    data_name: str = ""
    data_digest: str = ""
    finished: str | None = None
    """date and time, UTC, of the end of a run that ended by itself"""

    def write(self, folder: Path) -> None:
        """Write `record.json` atomically."""
        content = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        write_json(folder / "record.json", content)


def read_record(folder: Path) -> RunRecord:
    """The record in `folder`. Raises InputError, naming the file, if it is damaged or not a record."""
    path = folder / "record.json"
    return record_of(read_json(path), str(path))


def record_of(content: Any, where: str) -> RunRecord:
    """A record of the fields in `content`. Raises InputError, beginning with `where`, unless it is one."""
    fields, hints = dataclasses.fields(RunRecord), get_type_hints(RunRecord)
    if not isinstance(content, dict):
        raise InputError(f"{where}: not a run record")
    strange = set(content) - {field.name for field in fields}
    missing = {field.name for field in fields if _required(field)} - set(content)
    if strange or missing:
        raise InputError(f"{where}: not a run record: {', '.join(sorted(strange | missing))}")
    for name, value in content.items():
        if not is_a(value, hints[name]) or (isinstance(value, int | float) and not 0 <= value < 2**63):
            raise InputError(f"{where}: not a run record: {name} is {value!r:.60}")
    return RunRecord(**content)


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def latest_metrics(folder: Path) -> dict[str, float] | None:
    """The last whole line of `metrics.jsonl`, of a run that may be going on; None before the first."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_ROW))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    return content_of(lines[-2].decode(), str(folder / "metrics.jsonl")) if len(lines) > 1 else None


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`; a last line that a kill cut off is left out, a damaged one elsewhere raises."""
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: damaged: {error}") from error
    if lines and not lines[-1].endswith("\n"):
        del lines[-1]
    return [content_of(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
