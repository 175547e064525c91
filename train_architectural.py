"""Train one model from flags. The last line on standard output is the folder of the run's record."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ngpt.errors import end_at_interrupt, exit_code_of  # noqa: E402 (after the path: a checkout works uninstalled)

if __name__ == "__main__":
    end_at_interrupt()  # until all is imported

from ngpt.command import leave, main  # noqa: E402

if __name__ == "__main__":
    leave(exit_code_of(main))
