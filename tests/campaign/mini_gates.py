"""Gates small enough for a test, on models of powers of three; a script, as in `runners/`."""

from ngpt.campaign.gates.definition import Gates, Targets

AUTOMATA = {"data": "nca:rules=60,states=3,grid=4,grids=6,ratio_grids=6,ratio_low=0.05", "seq_len": 27}
FEW = {"eval_tokens": 540}
GATES = Gates(
    name="mini_gates",
    title="Small gates",
    question="Does Muon pass?",
    claim="Nothing is claimed.",
    preset="tiny",
    optimizers={
        "Muon": {"optimizer": "muon", "lr": 0.1, "nan_fallback": "normuon"},
        "AdamW": {"optimizer": "adam", "lr": 0.002},
    },
    tasks={
        "speed": {**FEW, "steps": 8, "telemetry_every": 0},
        "overfit": {"overfit_windows": 9, "batch_size": 9, "steps": 162},
        "stability": {**FEW, "steps": 81},
        "race": {**FEW, "steps": 54},
        "automata": {**AUTOMATA, **FEW, "steps": 54},
    },
    seeds={"speed": 3, "race": 3},
    targets=Targets(
        orthogonality_error=1.0, lr_first=0.1, lr_last=4.7e-5, overfit_bpb=1.0, steps_per_second=1.0, stable_steps=81,
        fewer_steps=0.1, below_guess=0.5,
    ),
    ns_steps=10,
    ns_steps_if_slow=5,
    fields={
        "n_embd": 27, "n_layer": 1, "n_head": 3, "seq_len": 27, "batch_size": 3, "eval_every": 3, "telemetry_every": 7,
        "schedule": "cosine", "lr_floor": 1e-4, "aux_lr": 0.02,
    },
)  # fmt: skip

if __name__ == "__main__":
    from ngpt.campaign.engine import main
    from ngpt.campaign.gates.command import GatesStudy

    main(GATES.name, [GatesStudy(GATES)])
