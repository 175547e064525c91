"""What the figures of a report show, read back from their axes and compared with numbers computed by hand."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from numpy.testing import assert_allclose

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.definition import Campaign, Method
from ngpt.campaign.report.figures.curves import draw_curves
from ngpt.campaign.report.figures.differences import draw_differences, draw_pace
from ngpt.campaign.report.figures.effects import draw_effects
from ngpt.campaign.report.figures.marks import (
    BAND,
    end_labels,
)
from ngpt.campaign.report.figures.rates import draw_loss_against_aux_lr, draw_loss_against_lr
from ngpt.campaign.report.figures.telemetry import draw_automata, draw_scan, draw_telemetry
from ngpt.campaign.report.style import (
    GRAY,
    WORD_COLORS,
    WORD_MARKERS,
    style,
)
from ngpt.campaign.sensitivity.report import _draw_knobs, _draw_surfaces

sys.path.insert(0, str(Path(__file__).parent))
from mini_figures import (
    LOSSES,
    RATES,
    T,
    analyzed,
    campaign_of,
    data_of,
    drawn,
    labeled,
    lines_of,
    place_of,
    row,
    texts,
    ticks_in,
)
from test_sensitivity import STUDY, findings_of


def test_an_effect_shows_its_seeds_its_mean_its_interval_and_how_many_seeds_agree() -> None:
    campaign = campaign_of("Muon", "Adam", "Kaon", control=True)
    (axes,) = drawn(draw_effects, analyzed(campaign)[1]).axes
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert rows == ["Adam", "Kaon", "Muon, other batches"] and axes.yaxis_inverted(), "the first is on top"

    def at(name: str) -> list[Any]:
        return [line for line in axes.lines if np.allclose(line.get_ydata(), place_of(axes, name))]

    for name, word in (("Adam", "worse"), ("Kaon", "no difference that matters")):
        dots, interval, mean = at(name)
        values = np.subtract(LOSSES[name], LOSSES["Muon"])
        half = T * values.std(ddof=1) / np.sqrt(3)
        assert dots.get_xdata() == pytest.approx(values, abs=1e-12) and dots.get_zorder() < interval.get_zorder()
        assert interval.get_xdata() == pytest.approx([values.mean() - half, values.mean() + half], abs=1e-9)
        assert mean.get_xdata() == pytest.approx(values.mean(), abs=1e-12)
        assert mean.get_marker() == WORD_MARKERS[word] and mean.get_color() == WORD_COLORS[word]
    *_, noise = at("Muon, other batches")
    assert noise.get_markerfacecolor() == "#FFFFFF" and noise.get_color() == GRAY, "a control is hollow and gray"

    agreeing = {text.get_text(): text.get_position()[1] for text in axes.texts if " of " in text.get_text()}
    assert agreeing["3 of 3"] == place_of(axes, "Adam")
    assert [t.get_text() for t in axes.texts if t.get_position()[1] == place_of(axes, "Kaon")] == ["2 of 3"]
    headers = [text.get_text() for text in axes.texts if text.get_gid() == "header"]
    assert headers == [f"{campaign.question} – against Muon", f"{campaign.further[0].question} – against Muon"]
    bands = [band.get_paths()[0].get_extents() for band in axes.collections]
    assert {(round(band.x0, 9), round(band.x1, 9)) for band in bands} == {(-0.02, 0.02)}
    assert all(any(band.y0 < place_of(axes, name) < band.y1 for band in bands) for name in rows)


def test_the_legend_of_effects_has_the_words_that_occur() -> None:
    figure = drawn(draw_effects, analyzed(campaign_of("Muon", "Adam", "Kaon", control=True))[1])
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    others = ["control: noise alone", "one seed", "too small to matter: ±0.02"]
    assert shown == ["no difference that matters", "worse", *others]
    assert len({*WORD_MARKERS.values()}) == len({*WORD_COLORS.values()}) == 4


def test_controls_of_other_campaigns_come_last_and_leave_the_range_of_the_effects() -> None:
    campaign = campaign_of("Muon", "Adam")
    line = {"contrast": "Muon, other batches against Muon", "campaign": "ladder", "effect": -0.01, "low": -0.07,
            "high": 0.05, "agreeing": 6, "seeds": 10}  # fmt: skip
    analysis = analyzed(campaign)[1]
    (alone,) = drawn(draw_effects, analysis).axes
    (axes,) = drawn(lambda one: draw_effects(one, [line]), analysis).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Adam", "Muon, other batches (ladder)"]
    headers = [text.get_text() for text in axes.texts if text.get_gid() == "header"]
    assert headers[1] == "Controls of other campaigns: how much does the order of the data alone change the loss?"
    place = place_of(axes, "Muon, other batches (ladder)")
    mine = [one for one in axes.lines if len(one.get_xdata()) and set(one.get_ydata()) == {place}]
    assert [list(one.get_xdata()) for one in mine] == [[-0.07, 0.05], [-0.01]] and "6 of 10" in texts(axes)
    assert {one.get_color() for one in mine} == {GRAY} and mine[1].get_markerfacecolor() == "#FFFFFF"
    low, high = axes.get_xlim()
    assert low < -0.07 and alone.get_xlim()[1] <= high, "nothing of its own is left out"


def test_an_effect_far_away_is_written_and_does_not_squash_the_others() -> None:
    campaign = campaign_of("Muon", "Adam", "Kaon", "random signs")
    losses = {**LOSSES, "Adam": (2.01, 2.12, 2.2), "random signs": (2.6, 2.71, 2.83)}
    (axes,) = drawn(draw_effects, analyzed(campaign, losses)[1]).axes
    assert -0.1 < axes.get_xlim()[0] < axes.get_xlim()[1] < 0.1
    place = place_of(axes, "random signs")
    half = T * 0.015275252316519466 / np.sqrt(3)
    mean = (0.6 + 0.61 + 0.63) / 3
    expected = f"+{mean:.4f} [+{mean - half:.4f}, +{mean + half:.4f}]"
    assert expected in texts(axes) and "3 of 3" in texts(axes)
    means = [line for line in axes.lines if line.get_ydata()[0] == place and line.get_marker() in WORD_MARKERS.values()]
    assert not means, "its mean is written, not drawn"


def test_an_interval_is_drawn_whole_where_its_mean_is() -> None:
    """Most intervals are narrow, and one is so wide that it would end outside of a range made for them."""
    names = [f"feature {number}" for number in range(6)]
    campaign = campaign_of("Muon", *names, "Adam")
    narrow = {name: (2.01, 2.101, 2.199) for name in names}
    losses = {**LOSSES, **narrow, "Adam": (2.0, 2.11, 2.25)}
    (axes,) = drawn(draw_effects, analyzed(campaign, losses)[1]).axes
    wide = [line for line in axes.lines if line.get_ydata()[0] == place_of(axes, "Adam") and len(line.get_xdata()) == 2]
    (left, right), (low, high) = wide[0].get_xdata(), axes.get_xlim()
    assert low <= left < right <= high


def test_effects_with_a_missing_seed_and_of_one_answer() -> None:
    campaign = campaign_of("Muon", "Adam")
    data = data_of(campaign, LOSSES)
    lost = next(r for r in data["runs"] if (r["stage"], r["method"], r["seed"]) == ("comparison", "Adam", 11))
    del lost["final_val_loss"]
    (axes,) = drawn(draw_effects, analyze(campaign, data)).axes
    assert axes.lines[0].get_xdata() == pytest.approx([0.03, 0.04]) and "2 of 2" in texts(axes)
    data["runs"] = [r for r in data["runs"] if r["stage"] == "tuning"]
    with style():
        assert draw_effects(analyze(campaign, data)) is None, "there is nothing to show yet"


def test_effects_against_several_methods_name_each_once() -> None:
    methods = [Method(name=f"{family}, {kind}", fields={"momentum": 0.1 * number}, lrs=RATES, family=family)
               for family in ("Muon", "Adam") for number, kind in enumerate(("plain", "new"))]  # fmt: skip
    baselines = ("Muon, plain", "Adam, plain")
    campaign = dataclasses.replace(campaign_of("Muon"), methods=tuple(methods), baselines=baselines)
    losses = {method.name: (2.0, 2.1, 2.2 + 0.01 * number) for number, method in enumerate(methods)}
    (axes,) = drawn(draw_effects, analyzed(campaign, losses)[1]).axes
    headers = [text.get_text() for text in axes.texts if text.get_gid() == "header"]
    assert headers == ["Which one ends lower?", "against Muon, plain", "against Adam, plain"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Muon, new", "Adam, new"]


def test_differences_over_steps() -> None:
    campaign = campaign_of("Muon", "Adam", "Kaon")
    data, analysis = analyzed(campaign)
    (axes,) = drawn(draw_differences, campaign, analysis, data).axes
    values = np.subtract(LOSSES["Adam"], LOSSES["Muon"])
    assert labeled(axes, "Adam") == pytest.approx(np.array([[10, 0.12], [20, 0.06], [30, 0.04]]))
    assert any(np.array_equal(xy, [[0, 0], [1, 0]]) for xy in lines_of(axes)), "the zero line"
    half = T * values.std(ddof=1) / np.sqrt(3) * np.array([3, 1.5, 1])
    corners = np.concatenate([path.vertices for band in axes.collections for path in band.get_paths()])
    assert any(np.allclose(corner, [30, 0.04 + half[2]]) for corner in corners)
    assert any(np.allclose(corner, [20, 0.06 - half[1]]) for corner in corners)
    (rectangle,) = [patch for patch in axes.patches if to_hex(patch.get_facecolor()) == to_hex(BAND)]
    box = rectangle.get_extents().transformed(axes.transData.inverted())
    assert (box.y0, box.y1) == pytest.approx((-0.02, 0.02))
    assert {label.get_text() for label in end_labels(axes)} == {"Adam  +0.040", "Kaon  +0.000"}
    assert axes.get_ylim()[1] < 0.12 + half[0], "the first third, where differences are large, does not set the range"
    assert axes.get_ylim()[1] > 0.06 + half[1]


def test_of_many_differences_each_has_its_panel() -> None:
    names = ["Muon", *(f"method {number}" for number in range(7)), "random signs"]
    campaign = campaign_of(*names, control=True)
    losses = {name: tuple(loss + 0.01 * number for loss in LOSSES["Muon"]) for number, name in enumerate(names)}
    losses |= {"random signs": (2.7, 2.8, 2.9), "Muon, other batches": LOSSES["Muon, other batches"]}
    data, analysis = analyzed(campaign, losses)
    figure = drawn(draw_differences, campaign, analysis, data)
    panels = {axes.get_title("left"): axes for axes in figure.axes if axes.get_title("left")}
    assert [*panels] == [*names[1:], "Muon, other batches"]
    for number, name in enumerate(names[1:-1], 1):
        axes = panels[name]
        assert labeled(axes, name)[-1] == pytest.approx([30, 0.01 * number])
        assert axes.get_title("right") == f"+{0.01 * number:.3f}"
        assert axes.get_ylim() == panels["method 0"].get_ylim()
    assert panels["random signs"].get_title("right") == "+0.700 ↑" and panels["random signs"].get_ylim()[1] < 0.5
    weights = {text.get_text(): text.get_fontweight() for axes in panels.values() for text in axes.findobj(Text)}
    assert [name for name in panels if weights[name] == "bold"] == ["method 0"], "the best"


def test_where_runs_end_by_the_clock_steps_and_time_are_compared() -> None:
    campaign = campaign_of("Muon", "Adam", budget_seconds=4.0)
    data = data_of(campaign, LOSSES, budget_seconds=4.0)
    for r in data["runs"]:  # Adam makes a step in half the time
        slow = 1.0 if r["method"] == "Muon" else 0.5
        losses = [3.0, 2.0, r["final_val_loss"]]
        r["val"] = {"step": [10, 20, 40], "seconds": [slow, 2 * slow, 4 * slow], "loss": losses}
    analysis = analyze(campaign, data)
    with style():
        assert draw_differences(campaign, analysis, data) is None
    steps, seconds = drawn(draw_pace, campaign, analysis, data).axes
    assert labeled(steps, "Adam")[-1] == pytest.approx([40, 0.04])
    at = labeled(seconds, "Adam")
    assert at[0, 0] == 1.0 and at[-1, 0] == 2.0, "from where both have been validated to where the shorter ends"
    mean = np.mean(LOSSES["Adam"])
    assert at[-1, 1] == pytest.approx(mean - 2.0) and at[0, 1] == pytest.approx(2.0 - 3.0)
    assert np.interp(1.5, *at.T) == pytest.approx((2.0 + mean) / 2 - 2.5, abs=0.01)


def test_of_many_methods_by_the_clock_each_has_its_panel() -> None:
    names = ["Muon", *(f"method {number}" for number in range(7))]
    campaign = campaign_of(*names, budget_seconds=4.0)
    losses = {name: tuple(loss + 0.01 * number for loss in LOSSES["Muon"]) for number, name in enumerate(names)}
    data = data_of(campaign, losses, budget_seconds=4.0)
    for r in data["runs"]:
        r["val"] |= {"seconds": [1.0, 2.0, 3.0]}
    figure = drawn(draw_pace, campaign, analyze(campaign, data), data)
    panels = {axes.get_title("left"): axes for axes in figure.axes if axes.get_title("left")}
    assert [*panels] == names[1:] and panels["method 6"].get_xlim() == (0, 1)
    assert panels["method 6"].get_title("right").startswith("+0.070")
    time = labeled(panels["method 6"], "method 6")
    assert time[[0, -1]] == pytest.approx(np.array([[1 / 3, 0.21], [1, 0.07]]))
    (steps,) = [xy for xy in lines_of(panels["method 6"]) if len(xy) == 3 and not np.array_equal(xy, time)] or [time]
    assert steps[:, 1] == pytest.approx([0.21, 0.105, 0.07])
    assert sum(np.allclose(xy[-1], [1, 0.07]) for xy in lines_of(panels["method 6"])) == 2, "at equal steps, and time"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "at equal training time, with 95% interval", "at equal steps",
    ]  # fmt: skip


def test_loss_against_rate_and_against_the_angle_that_came_of_it() -> None:
    campaign = campaign_of("Muon", "Adam")
    data, analysis = analyzed(campaign)
    left, right = drawn(draw_loss_against_lr, campaign, analysis, data).axes
    expected = [2.05 + lr for lr in RATES]
    assert labeled(left, "Adam") == pytest.approx(np.column_stack([RATES, expected]))
    assert labeled(right, "Adam") == pytest.approx(np.column_stack([np.divide(RATES, 2), expected]))
    seeds = [xy for xy in lines_of(left, "o") if np.allclose(xy[:, 1], [2.0 + lr for lr in RATES])]
    assert len(seeds) == 2, "the first seed of both methods"
    half = 12.706204736432095 * 0.05  # Student's t with 1 degree of freedom, times the standard error of two seeds
    (bars,) = [container.lines[2][0].get_segments() for container in left.containers if container.get_label() == "Adam"]
    assert [[low, high] for (_, low), (_, high) in bars] == pytest.approx(
        np.array([[loss - half, loss + half] for loss in expected])
    )
    assert ticks_in(left.xaxis) == ["0.015", "0.03", "0.06"] and left.get_xscale() == right.get_xscale() == "log"
    assert ticks_in(right.xaxis) == ["0.008", "0.01", "0.015", "0.02", "0.03"]
    assert not left.xaxis.get_minorticklocs().size
    assert [label.get_text() for label in end_labels(right)] == ["Muon", "Adam"] and not end_labels(left)
    assert all(label.xy == pytest.approx((0.03, 2.11)) for label in end_labels(right)), "from the end of its line"


def test_what_turns_by_no_angle_is_named_on_the_left() -> None:
    """One of two methods; then, with a panel for each family, half of the families have no right panel."""
    campaign = campaign_of("Muon", "Adam")
    data = data_of(campaign, LOSSES)
    for r in data["runs"]:
        if r["method"] == "Adam":
            r["telemetry"] = {"step": []}
    left, right = drawn(draw_loss_against_lr, campaign, analyze(campaign, data), data).axes
    named = [[label.get_text() for label in end_labels(axes)] for axes in (left, right)]
    assert named == [["Adam"], ["Muon"]] and right.axison

    names = [f"{kind} {number}" for number in range(4) for kind in ("sphere", "flat")]
    campaign = campaign_of(*names, baselines=("sphere 0",))
    methods = tuple(dataclasses.replace(m, family=m.name.split()[0]) for m in campaign.methods)
    campaign = dataclasses.replace(campaign, methods=methods, baselines=("sphere 0", "flat 0"))
    data = data_of(campaign, dict.fromkeys(names, LOSSES["Muon"]))
    for r in data["runs"]:
        if r["method"].startswith("flat"):
            r["telemetry"] = {"step": []}
    figure = drawn(draw_loss_against_lr, campaign, analyze(campaign, data), data)
    panels = np.reshape(figure.axes, (2, 2))
    assert [[axes.axison for axes in row] for row in panels] == [[True, True], [True, False]]
    assert not end_labels(panels[0, 0]) and end_labels(panels[0, 1]) and end_labels(panels[1, 0])
    assert panels[0, 1].get_xlabel().startswith("mean angle") and not panels[1, 1].get_xlabel()


def test_without_measured_angles_there_is_one_panel_and_a_missing_run_is_a_cross() -> None:
    campaign = campaign_of("Muon", "Adam")
    data = data_of(campaign, LOSSES)
    for r in data["runs"]:
        r["telemetry"] = {"step": []}
    lost = next(r for r in data["runs"] if (r["method"], r["lr"]) == ("Adam", 0.06))
    del lost["final_val_loss"]
    (axes,) = drawn(draw_loss_against_lr, campaign, analyze(campaign, data), data).axes
    assert labeled(axes, "Adam")[:, 0] == pytest.approx(RATES[:2])
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert cross.get_xdata() == pytest.approx(0.06)


def test_loss_against_the_auxiliary_rate_and_the_angle_of_the_embedding() -> None:
    grid = (0.01, 0.02)
    campaign = campaign_of("Muon", "Adam", fields={"aux_lr": 0.01}, aux_lrs=grid)
    data = data_of(campaign, LOSSES)
    for r in data["runs"]:
        r["aux_lr"] = 0.01
        r["telemetry"]["rotation_embedding_rad"] = [0.001, 0.003]
    data["runs"] += [row("auxiliary", name, 0.03, seed, 2.5 + seed / 10, aux_lr=0.02,
                         telemetry={"step": [1, 20], "rotation_embedding_rad": [0.004, None]})
                     for name in ("Muon", "Adam") for seed in (0, 1)]  # fmt: skip
    left, right = drawn(draw_loss_against_aux_lr, campaign, analyze(campaign, data), data).axes
    assert labeled(left, "Adam") == pytest.approx(np.array([[0.01, 2.08], [0.02, 2.55]]))
    assert labeled(right, "Muon") == pytest.approx(np.array([[0.002, 2.08], [0.004, 2.55]]))


def with_optimizers(campaign: Campaign, *optimizers: str) -> Campaign:
    """The methods with these optimizers."""
    fields = [{**m.fields, "optimizer": one} for m, one in zip(campaign.methods, optimizers, strict=True)]
    methods = [dataclasses.replace(m, fields=own) for m, own in zip(campaign.methods, fields, strict=True)]
    return dataclasses.replace(campaign, methods=tuple(methods))


def test_loss_against_tokens_and_against_time() -> None:
    """Adam's steps take half the time of Muon's; a step is 50,000 tokens."""
    campaign = with_optimizers(campaign_of("Adam", "Muon", "Kaon", baselines=("Adam",)), "adam", "muon", "adam")
    data = data_of(campaign, LOSSES, batch=500) | {"model": {"context": 100}}
    for one in data["runs"]:
        per_step = (0.2 if one["method"] == "Muon" else 0.1) * (3 if one["seed"] == 10 else 1)  # beside other work
        one["val"]["seconds"] = [per_step * step for step in one["val"]["step"]]
    figure = drawn(draw_curves, campaign, analyze(campaign, data), data)
    tokens, time = figure.axes
    assert_allclose(labeled(tokens, "Muon"), [(0.5, 6.3), (1.0, 3.15), (1.5, 2.1)])
    assert_allclose(labeled(time, "Muon"), [(2 / 3, 6.3), (4 / 3, 3.15), (2.0, 2.1)])
    assert_allclose(labeled(time, "Adam"), [(1 / 3, 6.42), (2 / 3, 3.21), (1.0, 2.14)])
    assert "Kaon" not in [line.get_label() for line in tokens.lines], "it has Adam's optimizer"
    assert time.get_xlabel() == "training time, share of that of Adam"
    assert {"Muon  2.100", "Adam  2.140"} <= set(texts(time))
    by_the_clock = data | {"training": data["training"] | {"budget_seconds": 3.0}}
    assert draw_curves(campaign, analyze(campaign, data), by_the_clock) is None
    alike = with_optimizers(campaign, "adam", "adam", "adam")
    assert draw_curves(alike, analyze(alike, data), data) is None


def test_telemetry_is_labeled_at_its_ends_with_ticks_that_a_person_reads() -> None:
    names = ["Muon", "Adam", "Kaon", "Nora", "RMNP"]
    campaign = campaign_of(*names)
    data, analysis = analyzed(campaign, {**LOSSES, "Nora": (3.0, 3.0, 3.0), "RMNP": (1.5, 1.5, 1.5)})
    figure = drawn(draw_telemetry, campaign, analysis)
    angle, drift = [axes for axes in figure.axes if axes.get_title("left")]
    assert labeled(angle, "Kaon") == pytest.approx(np.array([[10, 0.0225], [20, 0.0075]]))
    assert labeled(drift, "Kaon") == pytest.approx(np.array([[20, 0.01]])), "what was not measured is not drawn"
    labels = {label.get_text(): label.get_fontweight() for label in end_labels(angle)}
    assert labels == {name: "bold" if name in ("Muon", "RMNP") else "normal" for name in names}
    assert ticks_in(angle.yaxis) == ["0.008", "0.01", "0.015", "0.02"]


def test_telemetry_of_many_methods_has_a_column_for_each_family() -> None:
    methods = [Method(name=f"{family}, v{number}", fields={"momentum": number / 100}, lrs=RATES, family=family)
               for family in ("Muon", "Adam") for number in range(6)]  # fmt: skip
    baselines = ("Muon, v0", "Adam, v0")
    campaign = dataclasses.replace(campaign_of("Muon"), methods=tuple(methods), baselines=baselines)
    data, analysis = analyzed(campaign, {method.name: LOSSES["Muon"] for method in methods})
    figure = drawn(draw_telemetry, campaign, analysis)
    muon, adam, *_ = figure.axes
    assert (muon.get_title("left"), adam.get_title("left"), len(figure.axes)) == ("Muon", "Adam", 4)
    assert {label.get_text() for label in end_labels(adam)} == {f"v{number}" for number in range(6)}
    rates = drawn(draw_loss_against_lr, campaign, analysis, data).axes
    assert [axes.get_title("left") for axes in rates] == ["Muon", "", "Adam", ""]
    assert labeled(rates[2], "Adam, v3")[:, 0] == pytest.approx(RATES)


def test_a_scan_shows_loss_and_cost_by_position() -> None:
    methods = tuple(Method(name=f"Muon, K = {k}", fields={"projection_every": k}, lrs=RATES, position=k, family="Muon")
                    for k in (1, 5, 20))  # fmt: skip
    campaign = dataclasses.replace(campaign_of("Muon"), methods=methods, baselines=("Muon, K = 1",), axis="K")
    losses = {f"Muon, K = {k}": (2.0, 2.1, 2.2 + k / 100) for k in (1, 5, 20)}
    figure = drawn(draw_scan, campaign, analyzed(campaign, losses)[1])
    loss, cost = figure.axes[:2]
    means = [(6.3 + k / 100) / 3 for k in (1, 5, 20)]
    assert labeled(loss, "Muon") == pytest.approx(np.column_stack([[1, 5, 20], means]))
    assert labeled(cost, "Muon")[:, 1] == pytest.approx([0, 0.04 / 3, 0.19 / 3])
    assert ticks_in(loss.xaxis) == ["1", "5", "20"]


def test_sensitivity_shows_each_value_of_a_knob_and_the_surface() -> None:
    findings = findings_of(lambda point: 2.0 + 0.03 * ("alpha" in point.values) - 0.01 * len(point.values), noise=1e-9)
    knobs = drawn(_draw_knobs, STUDY, findings)
    panels = {axes.get_title("left"): axes for axes in knobs.axes}
    assert labeled(panels["alpha"], "Adam")[:, 1] == pytest.approx([0.02, 0.0, 0.02], abs=1e-6)
    assert labeled(panels["gate"], "Muon")[:, 1] == pytest.approx([-0.01, 0.0, -0.01], abs=1e-6)
    assert ticks_in(panels["gate"].xaxis) == ["−1", "0", "1"] and "momentum" in panels
    assert [text.get_text() for text in knobs.legends[0].get_texts()] == [*STUDY.methods]
    first, *_ = drawn(_draw_surfaces, STUDY, findings).axes
    cells = {text.get_position(): text.get_text() for text in first.texts}
    assert cells[(1, 1)] == "default" and cells[(0, 1)] == cells[(1, 0)] == "−0.010" and cells[(2, 2)] == "−0.020"


def test_automata_show_every_grid_and_what_is_kept() -> None:
    described = {"a": {"states": 3, "trajectories": np.arange(24).reshape(2, 3, 2, 2).tolist(), "ratio_low": 0.2,
                       "ratio_high": 0.5, "ratios": [0.1, 0.3, 0.3, 0.4]}}  # fmt: skip
    figure = drawn(draw_automata, described)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(images) == 6 and images[4].tolist() == [[16, 17], [18, 19]]
    ratios = figure.axes[-1]
    assert "kept" in texts(ratios) and sum(patch.get_height() for patch in ratios.patches[1:]) == 4
