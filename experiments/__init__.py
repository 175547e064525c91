"""Experiments: one file a question. Each states claim, arms, baseline and rule before any run; none contains a loop."""

from experiments import muon_lr_sweep

CAMPAIGNS = [muon_lr_sweep.CAMPAIGN]
"""All campaigns, in the order of the index."""
