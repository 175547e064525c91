"""The benchmark of options, at a size that says nothing about speed: what it compares, and what it writes."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import step_options
from ngpt.files import read_json


def test_every_option_has_a_ratio_to_the_linear_step_of_its_round(tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    assert step_options.main(f"--widths 16 24 --steps 3 --threads 1 --json {path}".split()) == 0
    rows = read_json(path)["rows"]
    assert [(row["width"], row["option"]) for row in rows] == [(w, o) for w in (16, 24) for o in step_options.OPTIONS]
    linear = {row["width"]: row["seconds"] for row in rows if row["option"] == step_options.LINEAR}
    for row in rows:
        expected = np.median(np.divide(row["seconds"], linear[row["width"]]))
        assert row["times_linear"]["median"] == pytest.approx(expected)


@pytest.mark.parametrize("arguments", ["--steps 1", "--threads 0", "--widths 0", "--dtype float64"])
def test_bad_options_are_refused(arguments: str) -> None:
    with pytest.raises(SystemExit):
        step_options.parse(arguments.split())
