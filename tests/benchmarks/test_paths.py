"""The comparison of paths: what it says of equal, of slightly different and of different losses."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import paths
from ngpt.files import read_json

SMALL = "--n-layer 1 --n-embd 24 --n-head 2 --seq-len 16 --batch-size 2 --steps 3 --eval-tokens 64"


def run(loss: float, digest: str) -> paths.Run:
    return {"final_val_loss": loss, "weights_sha256": {"final": digest}, "engine": "eager"}


PLAIN = [run(2.0, "a"), run(2.1, "b"), run(2.2, "c")]


@pytest.mark.parametrize(
    ("changes", "digests", "matters", "same"),
    [
        ((0.0, 0.0, 0.0), "abc", False, 3),
        ((0.001, -0.001, 0.0), "xbz", False, 1),
        ((0.03, 0.031, 0.032), "xyz", True, 0),
        ((0.1, -0.1, 0.0), "xyz", True, 0),  # too noisy to say that it does not
    ],
)
def test_no_effect_is_an_interval_within_what_matters(
    changes: tuple[float, ...], digests: str, matters: bool, same: int
) -> None:
    changed = [
        run(one["final_val_loss"] + change, digest) for one, change, digest in zip(PLAIN, changes, digests, strict=True)
    ]
    row = paths.row_of("path", changed, "plain", PLAIN)
    assert (row["no_effect_that_matters"], row["same_bits"]) == (not matters, same)


@pytest.mark.slow
def test_the_same_code_ends_in_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By real runs of the command, this checkout being also the other one."""
    monkeypatch.setattr(paths, "PATHS", {"cpu": {"plain": ""}, "cuda": {}})
    found: dict[str, Any] = {}
    path = tmp_path / "paths.json"
    arguments = ["--device", "cpu", "--seeds", "2", "--flags", SMALL, "--against", str(paths.ROOT), "--json", str(path)]
    assert paths.main(arguments) == 0
    found = read_json(path)
    (row,) = found["rows"]
    assert row["same_bits"] == 2 and row["difference"] == 0 and row["against"] == "plain"
    assert len(set(found["plain"])) == 2, "seeds differ"


def test_a_failing_run_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "PATHS", {"cpu": {"plain": ""}, "cuda": {}})
    with pytest.raises(RuntimeError, match="--n-layer must be positive"):
        paths.main(["--device", "cpu", "--flags", "--n-layer 0", "--json", str(tmp_path / "paths.json")])
