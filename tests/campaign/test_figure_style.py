"""The look of figures: colors, emphasis, labels, ticks, ranges, and the files."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from ngpt.campaign.report.figures import draw_figures
from ngpt.campaign.report.figures.looks import looks_of, named_of, standing_out
from ngpt.campaign.report.figures.marks import (
    Differences,
    End,
    Look,
    end_labels,
    label_ends,
    log_ticks,
    plain,
    range_without_far,
    spread,
)
from ngpt.campaign.report.figures.rates import draw_loss_against_lr
from ngpt.campaign.report.style import (
    BLUE,
    FREQUENT,
    GRAY,
    METHOD_COLORS,
    VERMILION,
    save,
    style,
    subplots,
    with_few_colors,
)

sys.path.insert(0, str(Path(__file__).parent))
from mini_figures import LOSSES, analyzed, campaign_of, drawn


def test_a_method_has_one_color_in_all_reports() -> None:
    here = looks_of(campaign_of("Muon", "Adam", "NorMuon", "mine", "yours"))
    there = looks_of(campaign_of("yours", "geodesic Muon", "NorMuon", "Adam", "Muon"))
    for name in ("Muon", "Adam", "NorMuon"):
        assert here[name].color == there[name].color == METHOD_COLORS[name]
    assert (here["Muon"].color, here["Adam"].color) == (BLUE, VERMILION)
    assert len({look.color for look in here.values()}) == 5
    many = looks_of(campaign_of(*METHOD_COLORS, *(f"other {number}" for number in range(20))))
    others = [many[f"other {number}"] for number in range(20)]
    assert len({(look.color, str(look.line)) for look in others}) == 20
    assert not {(look.color, str(look.line)) for look in others} & {(c, "-") for c in METHOD_COLORS.values()}


def test_names_that_begin_alike_share_a_color_and_a_control_is_gray() -> None:
    looks = looks_of(campaign_of("Muon", "Muon, tangent", "Muon, ramp", "Adam", control=True))
    assert looks["Muon"].color == looks["Muon, tangent"].color == looks["Muon, ramp"].color == BLUE
    assert len({str(looks[name].line) for name in ("Muon", "Muon, tangent", "Muon, ramp")}) == 3
    assert looks["Muon, other batches"].color == GRAY


def test_baseline_and_best_stand_out_among_many() -> None:
    names = ["Muon", "Adam", "Kaon", "Nora", "RMNP"]
    campaign = campaign_of(*names, control=True)
    analysis = analyzed(campaign, {**LOSSES, "Nora": (1.9, 2.0, 2.1), "RMNP": (3.0, 3.0, 3.0)})[1]
    assert standing_out(campaign, analysis, [*names, "Muon, other batches"]) == {"Muon", "Nora"}
    assert standing_out(campaign, analysis, ["Muon", "RMNP"]) == {"Muon", "RMNP"}, "two need no emphasis"
    looks = looks_of(campaign)
    strong, muted = looks["Nora"].of_line(True), looks["Nora"].of_line(False)
    assert strong["linewidth"] > muted["linewidth"] and to_hex(strong["color"]) != to_hex(muted["color"])


def test_of_very_many_lines_the_baseline_and_the_best_are_named() -> None:
    names = ["Muon", *(f"m{number}" for number in range(20))]
    campaign = campaign_of(*names)
    losses = {name: (2.0 - 0.01 * number,) * 3 for number, name in enumerate(names)}
    data, analysis = analyzed(campaign, losses)
    named = named_of(campaign, analysis, names)
    assert named == ["Muon", *names[-9:]]
    left, right = drawn(draw_loss_against_lr, campaign, analysis, data).axes
    assert {label.get_text() for label in end_labels(right)} == {*named}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([0.0, 5.0], [0.0, 5.0]),
        ([5.0, 5.0], [4.5, 5.5]),
        ([5.0, 4.9, 5.1], [5.0, 4.0, 6.0]),
        ([0.0, 0.0], [0.0, 1.0]),
        ([10.0, 10.0], [9.0, 10.0]),
        ([5.0] * 20, [float(place) for place in range(20)]),
    ],
)
def test_labels_are_spread_as_little_as_possible(wanted: list[float], expected: list[float]) -> None:
    assert spread(wanted, 1.0, 0.0, 10.0) == pytest.approx(expected)


def test_labels_at_the_ends_of_lines_do_not_overlap_and_stay_beside_the_axes() -> None:
    with style():
        figure, axes = subplots(10.0, 3.0)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        ends = [End(x=0.9, y=0.5 + 0.01 * number, text=f"line {number}", look=Look(color=BLUE)) for number in range(9)]
        ends += [End(x=1.0, y=7.0, text="far above", look=Look(color=BLUE), strong=True)]
        label_ends(figure, {axes: ends})
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in end_labels(axes)]
    order = sorted(range(10), key=lambda i: boxes[i].y0)
    text_height = 8.5 * figure.dpi / 72
    middles = [(boxes[i].y0 + boxes[i].y1) / 2 for i in order]
    places = sorted(label.get_position()[1] * axes.bbox.height for label in end_labels(axes))
    assert np.diff(places).min() > text_height and len(middles) == 10
    assert [end_labels(axes)[i].get_text() for i in order[-1:]] == ["far above"]
    assert max(places) <= axes.bbox.height and min(places) >= 0
    assert all(label.get_window_extent().x1 <= figure.bbox.width for label in end_labels(axes))


def test_ticks_that_a_person_reads() -> None:
    assert log_ticks(0.004, 0.3) == [0.01, 0.03, 0.1, 0.3]
    assert log_ticks(0.016, 0.072) == [0.02, 0.03, 0.04, 0.06]
    assert log_ticks(1e-8, 0.1, most=4) == [1e-7, 1e-5, 1e-3, 1e-1]
    assert 2 < len(log_ticks(0.031, 0.036)) < 8
    assert [plain(value) for value in (0.015, 200.0, 1e-7, -0.02, 3e-6)] == ["0.015", "200", "10⁻⁷", "−0.02", "3·10⁻⁶"]
    assert Differences().format_ticks([-0.05, 0.0, 0.1]) == ["−0.05", "0", "+0.10"]


def test_a_range_leaves_out_what_would_squash_the_rest() -> None:
    assert range_without_far([-0.01, 0.0, 0.6], [0.02, 0.05, 0.64], 0.03) == (-0.03, 0.05)
    assert range_without_far([-0.01, 0.0, 0.06], [0.02, 0.05, 0.12], 0.03) == (-0.03, 0.12)
    assert range_without_far([-0.01, 0.5], [0.02, 0.6], 0.03) == (-0.03, 0.6), "of two, neither is left out"


@pytest.mark.drawn
def test_figures_have_the_same_bytes_whatever_the_user_prefers(tmp_path: Path) -> None:
    campaign = campaign_of("Muon", "Adam", "Kaon", control=True)
    data, analysis = analyzed(campaign)
    files = draw_figures(campaign, analysis, data, tmp_path / "one")
    assert files == {kind: f"shown_{kind}.png" for kind in ("effects", "loss_against_lr", "differences", "telemetry")}
    tastes = {"font.size": 30, "savefig.transparent": True, "figure.facecolor": "#000000", "svg.hashsalt": None,
              "savefig.dpi": 20, "svg.fonttype": "path", "lines.linewidth": 9}  # fmt: skip
    with matplotlib.rc_context(tastes):
        draw_figures(campaign, analysis, data, tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted([*files.values(), *(name.replace(".png", ".svg") for name in files.values())])
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    for name in files.values():
        pixels = imread(tmp_path / "one" / name)
        assert pixels.shape[1] == 1200 and pixels[0, 0, :3].tolist() == [1, 1, 1], "white, and as wide as a screen"
        assert pixels.shape[2] == 3 or pixels[..., 3].min() == 1, "opaque, for dark pages"
        text = (tmp_path / "one" / name).with_suffix(".svg").read_text()
        assert "<dc:date>" not in text and "<text" in text and "DejaVu Sans" in text


def test_few_colors_keep_what_is_drawn_and_come_close_to_the_rest(tmp_path: Path) -> None:
    shades = np.arange(120 * 120, dtype=np.int64)
    rare = np.stack([shades % 251, shades // 7 % 256, shades // 60 % 256], axis=-1).reshape(120, 120, 3)
    pixels = np.full((240, 120, 3), 255, dtype=np.uint8)
    pixels[:120] = rare
    for number in range(FREQUENT - 2):
        pixels[120 + number // 2 % 60, 60 * (number % 2) : 60 * (number % 2) + 60] = (number, 10, 200)
    image = with_few_colors(pixels)
    shown = np.asarray(image.convert("RGB")).astype(int)
    assert len(np.unique(np.asarray(image))) <= 256
    assert (shown[120:] == pixels[120:]).all(), "colors of many pixels stay as they are"
    plain_lines = np.full((10, 10, 3), 255, dtype=np.uint8)
    plain_lines[5] = (0, 114, 178)
    assert (np.asarray(with_few_colors(plain_lines).convert("RGB")) == plain_lines).all()


def test_the_last_bits_of_a_clipping_path_do_not_name_it(tmp_path: Path) -> None:
    with style():
        figure, axes = subplots(2, 2)
        axes.plot([0, 1])
        save(figure, tmp_path / "a.png")
    svg = (tmp_path / "a.svg").read_text()
    assert 'clip-path="url(#p0)"' in svg and '<clipPath id="p0">' in svg and re.search("p[0-9a-f]{10}", svg) is None
    assert doctest.testmod(sys.modules[save.__module__]) == (0, 1)


def test_a_figure_is_written_as_png_and_svg(tmp_path: Path) -> None:
    with style():
        figure, axes = subplots(2.0, 1.0)
        axes.plot([0, 1], [0, 1])
        save(figure, tmp_path / "a.png")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.svg"}


def test_neither_a_matplotlibrc_nor_a_notebooks_backend_reaches_a_figure(tmp_path: Path) -> None:
    """TeX, huge letters, and a backend whose package is not there."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\nbackend: module://no_such_package\n")
    (tmp_path / "draw.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom ngpt.campaign.report.style import save, style, subplots\n"
        "with style():\n    figure, axes = subplots(4, 3)\n    axes.plot([1, 2], [3, 1], label='a_b')\n"
        "    axes.legend()\n    save(figure, Path(sys.argv[1]))\n"
    )
    hostile = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "MPLBACKEND": "module://matplotlib_inline.no_such"}
    for name, more in (("plain", {}), ("hostile", hostile)):
        command = [sys.executable, str(tmp_path / "draw.py"), str(tmp_path / f"{name}.png")]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **more}
        subprocess.run(command, env=environment, check=True, timeout=120)
    for suffix in (".png", ".svg"):
        plain, other = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in ("plain", "hostile"))
        assert plain == other
