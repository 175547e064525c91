"""Whole runs on a GPU: `TRITON_INTERPRET=0 python -m pytest -m gpu -n 8`."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import killed, outcome, small, start

from ngpt.training.record import read_metrics, read_record

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(os.environ["TRITON_INTERPRET"] != "0", reason="needs TRITON_INTERPRET=0"),
    pytest.mark.filterwarnings("default"),  # PyTorch's compiler imports what PyTorch deprecates
]

RUNS: list[dict[str, Any]] = [
    {},
    {"dtype": "bfloat16", "compile": True},
    {"dtype": "bfloat16", "geodesic_muon": "lr-norm", "normuon": "rows", "momentum_transport": "parallel"},
    {"weight_decay": 0.1, "cautious_wd": True, "tangent": "before", "match_step": "angle"},
    {"optimizer": "adam", "dtype": "bfloat16"},
    {"arch": "ngpt", "momentum_start": 0.5},
    {"arch": "gpt", "optimizer": "adam"},
    {"optimizer": "torch.optim:SGD"},
    {"optimizer": "ngpt.rules:RMNP"},
]
"""Not Kaon: on a GPU, a singular value decomposition does not have the same bits twice."""


@pytest.mark.parametrize("options", RUNS, ids=lambda options: "-".join(map(str, options.values())) or "default")
def test_a_run_has_the_same_bits_however_it_is_carried_out(data: str, tmp_path: Path, options: dict[str, Any]) -> None:
    """With CUDA graphs, without, and interrupted and resumed."""
    config = small(data, **options)
    graphs, record = start(config, tmp_path / "graphs", device="cuda")
    assert record.status == "done" and record.device == torch.cuda.get_device_name(0)
    assert ("CUDA graphs" in record.engine) == (":" not in config.optim.optimizer)
    plain, _ = start(config, tmp_path / "plain", device="cuda", cuda_graphs=False)
    assert "CUDA graphs" not in read_record(plain).engine and outcome(plain) == outcome(graphs)
    folder = killed(config, tmp_path / "killed")
    start(config, tmp_path / "killed", resume=True)
    assert outcome(folder) == outcome(graphs)
    losses = [row["loss"] for row in read_metrics(graphs) if "loss" in row]
    assert losses[-1] < losses[0]


def test_a_run_ends_near_one_on_a_cpu(data: str, tmp_path: Path) -> None:
    losses = [start(small(data), tmp_path / name, device=name)[1].final_val_loss for name in ("cpu", "cuda")]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
