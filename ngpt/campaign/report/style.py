"""The look of all figures. Neither the user's matplotlibrc nor MPLBACKEND reaches them: figures here are files.

Other modules import matplotlib's names from here, where it is imported without MPLBACKEND.
"""

import io
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ngpt.campaign.definition import Word
from ngpt.files import replaced_atomically

backend = os.environ.pop("MPLBACKEND", None)  # a notebook's may name a package that is not installed here
import matplotlib  # noqa: E402
from matplotlib import colormaps as colormaps  # noqa: E402
from matplotlib.axes import Axes as Axes  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: E402
from matplotlib.colors import to_hex as to_hex  # noqa: E402
from matplotlib.colors import to_rgb as to_rgb  # noqa: E402
from matplotlib.figure import Figure as Figure  # noqa: E402
from matplotlib.lines import Line2D as Line2D  # noqa: E402
from matplotlib.patches import Patch as Patch  # noqa: E402
from matplotlib.text import Annotation as Annotation  # noqa: E402
from matplotlib.ticker import Formatter as Formatter  # noqa: E402
from matplotlib.ticker import MaxNLocator as MaxNLocator  # noqa: E402
from matplotlib.transforms import ScaledTranslation as ScaledTranslation  # noqa: E402
from matplotlib.transforms import blended_transform_factory as blended_transform_factory  # noqa: E402

if backend is not None:
    os.environ["MPLBACKEND"] = backend

BLUE, VERMILION, GREEN, PINK, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
SKY, INDIGO, WINE, OLIVE, TEAL = "#56B4E9", "#332288", "#882255", "#999933", "#44AA99"
VIOLET, BROWN, GRAY, BLACK, INK = "#9467BD", "#8C564B", "#8A8A8A", "#000000", "#4D4D4D"
COLORS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, INDIGO, OLIVE, BROWN, TEAL, VIOLET, WINE)
"""Okabe and Ito's palette, which is safe for color-blind readers, and more of its kind from Tol's"""

METHOD_COLORS = {
    "Muon": BLUE, "projection": BLUE, "Newton-Schulz": BLUE, "unit vectors": BLUE,
    "Adam": VERMILION, "AdamW": VERMILION, "geodesic Muon": GREEN, "geodesic, θ = lr‖u‖": GREEN, "NorMuon": PINK,
    "Kaon": ORANGE, "RMNP": SKY, "Nora": INDIGO, "Signum": WINE, "MuonH": OLIVE, "MuonSphere": TEAL, "Lion": BROWN,
    "SOAP": VIOLET, "random signs": GRAY,
}  # fmt: skip
"""Colors of methods that occur in several reports, by name; the first four are Muon with projection"""

LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
WORD_COLORS: dict[Word, str] = {
    "better": GREEN, "no difference that matters": "#0060A0", "worse": VERMILION, "undecided": GRAY,
}  # fmt: skip
WORD_MARKERS: dict[Word, str] = {"better": "<", "no difference that matters": "s", "worse": ">", "undecided": "D"}
"""Shapes that tell the words apart in gray print; the triangles point to where the result lies"""

WIDTH = 10.0
"""inches of every figure, on a screen 1,200 pixels"""

STYLE: dict[Any, Any] = {
    "figure.dpi": 120, "figure.constrained_layout.use": True, "figure.titlesize": 10, "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"], "legend.frameon": False, "legend.fontsize": 9,
    "legend.handletextpad": 0.5, "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.labelsize": 9,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.6, "axes.linewidth": 0.7,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "axes.spines.top": False,
    "axes.spines.right": False, "svg.fonttype": "none", "svg.hashsalt": "ngpt",
}  # fmt: skip

FREQUENT = 128
"""of the 256 colors of a PNG, those that more pixels have than any other"""

OF_WINDOWS = {"backend", "backend_fallback", "interactive", "toolbar"}
"""settings that concern windows on a screen, and stay the user's"""


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and saved: matplotlib's defaults and `STYLE`."""
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name not in OF_WINDOWS}
    return matplotlib.rc_context({**defaults, **STYLE})


def subplots(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Figure, Any]:
    """Return a figure of `width` x `height` inches and its axes: one, or an array if there are several."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, **more)


def mixed(color: str, other: str, share: float) -> str:
    """Return `color` with a share of another one in it: with white muted, with black as text."""
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(to_rgb(color), to_rgb(other), strict=True))
    return to_hex((red, green, blue))


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as PNG and, beside it, as SVG, each atomically. Raises InputError if the disk is full.

    Equal figures have equal bytes: nothing in a file says when or with which version it was written.
    """
    image, svg = rendered(figure)
    with replaced_atomically(path) as temporary:
        image.save(temporary, format="png", optimize=True)
    with replaced_atomically(path.with_suffix(".svg")) as temporary:
        temporary.write_text(svg, encoding="utf-8")


def rendered(figure: Figure) -> tuple[Image.Image, str]:
    """Return a figure as an image of few colors and as an SVG. `savefig` would draw it twice for each."""
    drawn, written = FigureCanvasAgg(figure), io.StringIO()
    drawn.draw()
    image = with_few_colors(np.asarray(drawn.buffer_rgba())[..., :3])
    FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None})
    return image, with_numbered_clips(written.getvalue())


def with_numbered_clips(svg: str) -> str:
    """Return an SVG whose clipping paths are numbered; matplotlib names them by digests of their last bits.

    >>> with_numbered_clips('<g clip-path="url(#pf2becc626a)"/><clipPath id="pf2becc626a">')
    '<g clip-path="url(#p0)"/><clipPath id="p0">'
    """
    names = dict.fromkeys(re.findall(r"url\(#(p[0-9a-f]{10})\)", svg))
    numbers = {name: f"p{number}" for number, name in enumerate(names)}
    return re.sub("p[0-9a-f]{10}", lambda found: numbers.get(found[0], found[0]), svg)


def with_few_colors(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return an image (height, width, 3) with at most 256 of its colors, which makes its file a third as large.

    The `FREQUENT` ones stay as they are. Each of the others, the shades at the edges of lines and letters, becomes the
    nearest of all that stay.
    """
    weights = np.array([1 << 16, 1 << 8, 1])
    codes, inverse, counts = np.unique(pixels.reshape(-1, 3) @ weights, return_inverse=True, return_counts=True)
    colors = codes[:, None] // weights % 256
    order = np.argsort(-counts, kind="stable")
    apart, kept = 4.0, [*order[:257]]
    while len(kept) > 256:
        kept, left = [], np.ones(len(codes), dtype=bool)
        for rank, index in enumerate(order):
            if (left[index] or rank < FREQUENT) and len(kept) <= 256:
                kept.append(index)
                left &= np.abs(colors - colors[index]).max(axis=1) > apart
        apart *= 1.5
    palette = colors[kept]
    nearest = np.array([np.abs(palette - color).sum(axis=1).argmin() for color in colors], dtype=np.uint8)
    image = Image.fromarray(nearest[inverse].reshape(pixels.shape[:2]))
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image
