"""A small campaign by the clock, with a simpler method at a rate of its own; a script, as in `runners/`."""

if __name__ == "__main__":
    import dataclasses

    from mini_campaign import CAMPAIGN

    from ngpt.campaign.command import main
    from ngpt.campaign.definition import Method

    muon, adam = CAMPAIGN.methods
    fixed = Method(name="Adam at 0.01", fields=adam.fields, lrs=(0.01,), leaves_out="Muon")
    fields = {**CAMPAIGN.fields, "schedule": "wsd"}
    main(dataclasses.replace(CAMPAIGN, methods=(muon, fixed), baselines=("Muon",), budget_seconds=9.0, fields=fields))
