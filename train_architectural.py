"""Train one model: flags -> RunConfig -> train -> record. The last line on standard output is the run's folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ngpt.command import leave, main  # noqa: E402 (after the path, so that the checkout need not be installed)
from ngpt.errors import exit_code_of  # noqa: E402

if __name__ == "__main__":
    leave(exit_code_of(main))
