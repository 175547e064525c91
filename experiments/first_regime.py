"""The regime of the first campaigns: what their runs have in common, stated so that new defaults do not change it.

Their results were limited by the logit scale, which started at 1, and they are being made again. A campaign that is
made again no longer uses this.
"""

from collections.abc import Mapping
from typing import Any

from ngpt.campaign.definition.experiment import Experiment

FIRST_REGIME: Mapping[str, Any] = {"schedule": "wsd", "decay_share": 0.2, "logit_scale_init": 1.0}


def is_of_first_regime(experiment: Experiment) -> bool:
    """Return whether an experiment's runs are of the first regime."""
    return FIRST_REGIME.items() <= experiment.fields.items()
