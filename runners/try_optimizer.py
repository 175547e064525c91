"""Try an optimizer of your own: `python runners/try_optimizer.py examples/my_rule.py:MyRule` -> a report."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the runs' processes import this file too and need nothing from it
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from ngpt.errors import end_at_interrupt

    end_at_interrupt()  # until all is imported
    from experiments import INDEX
    from ngpt.campaign.engine import main
    from ngpt.campaign.entrant import EntrantStudy

    main("try_optimizer", [EntrantStudy(taken=[study.name for study in INDEX]), *INDEX])
