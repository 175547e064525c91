"""Imports that the fork server makes once for the processes of all runs: the trainer, and the digest of the code.

`torch._dynamo` is among it since PyTorch's optimizers import it when they are built, which takes seconds. Code that has
just been changed is no reason for the server to end: every run finds out by itself and says so in a line.
"""

from contextlib import suppress

import torch._dynamo  # noqa: F401

from ngpt.code import code_digest
from ngpt.errors import InputError

with suppress(InputError, SyntaxError):
    import ngpt.training.trainer  # noqa: F401

    code_digest()
