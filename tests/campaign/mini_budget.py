"""A small campaign by the clock, with a simpler method at a rate of its own."""

import dataclasses

from mini_campaign import CAMPAIGN as PLAIN

from ngpt.campaign.definition import Method

MUON, ADAM = PLAIN.methods
FIXED = Method(name="Adam at 0.01", fields=ADAM.fields, lrs=(0.01,), leaves_out="Muon")
CAMPAIGN = dataclasses.replace(
    PLAIN, methods=(MUON, FIXED), baselines=("Muon",), budget_seconds=9.0, fields={**PLAIN.fields, "schedule": "wsd"}
)
