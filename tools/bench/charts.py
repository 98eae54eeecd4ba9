"""Pictures of the benchmarks: SVG by matplotlib, which the extra ``bench`` installs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLOURS = ("#1b5e8c", "#5aa5d0", "#c8553d", "#e8a87c", "#6b8f52", "#8d7bb0")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "graphshard",
    "font.size": 9,
    "font.family": "sans-serif",
}


def grouped_bars(
    path: Path, title: str, groups: Sequence[str], values: Mapping[str, Sequence[float]], unit: str
) -> None:
    """Bars on a log scale, one cluster for each group, one colour for each name in ``values``, labelled."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 0.6 + 0.26 * len(groups) * (len(values) + 1)), layout="constrained")
        axes = figure.subplots()
        height = 0.85 / len(values)
        for i, (name, lengths) in enumerate(values.items()):
            places = [g + (i - (len(values) - 1) / 2) * height for g in range(len(groups))]
            bars = axes.barh(places, lengths, height * 0.9, label=name, color=_COLOURS[i % len(_COLOURS)])
            axes.bar_label(bars, [f"{v:.3g}" for v in lengths], padding=3, fontsize=8)
        axes.set_xscale("log")
        axes.margins(x=0.12)
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=min(3, len(values)), frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def lines(path: Path, panels: Sequence[tuple[str, str, Mapping[str, Sequence[tuple[float, float]]]]]) -> None:
    """One panel each of ``(title, y label, {name: [(parts, value)]})``, both axes logarithmic."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
        all_axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, unit, curves) in zip(all_axes, panels, strict=True):
            for i, (name, points) in enumerate(curves.items()):
                axes.plot(
                    *zip(*points, strict=True),
                    marker="o",
                    ms=4,
                    label=name,
                    color=_COLOURS[i % len(_COLOURS)],
                )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xlabel("parts")
            axes.set_ylabel(unit)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None})
