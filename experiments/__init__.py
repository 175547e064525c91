"""Experiments, one file per question. Each states claim, arms, baselines and rule before the published runs."""

from typing import Any

from experiments import (
    advanced_features,
    context_length,
    equal_time,
    geodesic_muon,
    gpt_control,
    integration_gates,
    lr_transfer,
    muon_ablations,
    muon_at_155m,
    muon_lr_sweep,
    nca_pretraining,
    orthogonality,
    projection_frequency,
    scaling_ladder,
    schedules,
    sensitivity,
    sphere_finalists,
    sphere_optimizers,
    which_sphere,
)
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.engine import Study
from ngpt.campaign.gates.command import GatesStudy
from ngpt.campaign.sensitivity.command import SensitivityStudy
from ngpt.campaign.transfer.command import TransferStudy

CAMPAIGNS = [
    muon_lr_sweep.CAMPAIGN,
    muon_at_155m.CAMPAIGN,
    geodesic_muon.CAMPAIGN,
    projection_frequency.CAMPAIGN,
    advanced_features.CAMPAIGN,
    muon_ablations.CAMPAIGN,
    equal_time.CAMPAIGN,
    nca_pretraining.CAMPAIGN,
    schedules.CAMPAIGN,
    orthogonality.CAMPAIGN,
    which_sphere.CAMPAIGN,
    sphere_optimizers.CAMPAIGN,
    sphere_finalists.CAMPAIGN,
    gpt_control.CAMPAIGN,
    scaling_ladder.CAMPAIGN,
    context_length.CAMPAIGN,
]
"""Campaigns that compare methods, in the order of the index."""

INDEX: list[Study[Any]] = [
    *map(CampaignStudy, CAMPAIGNS),
    SensitivityStudy(sensitivity.STUDY),
    TransferStudy(lr_transfer.STUDY),
    GatesStudy(integration_gates.GATES),
]
"""All campaigns and the gates, in the order of the index."""
