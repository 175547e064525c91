"""Campaign C5: `python runners/muon_ablations.py` -> reports/MUON_ABLATIONS_REPORT.md."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the campaign's processes import this file as well, and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from experiments import INDEX, muon_ablations
    from ngpt.campaign.command import main

    main(muon_ablations.CAMPAIGN, INDEX)
