"""Methods that start from the weights of another run: carried out in order, identified, reported, reproduced."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mini_campaign import CAMPAIGN as PLAIN
from mini_campaign import carry_out, heed_interrupts
from mini_pretraining import AUTOMATA, BROKEN, CAMPAIGN
from safetensors.numpy import load_file

from ngpt.campaign.definition import Campaign
from ngpt.campaign.definition.plan import Plan
from ngpt.errors import InputError
from ngpt.files import read_json
from ngpt.training.record import read_record

SCRIPT = Path(__file__).with_name("mini_pretraining.py")
SOURCE = {"data": AUTOMATA, "seq_len": 30, "lr": 0.02}


def places(folder: Path, *flags: str) -> list[str]:
    paths = ["--data", folder / "text.txt", "--out", folder / "runs", "--reports", folder / "r"]
    return [*map(str, paths), "--steps", "8", *flags]


@pytest.mark.drawn
def test_runs_start_from_the_weights_of_their_seed_s_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{i} green bottles on a wall of {i * 5 % 11}\n" for i in range(400)))
    assert carry_out(CAMPAIGN, places(tmp_path, "--dry-run")) == 0
    plan = capsys.readouterr().out
    assert plan.count("  pretraining  muon-") == 2 and "tuning  2 seeds of Muon after automata" in plan
    assert "20 runs, 0 finished" in plan

    assert carry_out(CAMPAIGN, places(tmp_path)) == 0
    report = Path(capsys.readouterr().out.splitlines()[-1])
    data = read_json(tmp_path / "r" / "data" / "mini.json")
    sources = [row for row in data["runs"] if row["stage"] == "pretraining"]
    assert [row["seed"] for row in sources] == [0, 1, 20_000, 20_001] and data["planned_runs"] == len(
        data["runs"]
    ) == 20
    assert data["data"].endswith("text.txt") and data["training"]["steps"] == 8
    for row in data["runs"]:
        record = read_record(tmp_path / "runs" / row["run_id"])
        begins_from = record.config["train"]["init_from"]
        if row["method"] != "Muon after automata":
            assert begins_from is None
            continue
        (source,) = (s for s in sources if s["seed"] == row["seed"])
        assert Path(begins_from).name == source["run_id"]
    kept = {path.parent.name for path in (tmp_path / "runs").glob("*/weights.safetensors")}
    assert kept == {row["run_id"] for row in sources}
    norms = np.linalg.norm(
        load_file(tmp_path / "runs" / sources[0]["run_id"] / "weights.safetensors")["head.weight"], axis=1
    )
    assert norms.shape == (3**4 + 2,) and np.abs(norms - 1).max() < 1e-6

    text = report.read_text()
    assert (
        "## The automata" in text
        and "3 states on 4 x 4 cells" in text
        and "| pre-training with muon | 0.02 | 4 |" in text
    )
    assert (report.parent / "figures" / "mini_automata.png").stat().st_size > 10_000

    report.unlink()
    assert carry_out(CAMPAIGN, places(tmp_path, "--report-only")) == 0 and report.read_text() == text
    capsys.readouterr()
    assert carry_out(CAMPAIGN, places(tmp_path, "--reproduce")) == 0
    assert capsys.readouterr().out.endswith("3 of 3 runs have the published weights to the bit\n")


def test_nothing_starts_from_a_source_that_has_no_weights(tmp_path: Path) -> None:
    """The runner says so and stops."""
    (tmp_path / "text.txt").write_text("".join(f"{i} bottles\n" for i in range(400)))
    with pytest.raises(InputError, match=r"(?s)no finished run.*--seq-len"):
        carry_out(BROKEN, places(tmp_path))
    assert not (tmp_path / "r" / "MINI_REPORT.md").exists()


@pytest.mark.slow
def test_interrupted_before_its_sources_are_done_a_campaign_continues(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{i} bottles\n" for i in range(400)))
    command = [sys.executable, SCRIPT, *places(tmp_path, "--jobs", "1")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/weights.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"the same command continues" in error and b"Traceback" not in error, error
    assert carry_out(CAMPAIGN, places(tmp_path)) == 0
    assert read_json(tmp_path / "r" / "data" / "mini.json")["planned_runs"] == 20


def test_the_source_is_part_of_what_a_campaign_is() -> None:
    def with_source(**fields: object) -> Campaign:
        methods = (PLAIN.methods[0], dataclasses.replace(PLAIN.methods[1], pretraining={**SOURCE, **fields}))
        return dataclasses.replace(PLAIN, methods=methods)

    digests = {with_source().digest, with_source(lr=0.03).digest, PLAIN.digest}
    assert len(digests) == 3 and with_source().digest == with_source().digest
    plan = Plan(campaign=with_source(), preset="tiny", overrides={"steps": 3}, tuning_seeds=2, comparison_seeds=2,
                data_digest="0")  # fmt: skip
    (one, two) = plan.pretraining_runs("tuning")
    assert one.config.train.steps != 3 and one.config.optim.optimizer == "adam" and (one.seed, two.seed) == (0, 1)
    assert plan.count() == 2 * 6 + 2 * 2 + 2 * 2
    with pytest.raises(InputError, match="record.json"):
        plan.tuning_runs()
