"""Campaign C1: `python runners/muon_lr_sweep.py` -> reports/MUON_LR_SWEEP_REPORT.md."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the campaign's processes import this file as well, and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from experiments import INDEX, muon_lr_sweep
    from ngpt.campaign.command import main

    main(muon_lr_sweep.CAMPAIGN, INDEX)
