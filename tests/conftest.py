"""One thread for every test: the tensors are small, and sums then have one order. Triton interprets its kernels."""

import os

import torch

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
torch.set_num_threads(1)
