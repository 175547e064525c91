"""Options that act around the step, on several ranks: the losses of one process, or one line that says why not."""

from pathlib import Path

import pytest
from small_runs import flags, outcome, ranks_of, start
from test_ranks import ended, only, same_losses, thirty

from ngpt.kernels import dense


@pytest.mark.parametrize("count", [2, 3])
def test_row_normalized_tokens_on_several_ranks(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    config = thirty(data, vocab_rule="rmnp", normuon="rows", normuon_matrices="mlp", constraint="frobenius")
    monkeypatch.setattr(dense, "BY_ONEDNN", False)
    expected = outcome(start(config, tmp_path / "one process")[0])
    ended(ranks_of(flags(config, tmp_path / "runs"), tmp_path / "errors", count, PLAIN_PRODUCTS=1))
    same_losses(only(tmp_path / "runs"), expected)


@pytest.mark.parametrize("option", ["--vocab-rule rmnp", "--constraint frobenius"])
def test_what_needs_whole_matrices_is_refused_where_they_are_sharded(data: str, tmp_path: Path, option: str) -> None:
    config = thirty(data, **{option.split()[0][2:].replace("-", "_"): option.split()[1]})
    arguments = flags(config, tmp_path / "runs", "--parallel", "fsdp")
    children = ranks_of(arguments, tmp_path / "errors", 2)
    assert [child.exit_code(60) for child in children] == [2, 2]
    assert f"{option} needs whole matrices" in children[0].errors.read_text()


@pytest.mark.parametrize("parallel", ["zero1", "fsdp"])
def test_the_average_of_the_weights_on_several_ranks(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: str
) -> None:
    config = thirty(data, tail_ema_steps=5, tail_ema_start=0.3)
    monkeypatch.setattr(dense, "BY_ONEDNN", False)
    expected = outcome(start(config, tmp_path / "one process")[0])
    assert expected != outcome(start(thirty(data), tmp_path / "without")[0])
    ended(ranks_of(flags(config, tmp_path / "runs", "--parallel", parallel), tmp_path / "errors", 2, PLAIN_PRODUCTS=1))
    same_losses(only(tmp_path / "runs"), expected)
