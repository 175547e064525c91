"""One thread for every test: the tensors are small, and sums then have one order."""

import torch

torch.set_num_threads(1)
