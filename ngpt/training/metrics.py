"""`metrics.jsonl`: one line with a checksum for each logged step, written at once; cut back on resume."""

from contextlib import AbstractContextManager
from pathlib import Path

from ngpt.files import json_text, write_errors_named, write_text
from ngpt.training.record import missing_rows, read_metrics


class MetricsFile(AbstractContextManager["MetricsFile"]):
    """Appends rows to the metrics of a run; a context manager that closes the file."""

    def __init__(self, folder: Path, *, keep_to_step: int, log_every: int = 1) -> None:
        """Open the file, without the rows beyond `keep_to_step` that a killed run wrote after its checkpoint."""
        path = folder / "metrics.jsonl"
        rows = read_metrics(folder) if path.exists() else []
        self.written = int(rows[-1]["step"]) if rows else 0
        """step of the last row that was in the file"""
        kept = [row for row in rows if row["step"] <= keep_to_step]
        self.missing = missing_rows((row["step"] for row in kept), keep_to_step, log_every)
        """number of rows up to that step that were logged and are gone"""
        write_text(path, "".join(map(json_text, kept)))
        self.path = path
        self.file = path.open("ab", buffering=0)

    def write(self, row: dict[str, float]) -> None:
        """Append one row, without numbers that are not finite: those count as not measured.

        Raises InputError if the disk is full; readers skip the incomplete line that may be left.
        """
        finite = {key: value for key, value in row.items() if abs(value) < float("inf")}
        left = json_text(finite).encode()
        with write_errors_named(self.path):
            while left:
                left = left[self.file.write(left) :]

    def __exit__(self, *_: object) -> None:
        self.file.close()
