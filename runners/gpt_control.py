"""Run the campaign: `python runners/gpt_control.py` -> runs/reports/GPT_CONTROL_REPORT.md."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the runs' processes import this file too and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from ngpt.errors import end_at_interrupt

    end_at_interrupt()  # until all is imported
    from experiments import INDEX
    from ngpt.campaign.engine import main

    main("gpt_control", INDEX)
