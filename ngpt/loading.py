"""A finished run as objects to work with: `from ngpt import load_run`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ngpt.config import RunConfig, from_dict
from ngpt.data.cellular import Automaton
from ngpt.data.tokenizers import Tokenizer
from ngpt.errors import InputError, as_input_error, require
from ngpt.model import build_model
from ngpt.presets import default_tokenizer
from ngpt.training.checkpoint import read_tensors, tensors_sha256, unpack_state
from ngpt.training.record import WEIGHTS, RunRecord, read_record


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A run that ended with weights."""

    folder: Path
    model: nn.Module
    """in evaluation mode, on the CPU, in float32; (B, T) ids -> (B, T, V) logits, T at most `config.model.seq_len`"""
    tokenizer: Tokenizer | None
    """None for cellular automata, whose tokens stand for no text"""
    record: RunRecord
    config: RunConfig


@contextmanager
def _as_in_a_run() -> Iterator[None]:
    """Build on the CPU and in float32, whatever PyTorch's defaults are in this process."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(usual)


def load_run(folder: str | os.PathLike[str]) -> SavedRun:
    """Load the run in `folder` with its final weights.

    Raises InputError if `folder` is no run, if the run has no final weights, or if its files are damaged or do not
    belong together.
    """
    place = Path(folder)
    require((place / "record.json").is_file(), f"{place}: not the folder of a run: it has no record.json")
    record = read_record(place)
    path = place / WEIGHTS
    ended = record.status in ("done", "diverged")
    why = "it did not keep them, like runs of a campaign, or they were deleted" if ended else "it has not finished"
    require(path.is_file(), f"{place}: this run ({record.status}) has no final weights: {why}")
    with as_input_error(f"{place / 'record.json'}", InputError):
        config = from_dict(record.config)
    tensors, state = read_tensors(path)
    own = state.get("run_id") == record.run_id and tensors_sha256(tensors) == record.weights_sha256.get("final")
    require(own, f"{path}: not the final weights of the run in record.json")
    data, named = config.data.data, config.data.tokenizer
    kind = default_tokenizer(data) if named == "auto" else named
    tokenizer = None if kind == "patches" else Tokenizer(kind)
    vocab_size = Automaton.named(data).vocab_size if tokenizer is None else tokenizer.vocab_size
    with _as_in_a_run():
        model = build_model(config.model, vocab_size, seed=config.seed)
    weights = {f"model.{name}": weight for name, weight in tensors.items()}
    unpack_state(path, weights, dict(model.named_parameters()), {})
    return SavedRun(folder=place, model=model.eval(), tokenizer=tokenizer, record=record, config=config)
