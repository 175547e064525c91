"""Campaign C7: `python runners/nca_pretraining.py` -> reports/NCA_PRETRAINING_REPORT.md."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the campaign's processes import this file as well, and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from experiments import INDEX, nca_pretraining
    from ngpt.campaign.command import main

    main(nca_pretraining.CAMPAIGN, INDEX)
