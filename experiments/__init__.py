"""Experiments: one file a question. Each states claim, arms, baselines and rule before any run; none contains a run."""

from experiments import (
    advanced_features,
    geodesic_muon,
    integration_gates,
    muon_ablations,
    muon_lr_sweep,
    nca_pretraining,
    projection_frequency,
)
from ngpt.campaign.definition import Campaign
from ngpt.campaign.gates.definition import Gates

CAMPAIGNS = [
    muon_lr_sweep.CAMPAIGN,
    geodesic_muon.CAMPAIGN,
    projection_frequency.CAMPAIGN,
    advanced_features.CAMPAIGN,
    muon_ablations.CAMPAIGN,
    nca_pretraining.CAMPAIGN,
]
"""All campaigns that compare."""

INDEX: list[Campaign | Gates] = [*CAMPAIGNS, integration_gates.GATES]
"""And the gates, in the order of the index."""
