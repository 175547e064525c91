"""Presets too large for the ordinary suite: `pytest -m slow`."""

from pathlib import Path

import numpy as np
import pytest

from ngpt.config import Runtime
from ngpt.data.shards import write_shard
from ngpt.presets import resolve
from ngpt.training.trainer import train


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize(("preset", "parameters"), [("155m-literal", 155_166_743), ("155m", 155_172_199)])
def test_one_step_of_the_large_presets(tmp_path: Path, preset: str, parameters: int) -> None:
    ids = np.random.default_rng(0).integers(0, 50257, 3000).astype(np.uint16)
    write_shard(tmp_path / "train.bin", ids)
    write_shard(tmp_path / "val.bin", ids[:600])
    config = resolve(preset, data=str(tmp_path), steps=1, batch_size=1, eval_tokens=128, dtype="float32")
    _, record = train(config, Runtime(out=tmp_path / "runs", keep_weights=False))
    assert (record.status, record.steps, record.parameters) == ("done", 1, parameters)
    assert record.weights_sha256["first"] and record.final_val_loss is not None and record.final_val_loss < 13
