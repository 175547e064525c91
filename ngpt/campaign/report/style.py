"""The look of all figures. Neither the user's matplotlibrc nor MPLBACKEND reaches them: figures here are files.

Other modules import matplotlib's names from here, where it is imported without MPLBACKEND.
"""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ngpt.campaign.definition import Word
from ngpt.files import replaced_atomically

backend = os.environ.pop("MPLBACKEND", None)  # a notebook's may name a package that is not installed here
import matplotlib  # noqa: E402
from matplotlib import colormaps as colormaps  # noqa: E402
from matplotlib.axes import Axes as Axes  # noqa: E402
from matplotlib.figure import Figure as Figure  # noqa: E402

if backend is not None:
    os.environ["MPLBACKEND"] = backend

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#7B5EA7")
"""Okabe and Ito's palette, which is safe for color-blind readers, and two more"""

LINES = ("-", "--", ":", "-.")
WORD_COLORS: dict[Word, str] = {
    "better": "#009E73", "no difference that matters": "#0072B2", "worse": "#D55E00", "undecided": "#999999",
}  # fmt: skip

STYLE: dict[Any, Any] = {
    "figure.dpi": 130, "figure.constrained_layout.use": True, "figure.titlesize": 9, "font.size": 10,
    "legend.frameon": False, "legend.fontsize": 8, "axes.titlesize": 9, "axes.grid": True, "grid.alpha": 0.3,
    "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip

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


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as PNG, atomically. Raises InputError if the disk is full."""
    with replaced_atomically(path) as temporary:
        figure.savefig(temporary, format="png")
