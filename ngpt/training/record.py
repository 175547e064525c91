"""Record and metrics of a run, which other programs may rely on: `record.json`, `metrics.jsonl`. No torch.

A number that was not measured is absent, never 0.0.
"""

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ngpt.config import is_a
from ngpt.errors import InputError, as_input_error, require
from ngpt.files import content_of, read_json, write_json

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
FILES = ("record.json", "config.json", "metrics.jsonl", CHECKPOINT, WEIGHTS)
"""All files of a run"""


@dataclass(kw_only=True)
class RunRecord:
    """The content of `record.json`: what ran, on what, and what came out."""

    run_id: str
    digest: str
    """digest of configuration, data and code (`ngpt.identity`); equal for the runs of one arm"""
    name: str
    status: Literal["running", "done", "diverged", "failed", "killed"]
    seed: int
    config: dict[str, Any]
    steps: int = 0
    """optimizer steps made, including skipped ones"""
    final_val_loss: float | None = None
    """nats per token"""
    final_val_bpb: float | None = None
    """bits per byte; absent if the byte lengths of tokens are not known"""
    eval_tokens: int | None = None
    """validation tokens over which the two are taken"""
    tokens_per_second: float | None = None
    """tokens per second of the steps that count in `train_seconds`"""
    train_seconds: float = 0.0
    """time of the steps (batch, forward, backward, optimizer) by the clock of the configuration, without start-up (each
    process's first step), evaluation and files"""
    timed_steps: int = 0
    """steps that count in `train_seconds`"""
    eval_seconds: float = 0.0
    """time of validations and telemetry"""
    skipped_steps: int = 0
    """steps that were not made, as their gradient was not finite"""
    fell_back_at_step: int | None = None
    """steps made when --nan-fallback took over; absent if it never did"""
    parameters: int | None = None
    weights_sha256: dict[str, str] = field(default_factory=dict)
    """digest of all weights after the first step ("first") and at the end ("final")"""
    peak_memory_bytes: int | None = None
    message: str | None = None
    """why the run failed or diverged"""
    limited_by: list[str] | None = None
    """what still held the run back at its end, rather than its optimizer: "logit scale" (`LogitScale.limits`); absent
    where nothing was found"""
    orthogonalizer: str | None = None
    """Muon only: which code computes its matrix products, and in which precision"""
    optimizer_origin: str | None = None
    """where the optimizer's class comes from, if the user named one: package and version, or file and digest"""
    engine: str | None = None
    """how steps were run: eager or compiled, by CUDA graphs or not, on how many ranks"""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    threads: int = 0
    ranks: int = 1
    commit: str | None = None
    """git commit of the code, followed by + if tracked files differ from it"""
    data_name: str = ""
    data_digest: str = ""
    finished: str | None = None
    """date and time (UTC) of the end of a run that ended by itself"""

    def write(self, folder: Path) -> None:
        """Write `record.json` atomically."""
        content = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        write_json(folder / "record.json", content)


def read_record(folder: Path) -> RunRecord:
    """Read the record in `folder`. Raises InputError, naming the file, if it is damaged or not a record."""
    path = folder / "record.json"
    return record_of(read_json(path), str(path))


def record_of(content: Any, where: str) -> RunRecord:
    """Return the record with the fields in `content`. Raises InputError, starting with `where`, if they are wrong."""
    fields, hints = dataclasses.fields(RunRecord), get_type_hints(RunRecord)
    require(isinstance(content, dict), f"{where}: not a run record")
    required = {f.name for f in fields if dataclasses.MISSING is f.default is f.default_factory}
    wrong = (set(content) - {field.name for field in fields}) | (required - set(content))
    require(not wrong, f"{where}: not a run record: {', '.join(sorted(wrong))}")
    for name, value in content.items():
        if not is_a(value, hints[name]) or (isinstance(value, int | float) and not 0 <= value < 2**63):
            raise InputError(f"{where}: not a run record: {name} is {value!r:.60}")
    return RunRecord(**content)


def latest_metrics(folder: Path) -> dict[str, float] | None:
    """Return the last complete row of `metrics.jsonl`, also of a run in progress; None if there is none yet."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))  # a row is shorter
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    path = folder / "metrics.jsonl"
    with as_input_error(f"{path}: damaged", UnicodeDecodeError):
        return content_of(lines[-2].decode(), str(path)) if len(lines) > 1 else None


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of `metrics.jsonl` without a last line that a kill cut off; any other damage is an InputError."""
    path = folder / "metrics.jsonl"
    with as_input_error(f"{path}: damaged", UnicodeDecodeError):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        del lines[-1]
    return [content_of(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def missing_rows(steps: Iterable[float], last: int, log_every: int) -> int:
    """Return how many rows of metrics that a run of `last` steps logs for certain are not among those of `steps`."""
    return len(set(range(log_every, last + 1, log_every)).difference(steps))
