"""Experiments: one file a question. Each states claim, arms, baselines and rule before any run; none contains a run."""

from experiments import (
    advanced_features,
    geodesic_muon,
    muon_ablations,
    muon_lr_sweep,
    nca_pretraining,
    projection_frequency,
)

CAMPAIGNS = [
    muon_lr_sweep.CAMPAIGN,
    geodesic_muon.CAMPAIGN,
    projection_frequency.CAMPAIGN,
    advanced_features.CAMPAIGN,
    muon_ablations.CAMPAIGN,
    nca_pretraining.CAMPAIGN,
]
"""All campaigns, in the order of the index."""
