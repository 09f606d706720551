"""Figures as SVG that follow the page from light to dark, narrow enough for a phone.

matplotlib draws them; its text becomes outlines, so they look the same everywhere. Each figure is a picture of its own
inside the page: nothing in it can reach the page.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.plotting import COLOURS, arm_style, plain, printable

INK, MUTED, GRID, PAPER = "#1c2127", "#5a6570", "#dfe3e8", "#fefefe"
"""Colours that stand for the page's own; nothing else is drawn in them."""
DARK = {
    INK: "#e8eaed",
    MUTED: "#a3adb8",
    GRID: "#323a43",
    PAPER: "#161a1f",
    COLOURS[0]: "#5aaee6",
    COLOURS[1]: "#f08b4a",
    COLOURS[2]: "#35c79c",
    COLOURS[3]: "#e2a3c8",
    COLOURS[4]: "#f2b63d",
    COLOURS[5]: "#8fcdf3",
    COLOURS[6]: "#e8eaed",
}
"""What they become where the reader prefers a dark page."""
Place = Literal["best", "lower left", "lower right", "upper left", "upper right", "center right"]
WIDTH = 5.0
"""Inches."""
SETTINGS: dict[Any, object] = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "font.size": 9.5,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "kd-search",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Drawn:
    """One figure."""

    name: str
    title: str
    alt: str
    """What it shows, for somebody who cannot see it; its numbers stand in a table of the page."""
    svg: bytes
    note: str = ""
    """How to read it."""


@contextmanager
def canvas(height: float = 3.6) -> Iterator[Figure]:
    """A figure to be drawn on and saved within the `with`."""
    with mpl.rc_context(SETTINGS):
        yield Figure((WIDTH, height), layout="constrained", facecolor="none")


def svg(figure: Figure) -> bytes:
    """The figure as SVG with colours that follow the reader's preference; the same figure gives the same bytes."""
    data = io.BytesIO()
    figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    text = data.getvalue().decode()
    names = {colour.lower(): f"--c{place}" for place, colour in enumerate(DARK)}
    for colour, name in names.items():
        text = text.replace(colour, f"var({name})")
    light = "".join(f"{name}:{colour};" for colour, name in names.items())
    dark = "".join(f"{names[colour.lower()]}:{other};" for colour, other in DARK.items())
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    head, opening, rest = text.partition("<defs>")
    return f"{head}{style}{opening}{rest}".encode()


def quiet(axes: Axes) -> None:
    """A quiet grid and two spines."""
    axes.grid(visible=True, color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_edgecolor(MUTED)


def named_axes(axes: Axes, x: str, y: str) -> None:
    """Labels that draw what users chose as it is."""
    plain(axes.set_xlabel(printable(x, 60)))
    plain(axes.set_ylabel(printable(y, 60)))


def legend_below(figure: Figure, axes: Axes) -> None:
    """The legend under the figure, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        box = figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        for text in box.get_texts():
            plain(text)


def style_of(arms: Sequence[str], arm: str) -> tuple[str, str]:
    """Colour and marker of an arm, the same in all figures."""
    return arm_style(list(arms).index(arm))
