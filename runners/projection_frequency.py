"""Campaign C3: `python runners/projection_frequency.py` -> reports/PROJECTION_FREQUENCY_REPORT.md."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the campaign's processes import this file as well, and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from experiments import INDEX, projection_frequency
    from ngpt.campaign.command import main

    main(projection_frequency.CAMPAIGN, INDEX)
