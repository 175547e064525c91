"""Kernels run in Triton's interpreter here; the variable has to be there before they are imported."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
