"""Run the gates: `python runners/integration_gates.py` -> runs/reports/INTEGRATION_GATES_REPORT.md; 0 PASS, 1 FAIL."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the runs' processes import this file too and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from ngpt.errors import end_at_interrupt

    end_at_interrupt()  # until all is imported
    from experiments import INDEX
    from ngpt.campaign.engine import main

    main("integration_gates", INDEX)
