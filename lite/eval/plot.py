"""The picture of the report: accuracy against all tokens, one labelled point per mode; and the choices by difficulty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from lite.eval.modes import CAP, LEAN, OFF
from lite.tokens import BASE, MODES, POLICY, SFT_POLICY

LOOKS = {  # colour, marker
    BASE: ("#555555", "s"),
    SFT_POLICY: ("#d98200", "D"),
    POLICY: ("#c1121f", "*"),
    OFF: ("#7b2d8b", "P"),
}
DIAL_LOOK = ("#1d6fb8", "o")
CAP_LOOK, LEAN_LOOK = ("#2e7d32", "v"), ("#c1121f", ".")
# Where a label may stand around its point, in points, nearest first.
PLACES = [
    (side * across, up)
    for reach in (10, 24, 40, 58, 78)
    for side, across, up in (
        (1, reach * 0.8, reach), (1, reach * 0.8, -reach), (-1, reach * 0.8, reach), (-1, reach * 0.8, -reach),
        (1, reach * 1.2, 0), (-1, reach * 1.2, 0), (1, 0, reach * 1.3), (1, 0, -reach * 1.3),
    )
]  # fmt: skip


def plot(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    file: IO[bytes],
    choices: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Draw the report's rows, and its `choices` beside them, as PNG into a binary file."""
    shown = {name: found for name, found in (choices or {}).items() if found["chosen"]}
    figure = Figure(figsize=(11 if shown else 8, 5.2), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 4, (1, 3)) if shown else figure.add_subplot()
    if shown:
        _stack(figure.add_subplot(1, 4, 4), *list(shown.items())[-1])  # what the source knows, else r*
    points = {}
    for row in rows:
        colour, marker = _look(row["mode"])
        x, y = row["total_tokens"], 100 * row["accuracy"]
        low, high = (100 * bound for bound in row["accuracy_ci95"])
        axes.errorbar(
            x, y, yerr=[[max(0, y - low)], [max(0, high - y)]],
            color=colour, marker=marker, markersize=13 if marker == "*" else 7, elinewidth=1, capsize=2.5,
            alpha=0.9, zorder=3,
        )  # fmt: skip
        points[row["mode"]] = (x, y)
    dial = [points[mode] for mode in MODES[:-1] if mode in points]
    axes.plot(
        [x for x, _ in dial], [y for _, y in dial], color=DIAL_LOOK[0], linewidth=1, alpha=0.4, zorder=1
    )
    axes.set_xlabel("all tokens of a reply, think span and answer (mean)")
    axes.set_ylabel("accuracy, % (95 % interval)")
    axes.set_title(f"{title}: what the dial costs, {rows[0]['num_problems']} problems", fontsize=11)
    axes.set_xlim(left=0, right=1.12 * max(row["total_tokens"] for row in rows) + 1)
    axes.grid(alpha=0.25)
    axes.margins(y=0.12)
    axes.set_ylim(bottom=max(0, axes.get_ylim()[0]), top=min(101, axes.get_ylim()[1]))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what is measured now stays where it is
    _label(axes, points, canvas.get_renderer())
    canvas.print_png(file)


def _look(mode: str) -> tuple[str, str]:
    kinds = {CAP: CAP_LOOK, LEAN: LEAN_LOOK}
    return next((look for kind, look in kinds.items() if mode.startswith(kind)), LOOKS.get(mode, DIAL_LOOK))


def _stack(axes: Any, name: str, found: Mapping[str, Any]) -> None:
    """Shares of the chosen ratios, stacked, one bar for each difficulty."""
    shades = ("#c6dbef", "#85bcdc", "#4292c6", "#1d6fb8", "#08306b")
    hard = list(found["chosen"])
    low = [0.0] * len(hard)
    for ratio, shade in zip(MODES, shades, strict=False):
        shares = [100 * row[ratio] / sum(row.values()) for row in found["chosen"].values()]
        axes.bar(hard, shares, bottom=low, color=shade, label=ratio, width=0.75)
        low = [a + b for a, b in zip(low, shares, strict=True)]
    rank = "" if found["spearman"] is None else f"\nSpearman {found['spearman']:.2f}"
    axes.set_title(f"what the policy chose{rank}", fontsize=11)
    axes.set_xlabel(name)
    axes.set_ylabel("share of problems, %")
    axes.set_ylim(0, 100)
    axes.legend(title="chosen", fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)


def _label(axes: Any, points: Mapping[str, tuple[float, float]], renderer: Any) -> None:
    """Name every point where its label covers no marker and no other label, nearest place first."""
    scale = axes.figure.dpi / 72
    taken = [
        Bbox.from_bounds(x - 6 * scale, y - 6 * scale, 12 * scale, 12 * scale)
        for x, y in axes.transData.transform(list(points.values()))
    ]
    inside = axes.get_window_extent(renderer)
    for mode, point in points.items():
        colour = _look(mode)[0]
        label = axes.annotate(
            mode, point, xytext=(0, 0), textcoords="offset points", ha="center", va="center", fontsize=9,
            color=colour, fontweight="bold" if mode == POLICY else "normal", zorder=4,
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.4, "linewidth": 0.7, "shrinkB": 5},
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )  # fmt: skip
        size = Text.get_window_extent(label, renderer)  # without the line to its point
        for across, up in PLACES:
            shift = across + (
                size.width / scale / 2 if across > 0 else -size.width / scale / 2 if across < 0 else 0
            )
            x, y = axes.transData.transform(point) + (shift * scale, up * scale)
            box = Bbox.from_bounds(
                x - size.width / 2 - 2, y - size.height / 2 - 2, size.width + 4, size.height + 4
            )
            within = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
            if within and not any(box.overlaps(other) for other in taken):
                break
        label.set_position((shift, up))
        taken.append(box)
