"""Small campaigns with a method that starts from weights trained on automata; a script, as in `runners/`."""

import dataclasses

from mini_campaign import CAMPAIGN as PLAIN

from ngpt.campaign.definition import Campaign

AUTOMATA = "nca:rules=20,states=3,grid=4,grids=6,ratio_grids=6,ratio_low=0.05"


def after_automata(seq_len: int) -> Campaign:
    """Muon from scratch and after automata read in windows of `seq_len` tokens."""
    scratch = PLAIN.methods[0]
    source = {"data": AUTOMATA, "seq_len": seq_len, "steps": 6, "lr": 0.02}
    after = dataclasses.replace(scratch, name="Muon after automata", pretraining=source)
    return dataclasses.replace(PLAIN, methods=(scratch, after), baselines=("Muon",))


CAMPAIGN = after_automata(30)
BROKEN = after_automata(1000)
"""Its automata are records too short for the window"""

if __name__ == "__main__":
    from ngpt.campaign.command import CampaignStudy
    from ngpt.campaign.engine import main

    main(CAMPAIGN.name, [CampaignStudy(CAMPAIGN)])
