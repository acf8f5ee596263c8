"""The results' figures, for a page that is read and not pressed: SVG by matplotlib, of the extra [train].

A score is {"value", "low", "high"}, as in ``evaluation``. White stands behind each figure, so that it can be
read on a dark page; colours are told apart by the colour-blind (Okabe and Ito's), and marks differ as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "svg.fonttype": "none",  # a third of the size of outlines, and it can be searched and read aloud
    "svg.hashsalt": "erarec",  # the same ids each time, so that the same figures are the same files
}

Score = Mapping[str, float]


@mpl.rc_context(STYLE)
def changes(path: Path, rows: Mapping[str, Score], unit: str) -> None:
    """What each step changes, one below the other, beside a line at no change."""
    figure, axes = _figure(7, 0.8 + 0.26 * len(rows))
    _points(axes, rows, scale=100)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_xlabel(unit)
    _save(figure, path)


@mpl.rc_context(STYLE)
def sweeps(path: Path, panels: Mapping[str, Mapping[str, Score]], unit: str) -> None:
    """A panel for each swept weight: what its values change, against the first row of its section."""
    figure = Figure((7, 2.6), layout="constrained")
    for axes, (name, rows) in zip(_row_of_axes(figure, len(panels)), panels.items(), strict=True):
        places = np.arange(len(rows))
        value, low, high = (100 * np.array([row[key] for row in rows.values()]) for key in _KEYS)
        axes.errorbar(places, value, [value - low, high - value], fmt="o", color=COLOURS[0], capsize=3)
        axes.axhline(0, color=GREY, linewidth=1)
        axes.set_xticks(places, list(rows))
        axes.set_xlim(-0.5, len(rows) - 0.5)
        axes.set_title(name, fontsize=9)
    figure.axes[0].set_ylabel(unit)
    _save(figure, path)


@mpl.rc_context(STYLE)
def by_group(
    path: Path, groups: Sequence[str], lines: Mapping[str, Sequence[float]], unit: str, boundary: str = ""
) -> None:
    """One mark a group and line, joined; a gap where there is no number; a rule before ``boundary``."""
    figure, axes = _figure(7, 3.8)
    places = np.arange(len(groups))
    for colour, mark, (name, values) in zip(COLOURS, MARKS, lines.items(), strict=False):
        axes.plot(places, values, color=colour, marker=mark, markersize=5, linewidth=1.5, label=name)
    if boundary in groups:
        axes.axvline(groups.index(boundary) - 0.5, color=GREY, linewidth=1, linestyle="--")
    axes.set_xticks(places, groups)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    _save(figure, path)


@mpl.rc_context(STYLE)
def confusions(path: Path, groups: Sequence[str], panels: Mapping[str, np.ndarray]) -> None:
    """Of each true decade (a row) the percentage answered with each decade. Shape: [G, G], rows sum to 1."""
    size = 0.34 * len(groups)
    figure = Figure((1 + (size + 0.2) * len(panels), 1.2 + size), layout="constrained")
    for axes, (name, shares) in zip(_row_of_axes(figure, len(panels)), panels.items(), strict=True):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="none")  # as small as it can be
        for row, column in np.argwhere(np.nan_to_num(shares) >= 0.005):
            share = shares[row, column]
            axes.text(
                column,
                row,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if share > 0.5 else "black",
            )
        axes.set_xticks(range(len(groups)), groups, rotation=90)
        axes.set_yticks(range(len(groups)), groups)
        axes.grid(visible=False)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("answered")
    figure.axes[0].set_ylabel("true")
    _save(figure, path)


@mpl.rc_context(STYLE)
def within(path: Path, errors: Mapping[str, np.ndarray]) -> None:
    """The share of clips with at most so many years of error. Shape: [N] each."""
    figure, axes = _figure(7, 3)
    limits = np.arange(41)
    for colour, dash, (name, values) in zip(COLOURS, ("-", "--", ":"), errors.items(), strict=False):
        shares = (values[:, None] <= limits).mean(0)
        axes.plot(limits, 100 * shares, color=colour, linestyle=dash, linewidth=2, label=name)
    axes.set_xlabel("years of error, at most")
    axes.set_ylabel("% of the clips")
    axes.set_ylim(0, 100)
    axes.set_xlim(0, limits[-1])
    axes.legend(frameon=False)
    _save(figure, path)


@mpl.rc_context(STYLE)
def shares(
    path: Path, rows: Mapping[str, Score], unit: str, chances: Mapping[str, float] | None = None
) -> None:
    """Shares of the clips with their intervals, and a cross where chance alone would be."""
    figure, axes = _figure(7, 1 + 0.28 * len(rows))
    _points(axes, rows, scale=100)
    if chances is not None:
        places = [100 * chances[name] for name in rows]
        axes.scatter(places, range(len(rows)), marker="x", color=GREY, label="by chance", zorder=3)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    _save(figure, path)


_KEYS = ("value", "low", "high")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def _row_of_axes(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, sharey=True, squeeze=False)[0])


def _points(axes: Axes, rows: Mapping[str, Score], scale: float) -> None:
    value, low, high = (scale * np.array([row[key] for row in rows.values()]) for key in _KEYS)
    places = np.arange(len(rows))
    axes.errorbar(value, places, xerr=[value - low, high - value], fmt="o", color=COLOURS[0], capsize=3)
    axes.set_yticks(places, list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white", metadata={"Date": None})
