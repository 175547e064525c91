"""What the tests of killed campaigns run in processes of their own."""

import os
import sys
from pathlib import Path

from mini_campaign import CAMPAIGN

from ngpt.campaign.command import carry_out
from ngpt.errors import exit_code_of

STEPS = "100"


def runner(folder: Path) -> None:
    """A runner in a process of its own; its workers come from the fork server that it comes from itself."""
    os.dup2(os.open(folder / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    arguments = ["--data", str(folder / "text.txt"), "--out", str(folder / "runs"), "--reports", str(folder / "r")]
    sys.exit(exit_code_of(lambda: carry_out(CAMPAIGN, [*arguments, "--steps", STEPS, "--jobs", "2"])))
