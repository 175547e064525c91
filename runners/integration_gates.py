"""Gates C6: `python runners/integration_gates.py` -> reports/INTEGRATION_GATES_REPORT.md; exit code 0 PASS, 1 FAIL."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the runs' processes import this file as well, and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from experiments import INDEX, integration_gates
    from ngpt.campaign.gates.command import main

    main(integration_gates.GATES, INDEX)
