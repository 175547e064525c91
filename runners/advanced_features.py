"""Campaign C4: `python runners/advanced_features.py` -> reports/ADVANCED_FEATURES_REPORT.md."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the campaign's processes import this file as well, and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from experiments import INDEX, advanced_features
    from ngpt.campaign.command import main

    main(advanced_features.CAMPAIGN, INDEX)
