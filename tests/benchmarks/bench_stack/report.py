"""The benchmark's tables and its plot, drawn from what `results.build` gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing
from rich.console import Console
from rich.table import Table

from tests.benchmarks.bench_stack.profiles import SCALED, STOCK
from tests.benchmarks.bench_stack.results import FIGURES, LEVER_FIGURES, Figure, improvement

INK, ACCENT, FAINT = "#24292f", "#1f6feb", "#8c959f"
DISTURBED_CORES = 0.2

Results = dict[str, Any]
Summary = dict[str, float]


def print_tables(results: Results, console: Console) -> None:
    """Print what was measured, on what, and with which ranges."""
    console.print(comparison_table(results))
    if results["levers"]:
        console.print(levers_table(results))
    if any(profile.name in results["profiles"] for profile in SCALED):
        console.print(scale_out_table(results))
    for line in notes(results):
        console.print(line, soft_wrap=True)


def comparison_table(results: Results) -> Table:
    """Give a row per figure: stock, ours, and ours ÷ stock."""
    table = Table(title="ours against stock", title_justify="left")
    table.add_column("median (least – most)")
    for column in ("stock", "ours", "ours ÷ stock"):
        table.add_column(column, justify="right")
    for figure in FIGURES:
        stock, ours = pair(figure, results)
        found = results["ratios"][figure.key]
        table.add_row(
            f"{figure.label}, {figure.unit}",
            shown(stock),
            shown(ours),
            "–" if found is None else f"{found:.2f}",
        )
    return table


def pair(figure: Figure, results: Results) -> tuple[Summary | None, Summary | None]:
    """Give the summaries of stock and of ours for `figure`; None where it was not measured."""
    key, profiles = figure.source or figure.key, results["profiles"]
    stock, ours = (profiles.get(name, {}).get(key) for name in (STOCK.name, figure.ours))
    return stock, ours


def shown(summary: Summary | None) -> str:
    """Give a summary as `median (least – most)`, three digits each."""
    if summary is None:
        return "–"
    median, least, most = (digits(summary[key]) for key in ("median", "min", "max"))
    return median if summary["n"] == 1 else f"{median} ({least} – {most})"


def digits(value: float) -> str:
    """Give `value` with three significant digits, never as a power of ten."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def levers_table(results: Results) -> Table:
    """Give a row per lever: how many times better each figure is with it than without."""
    title = "what each lever adds: × better with it than with it alone switched off"
    table = Table(title=title, title_justify="left")
    table.add_column("lever")
    for figure in LEVER_FIGURES:
        table.add_column(figure.key, justify="right")
    for lever, better in results["levers"].items():
        cells = (f"{better[figure.key]:.2f}" for figure in LEVER_FIGURES)
        table.add_row(lever, *cells)
    return table


def scale_out_table(results: Results) -> Table:
    """Give a row per stack: the share of linear that two and four workers reach."""
    sizes = results["sizes"]
    title = f"scale-out: {sizes['sleepers']} tasks of {sizes['sleep_s']:g} s, 4 slots a worker, share of linear"
    table = Table(title=title, title_justify="left")
    for column in ("", "1 worker", "2 workers", "4 workers"):
        table.add_column(column, justify="right" if column else "left")
    for profile in SCALED:
        if found := results["profiles"].get(profile.name):
            shares = (f"{found[f'workers_{n}']['median']:.0%}" for n in (1, 2, 4))
            table.add_row(profile.name.partition(",")[0], *shares)
    return table


def notes(results: Results) -> list[str]:
    """Say what the figures were measured on, and whether the machine was quiet."""
    machine, versions = results["machine"], results["versions"]
    meters = {s["details"].get("cpu_meter") for s in results["sessions"]} - {None}
    lines = [
        f"{results['date']}, {results['commit']}; {machine['cores']} cores {machine['processor']}, "
        f"{machine['memory_gib']} GiB, {machine['system']}; CPU by {', '.join(sorted(meters))}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    others = results["other_cores"]
    if others and others["max"] > DISTURBED_CORES:
        lines.append(
            f"Not a quiet machine: others used {others['median']:.2f} cores, at most {others['max']:.2f}."
        )
    return lines


@dataclass(frozen=True)
class Bar:
    """How many times better than stock ours is, by the medians, and at least and most."""

    label: str
    better: float
    least: float
    most: float
    text: str


def bars(results: Results) -> list[Bar]:
    """Give a bar per figure that both profiles have; a 0 cannot be drawn."""
    found = []
    for figure in FIGURES:
        stock, ours = pair(figure, results)
        if not stock or not ours or not stock["median"] or not ours["min"]:
            continue
        better, *ends = (
            improvement(figure, ours[key], stock["median"]) for key in ("median", "min", "max")
        )
        text = (
            f"× {better:.2g}   {digits(stock['median'])} → {digits(ours['median'])} {figure.unit}"
        )
        found.append(Bar(figure.label, better, min(ends), max(ends), text))
    return found


def draw(results: Results, file: Path) -> None:
    """Draw how many times better than stock ours is, figure by figure, as SVG."""
    rows = bars(results)[::-1]  # the first on top
    drawing = Drawing(figsize=(8, 0.4 * len(rows) + 1.1), layout="constrained")
    axes = drawing.add_subplot()
    for place, bar in enumerate(rows):
        colour = ACCENT if bar.better >= 1 else FAINT
        axes.barh(place, bar.better - 1, left=1, color=colour, height=0.6)
        axes.plot([bar.least, bar.most], [place, place], color=INK, linewidth=1)
        at = (max(bar.most, 1), place)
        axes.annotate(bar.text, at, (6, -3), textcoords="offset points", fontsize=8, color=INK)
    axes.set_yticks(range(len(rows)), [bar.label for bar in rows])
    _style(axes, results)
    # Text as text, and the same bytes for the same results.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        FigureCanvasSVG(drawing).print_svg(file, metadata={"Date": None})


def _style(axes: Any, results: Results) -> None:
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 4)  # room for the text
    axes.set_xlabel("times better than stock (logarithmic; lines: least and most)", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    title = f"Airflow {results['versions']['apache-airflow']}, {results['machine']['cores']} cores, {results['date']}"
    axes.set_title(title, loc="left", fontsize=10, color=INK)
