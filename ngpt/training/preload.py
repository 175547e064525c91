"""Imported once by the fork server, so that every run's process starts with it: the trainer, and the code's digest.

`torch._dynamo` is imported because PyTorch's optimizers import it when they are built, which takes seconds.
"""

import torch._dynamo  # noqa: F401

import ngpt.training.trainer  # noqa: F401
from ngpt.identity import code_digest

code_digest()
