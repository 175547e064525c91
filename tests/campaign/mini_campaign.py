"""A campaign small enough for a test."""

import signal

from ngpt.campaign import engine
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign, Method, Rule

SMALL = {
    "n_embd": 16, "n_layer": 1, "n_head": 2, "seq_len": 16, "batch_size": 2, "eval_tokens": 64, "eval_every": 4,
    "telemetry_every": 4, "aux_lr": 0.01,
}  # fmt: skip

CAMPAIGN = Campaign(
    name="mini",
    title="A small campaign",
    question="Does Muon beat Adam here?",
    claim="Nothing is claimed.",
    methods=(
        Method(name="Muon", fields={"optimizer": "muon"}, lrs=(0.01, 0.03, 0.1)),
        Method(name="Adam", fields={"optimizer": "adam"}, lrs=(0.003, 0.01, 0.03)),
    ),
    baselines=("Adam",),
    rule=Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=2),
    tuning_seeds=2,
    comparison_seeds=2,
    fields=SMALL,
)


def carry_out(campaign: Campaign, arguments: list[str]) -> int:
    """The exit code of the campaign's runner with these arguments."""
    return engine.carry_out(CampaignStudy(campaign), arguments)


def heed_interrupts() -> None:
    """Undo what a shell does to its background jobs, and a test's own process may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
