"""C6: the gates G1 to G7 of an earlier plan for Muon on models of powers of three, with AdamW beside it in each."""

from experiments.nca_pretraining import PRETRAINING
from ngpt.campaign.gates.definition import Gates, Targets, Task

GATES = Gates(
    name="integration_gates",
    title="Muon on models of powers of three: the integration gates",
    question="Does Muon pass the gates of its integration?",
    claim=(
        "The gates are those of a public plan to build Muon into a model whose sizes are powers of three (gHashTag/"
        "trinity, issue 535, April 2026), which reports no measured figures. Here they run on gated nGPT, 243 wide, 3 "
        "layers, 9 heads, context 81, bytes, 3 sequences (243 tokens) a step. Muon has the plan's rate, a cosine from "
        "0.1 to 1e-5, and 10 Newton-Schulz iterations; AdamW on everything else follows the same cosine from 0.005. "
        "The control has AdamW on the matrices too, at the best of the rates 0.002, 0.005, 0.01 and 0.02 for a race of "
        "this length (pilot runs on seeds 100 and 101), while Muon's rate is the plan's and not tuned.\n\n"
        "- **G1** is measured, not read from the configuration: the watched updates of attention and MLP matrices "
        "turn their vectors, and, scaled to the norm of a polar factor O, are as orthogonal as five or ten iterations "
        "make them: $\\|OO^\\top - I\\|_F / \\sqrt{k}$ at most 2 in the median. In pilot runs Muon's lay between 0.7 "
        "and 2.1 with five iterations, AdamW's between 4 and 8; an exact factor has 0.\n"
        "- **G2**: the rate of each step as recorded; embedding and head turn in every watched step; the loss falls.\n"
        "- **G3**: 250 steps of 9 of 100 windows spread over the training text, and bits per byte on these 100.\n"
        "- **G4**: one run at a time with all cores, three of each optimizer in turn, 25 steps each; the median over "
        "runs of the median over steps. If Muon is too slow with 10 iterations it drops to 5, for all gates.\n"
        "- **G5**: 2,000 steps; loss and gradient norm of every one. A run that finds no finite gradient ten times in "
        "a row goes on with NorMuon, is said to have, and fails the gate.\n"
        "- **G6**: runs of equal length and seed; where Muon's validation curve first comes to AdamW's final loss, as "
        "a share of AdamW's steps; never is infinity. The 95% t interval over seeds has to lie beyond the target as a "
        "whole, or the choice of seeds would open and shut the gate. AdamW's final loss is that of its whole cosine; "
        "Muon has to reach it before its own has ended.\n"
        "- **G7**: the configuration of the automata in `experiments/nca_pretraining.py` at this size, 150 steps, loss "
        "on automata not trained on.\n\n"
        "The plan's last line asks for G3, G4, G5 and G6. Here PASS needs all seven, so that an optimizer that is not "
        "Muon cannot pass by being good. The targets are the plan's, but for G1's and G7's numbers, which it leaves "
        "open and which were set here before the runs."
    ),
    optimizers={
        "Muon": {"optimizer": "muon", "lr": 0.1, "nan_fallback": "normuon"},
        "AdamW": {"optimizer": "adam", "lr": 0.005},
    },
    tasks={
        "speed": Task(fields={"steps": 25, "eval_every": 1000, "telemetry_every": 0}, seeds=3),
        "overfit": Task(fields={"overfit_windows": 100, "batch_size": 9, "steps": 250, "eval_every": 25}),
        "stability": Task(fields={"steps": 2000, "eval_every": 400}),
        "race": Task(fields={"steps": 400, "eval_every": 20}, seeds=3),
        "automata": Task(
            fields={"data": PRETRAINING["data"], "seq_len": PRETRAINING["seq_len"], "steps": 150, "eval_every": 25}
        ),
    },
    targets=Targets(
        orthogonality_error=2.0,
        lr_first=0.1,
        lr_last=1e-5,
        overfit_bpb=0.5,
        steps_per_second=18.0,
        stable_steps=2000,
        fewer_steps=0.35,
        below_guess=1.0,
    ),
    ns_steps=10,
    ns_steps_if_slow=5,
    reading=(
        "Muon learns, stays finite, and its updates are what they should be; what it does not do on this machine is to "
        "run at the plan's speed. The orthogonaliser's products take the time, at so few tokens a step more than "
        "forward and backward together. They are the same for any number of tokens, so that more tokens a step, or a "
        "machine that multiplies faster, makes their share smaller; AdamW alone passes that target here only just. In "
        "the race Muon is ahead from the first validations on and far ahead once its rate has fallen, and what it "
        "saves lies on either side of the target from seed to seed. The plan's rate is high: most of Muon's lead comes "
        "late in its cosine, and over the 2,000 steps of G5 its training loss lies above AdamW's until near the end. "
        "So the saving belongs to the length of the race: a pilot of 600 steps (seed 0) saved about a quarter. A rate "
        "tuned for Muon, which the plan does not ask for, is what `muon_lr_sweep` is about."
    ),
    fields={"batch_size": 3, "schedule": "cosine", "lr_floor": 1e-4},
)
