"""Run the campaign: `python runners/equal_time.py` -> runs/reports/EQUAL_TIME_REPORT.md."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the runs' processes import this file too and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from ngpt.errors import end_at_interrupt

    end_at_interrupt()  # until all is imported
    from experiments import INDEX
    from ngpt.campaign.engine import main

    main("equal_time", INDEX)
