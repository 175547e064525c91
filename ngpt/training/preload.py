"""Import the trainer, take the digest of the code, and compile, in the fork server, once for all runs.

`torch._dynamo` is among it since PyTorch's optimizers import it when they are built, which takes seconds. Code that has
just been changed is no reason for the server to end: every run finds out by itself and says so in a line.
"""

import signal
from contextlib import suppress

interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's; the server ends with it

import torch._dynamo  # noqa: E402, F401

from ngpt.code import code_digest  # noqa: E402
from ngpt.errors import InputError  # noqa: E402

with suppress(InputError, SyntaxError):
    import ngpt.training.trainer  # noqa: F401

    code_digest()

    from ngpt.training.ahead import compile_wanted

    compile_wanted()

signal.signal(signal.SIGINT, interrupt)
