"""Training steps of two checkouts side by side."""

from pathlib import Path

import pytest

from benchmarks.checkouts import compare, require_same_losses
from benchmarks.training_throughput import main
from ngpt.errors import InputError

ROOT = Path(__file__).parents[2]


def test_a_checkout_beside_itself_trains_the_same_model() -> None:
    fields = {"n_layer": 1, "n_embd": 16, "n_head": 2, "seq_len": 8, "batch_size": 2}
    seconds = compare(ROOT, fields, 32, compiled=False, threads=1, rounds=2)
    assert {name: len(times) for name, times in seconds.items()} == {
        "before": 2, "after": 2,
    }  # fmt: skip
    assert min(seconds["before"] + seconds["after"]) > 0


def test_checkouts_that_train_different_models_are_not_compared() -> None:
    require_same_losses([3.0, 2.5], [3.00001, 2.5])
    with pytest.raises(InputError, match="the checkouts train different models"):
        require_same_losses([3.0, 2.5], [3.0, 2.6])


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--against", str(tmp_path)])
    assert "no checkout" in capsys.readouterr().err
