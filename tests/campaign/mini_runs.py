"""Three runs of the small campaign on a Ray cluster: python mini_runs.py FOLDER HOST:PORT; without an address, here."""

import sys
from pathlib import Path

from mini_campaign import CAMPAIGN

from ngpt.campaign.definition.plan import Plan
from ngpt.campaign.execution.execute import execute
from ngpt.campaign.execution.launchers import RayLauncher
from ngpt.data.corpus import load_corpus

STEPS = 800


def main(folder: Path, *address: str) -> None:
    overrides = {"data": str(folder / "text.txt"), "steps": STEPS}
    digest = load_corpus(CAMPAIGN.configure(CAMPAIGN.arms()[0], 0, overrides, "tiny").data).digest
    plan = Plan(
        campaign=CAMPAIGN, preset="tiny", overrides=overrides, tuning_seeds=2, comparison_seeds=2, data_digest=digest,
        out=folder / "runs",
    )  # fmt: skip
    launcher = RayLauncher(address[0], gpu=False, threads=1) if address else None
    runs = plan.tuning_runs()[:3]
    outcome = execute(runs, out=folder / "runs", jobs=2, device="cpu", threads=1, launcher=launcher)
    assert not outcome.failures, outcome.failures


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
