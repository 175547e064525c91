"""A small campaign with a method that starts from weights trained on automata; a script, as in `runners/`."""

if __name__ == "__main__":
    import dataclasses
    import sys

    from mini_campaign import CAMPAIGN

    from ngpt.campaign.command import main

    automata = "nca:rules=20,states=3,grid=4,grids=6,ratio_grids=6,ratio_low=0.05"
    source = {"data": automata, "seq_len": 30, "steps": 6, "lr": 0.02}
    if "--broken" in sys.argv:  # records too short for the window
        sys.argv.remove("--broken")
        source["seq_len"] = 1000
    scratch = CAMPAIGN.methods[0]
    after = dataclasses.replace(scratch, name="Muon after automata", pretraining=source)
    main(dataclasses.replace(CAMPAIGN, methods=(scratch, after), baselines=("Muon",)))
