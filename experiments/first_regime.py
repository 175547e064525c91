"""The regime of the first campaigns: what their runs have in common, stated so that new defaults do not change it.

Their results were limited by the logit scale, which started at 1. All have been repeated at `rung-1`, without this.
"""

from collections.abc import Mapping
from typing import Any

FIRST_REGIME: Mapping[str, Any] = {"schedule": "wsd", "decay_share": 0.2, "logit_scale_init": 1.0}
