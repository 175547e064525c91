"""Small campaigns with runs whose numbers are known, and how to read a figure of them."""

from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis, analyze
from ngpt.campaign.definition import Campaign, Method, Rule, noise_of, on_other_batches
from ngpt.campaign.report.style import Axes, Figure, style

RULE = Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=2)
RATES = (0.015, 0.03, 0.06)
T = 4.302652729911275  # 97.5% quantile of Student's t with 2 degrees of freedom
SEEDS = (10, 11, 12)
LOSSES = {
    "Muon": (2.0, 2.1, 2.2), "Adam": (2.03, 2.15, 2.24), "Kaon": (1.999, 2.101, 2.201),
    "Muon, other batches": (2.01, 2.09, 2.22),
}  # fmt: skip
"""final loss of each method on each comparison seed"""


def campaign_of(*names: str, baselines: tuple[str, ...] = ("Muon",), control: bool = False, **more: Any) -> Campaign:
    """Methods against the first of their kind; with `control`, Muon again on other batches."""
    methods = [Method(name=name, fields={"momentum": number / 100}, lrs=RATES) for number, name in enumerate(names)]
    extra = (on_other_batches(methods[0]),) if control else ()
    return Campaign(
        name="shown", title="Shown", question="Which one ends lower?", claim="None.", methods=(*methods, *extra),
        baselines=(*baselines, *(method.name for method in extra)), rule=RULE, comparison_seeds=3, tuning_seeds=2,
        further=(noise_of(methods[0], RULE),) if control else (), **more,
    )  # fmt: skip


def row(stage: str, method: str, lr: float, seed: int, loss: float, **change: Any) -> dict[str, Any]:
    """A run whose validation loss is three times, 1.5 times and once the final one, with a mean angle of lr / 2."""
    return {
        "stage": stage, "method": method, "lr": lr, "seed": seed, "status": "done", "steps": 30,
        "final_val_loss": loss, "val": {"step": [10, 20, 30], "loss": [3 * loss, 1.5 * loss, loss]},
        "telemetry": {"step": [10, 20], "rotation_hidden_rad": [0.75 * lr, 0.25 * lr], "drift_hidden": [None, 0.01]},
    } | change  # fmt: skip


def data_of(campaign: Campaign, losses: dict[str, tuple[float, ...]], **change: Any) -> dict[str, Any]:
    """Runs with these final losses on the comparison seeds; in tuning, the loss is 2 + the seed / 10 + the rate."""
    runs = []
    for method in campaign.methods:
        runs += [row("tuning", method.name, lr, seed, 2 + seed / 10 + lr) for lr in method.lrs for seed in (0, 1)]
        runs += [row("comparison", method.name, 0.03, seed, loss)
                 for seed, loss in zip(SEEDS, losses[method.name], strict=True)]  # fmt: skip
    training = {"steps": 30, "batch": 1, "schedule": "linear", "decay_share": 1.0}
    return {"runs": runs, "planned_runs": len(runs), "training": training | change, "data": "text.txt"}


def analyzed(campaign: Campaign, losses: dict[str, tuple[float, ...]] = LOSSES) -> tuple[dict[str, Any], Analysis]:
    data = data_of(campaign, losses)
    return data, analyze(campaign, data)


def lines_of(axes: Axes, marker: str | None = None) -> list[np.ndarray]:
    """The points (n, 2) of every line, or of those with this marker."""
    return [np.array(line.get_xydata()) for line in axes.lines if marker in (None, line.get_marker())]


def labeled(axes: Axes, label: str) -> np.ndarray:
    """The points of the line of a method."""
    (line,) = [line for line in axes.lines if line.get_label() == label] or [
        container.lines[0] for container in axes.containers if container.get_label() == label
    ]
    return np.array(line.get_xydata())


def drawn(draw: Any, *arguments: Any) -> Figure:
    with style():
        figure = draw(*arguments)
        assert figure is not None
        figure.draw_without_rendering()
    return figure


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def place_of(axes: Axes, name: str) -> float:
    """The height of a row of effects."""
    return next(float(tick) for tick, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
                if text.get_text() == name)  # fmt: skip


def ticks_in(axis: Any) -> list[str]:
    low, high = sorted(axis.get_view_interval())
    return [text.get_text() for at, text in zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
            if low <= at <= high]  # fmt: skip
