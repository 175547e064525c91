"""Campaign C2: `python runners/geodesic_muon.py` -> reports/GEODESIC_MUON_REPORT.md."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the campaign's processes import this file as well, and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from experiments import INDEX, geodesic_muon
    from ngpt.campaign.command import main

    main(geodesic_muon.CAMPAIGN, INDEX)
