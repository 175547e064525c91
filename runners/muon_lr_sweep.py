"""Campaign C1: `python runners/muon_lr_sweep.py` -> reports/MUON_LR_SWEEP_REPORT.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from experiments.muon_lr_sweep import CAMPAIGN  # noqa: E402 (the checkout need not be installed)
from ngpt.campaign.command import main  # noqa: E402

if __name__ == "__main__":
    main(CAMPAIGN)
