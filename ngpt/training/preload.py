"""Imports that the fork server makes once for the processes of all runs: the trainer, and the digest of the code.

`torch._dynamo` is among it since PyTorch's optimizers import it when they are built, which takes seconds.
"""

import torch._dynamo  # noqa: F401

import ngpt.training.trainer  # noqa: F401
from ngpt.code import code_digest

code_digest()
