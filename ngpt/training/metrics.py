"""`metrics.jsonl`: a line with a checksum for each logged step, as it happens; cut back to the checkpoint on resume."""

from pathlib import Path
from types import TracebackType
from typing import Self

from ngpt.files import json_text, naming, write_text
from ngpt.training.record import read_metrics


class MetricsFile:
    """Appends rows; a context manager that closes the file."""

    def __init__(self, folder: Path, *, keep_to_step: int) -> None:
        """Keep the rows up to `keep_to_step` steps, drop what a killed run wrote after its checkpoint."""
        path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(folder) if row["step"] <= keep_to_step] if path.exists() else []
        write_text(path, "".join(json_text(row) for row in kept))
        self.path = path
        self.file = path.open("ab", buffering=0)

    def write(self, row: dict[str, float]) -> None:
        """Append one row; numbers that are not finite are left out, since they were not measured.

        Raises InputError if the disk is full; what is then left of the row is a line that a reader leaves out.
        """
        finite = {key: value for key, value in row.items() if abs(value) < float("inf")}
        left = json_text(finite).encode()
        with naming(self.path):
            while left:
                left = left[self.file.write(left) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
