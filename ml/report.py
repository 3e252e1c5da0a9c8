"""A version's report: one HTML page that needs nothing beside it, and its figures as PNG files.

Figures are drawn without a display and without pyplot's global state, so tasks may draw in threads.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from sklearn.calibration import calibration_curve
from sklearn.inspection import permutation_importance
from sklearn.metrics import precision_recall_curve, roc_curve

from ml.artifacts import load_model
from ml.evaluate import BARS, Comparison, Estimate
from ml.gate import Verdict
from ml.preprocess import features_of, labels_of
from ml.registry import HELD_OUT_FILE
from ml.schema import FEATURES, ID, MALIGNANT, TARGET
from ml.score import LABEL, SCORE, score_rows
from ml.train import METRICS, SELECTION_SCORE, bounded_threads

REPORT_FILE = "report.html"
IMPORTANCES_SHOWN = 15
PERMUTATIONS = 5
CALIBRATION_BINS = 6

INK, ACCENT, SECOND, FAINT = "#24292f", "#1f6feb", "#d1242f", "#8c959f"
_FONT = 10

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _HeldOut:
    """The held-out rows as the model sees them: (n,) labels (1 malignant), probabilities, calls."""

    labels: NDArray[np.int64]
    probabilities: _Floats
    called: NDArray[np.int64]


def render_report(
    comparison: Comparison,
    verdict: Verdict,
    test: DataFrame,
    *,
    facts: Mapping[str, str],
    seed: int,
) -> dict[str, bytes]:
    """Give the report's files by name: `report.html`, the figures, and `held_out.csv`.

    Args:
        comparison: the best candidate and its evaluation.
        verdict: how it stands against the champion.
        test: (n, 32) held-out rows.
        facts: what the page says about the version besides, by name.
        seed: of the permutations.

    Raises:
        ArtifactError: the model's file is missing or was changed.
    """
    file = comparison.best.model_file
    model = load_model(file.path, file.sha256)
    predictions = score_rows(test, model, comparison.best.calibration)
    held_out = _HeldOut(
        labels_of(test),
        predictions[SCORE].to_numpy(),
        np.asarray(predictions[LABEL] == MALIGNANT, dtype="int64"),
    )
    figures = {
        "confusion.png": _draw_confusion(comparison),
        "roc.png": _draw_roc(held_out, comparison),
        "precision_recall.png": _draw_precision_recall(held_out, comparison),
        "calibration.png": _draw_calibration(held_out),
        "importances.png": _draw_importances(model, test, seed),
    }
    if verdict.differences:
        figures["champion.png"] = _draw_differences(verdict)
    images = {name: _to_png(figure) for name, figure in figures.items()}
    table = predictions.assign(**{TARGET: test[TARGET].to_numpy()})[[ID, TARGET, SCORE, LABEL]]
    return {
        **images,
        HELD_OUT_FILE: table.to_csv(index=False, lineterminator="\n").encode(),
        REPORT_FILE: _page(comparison, verdict, facts, images).encode(),
    }


def _new_figure(title: str, *, width: float = 5.0, height: float = 4.2) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=_FONT + 1, color=INK, loc="left", fontweight="bold", pad=10)
    axes.tick_params(colors=INK, labelsize=_FONT - 1, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(color="#eaeef2", linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


def _label(axes: Any, across: str, up: str) -> None:
    axes.set_xlabel(across, fontsize=_FONT, color=INK)
    axes.set_ylabel(up, fontsize=_FONT, color=INK)


def _unit_square(axes: Any) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def _draw_confusion(comparison: Comparison) -> Figure:
    counts = comparison.evaluation.confusion
    cells = np.array(
        [
            [counts["true_positive"], counts["false_negative"]],
            [counts["false_positive"], counts["true_negative"]],
        ]
    )
    figure, axes = _new_figure(f"Confusion matrix, {cells.sum()} held-out rows")
    axes.grid(visible=False)
    shares = cells / cells.sum(axis=1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.25)
    names = ["malignant", "benign"]
    axes.set_xticks([0, 1], names)
    axes.set_yticks([0, 1], names)
    _label(axes, "predicted", "actual")
    for (row, column), count in np.ndenumerate(cells):
        colour = "white" if shares[row, column] > 0.6 else INK
        text = f"{count}\n{shares[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=_FONT + 3)
    return figure


def _draw_roc(held_out: _HeldOut, comparison: Comparison) -> Figure:
    figure, axes = _new_figure("ROC curve")
    false_alarms, recall, _ = roc_curve(held_out.labels, held_out.probabilities)
    area = comparison.evaluation.metrics["roc_auc"]
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1.2, label="chance")
    axes.plot(false_alarms, recall, color=ACCENT, linewidth=2, label=f"AUC {_interval(area)}")
    counts = comparison.evaluation.confusion
    negatives = counts["false_positive"] + counts["true_negative"]
    point = (counts["false_positive"] / negatives, comparison.evaluation.values["recall"])
    axes.plot(*point, "o", color=SECOND, markersize=7, label="at the threshold")
    _unit_square(axes)
    _label(axes, "false alarms (share of benign rows)", "recall (share of malignant rows)")
    axes.legend(loc="lower right", fontsize=_FONT - 1, frameon=False)
    return figure


def _draw_precision_recall(held_out: _HeldOut, comparison: Comparison) -> Figure:
    figure, axes = _new_figure("Precision and recall")
    precision, recall, _ = precision_recall_curve(held_out.labels, held_out.probabilities)
    share = held_out.labels.mean()
    axes.axhline(share, color=FAINT, linestyle=":", linewidth=1.2, label="chance")
    axes.step(recall, precision, where="post", color=ACCENT, linewidth=2, label="model")
    values = comparison.evaluation.values
    axes.plot(
        values["recall"], values["precision"], "o", color=SECOND, markersize=7,
        label="at the threshold",
    )  # fmt: skip
    axes.axhline(BARS["precision"], color=INK, linestyle="--", linewidth=0.8)
    axes.axvline(BARS["recall"], color=INK, linestyle="--", linewidth=0.8, label="the bars")
    _unit_square(axes)
    _label(axes, "recall", "precision")
    axes.legend(loc="lower left", fontsize=_FONT - 1, frameon=False)
    return figure


def _draw_calibration(held_out: _HeldOut) -> Figure:
    """Draw the share that is malignant against the probability given; dots grow with their rows."""
    figure, axes = _new_figure("Calibration on the held-out rows")
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    found, given = calibration_curve(
        held_out.labels, held_out.probabilities, n_bins=CALIBRATION_BINS, strategy="uniform"
    )
    counts = np.histogram(held_out.probabilities, edges)[0]
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1.2, label="perfect")
    axes.plot(given, found, color=ACCENT, linewidth=1, alpha=0.5)
    sizes = 40 + 10 * counts[counts > 0]
    axes.scatter(given, found, s=sizes, color=ACCENT, alpha=0.85, linewidth=0, zorder=3)
    axes.scatter([], [], color=ACCENT, label="model; a dot's area shows its rows")
    _unit_square(axes)
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06))
    _label(axes, "probability of malignancy given", "share that is malignant")
    axes.legend(loc="upper left", fontsize=_FONT - 1, frameon=False)
    return figure


def _draw_importances(model: Any, test: DataFrame, seed: int) -> Figure:
    with bounded_threads(1):
        measured = permutation_importance(
            model, features_of(test), labels_of(test), scoring="roc_auc",
            n_repeats=PERMUTATIONS, random_state=seed,
        )  # fmt: skip
    order = np.argsort(measured.importances_mean)[-IMPORTANCES_SHOWN:]
    figure, axes = _new_figure(
        f"The {IMPORTANCES_SHOWN} features that matter most", width=6.4, height=4.2
    )
    axes.barh(
        [FEATURES[i] for i in order],
        measured.importances_mean[order],
        xerr=measured.importances_std[order],
        color=ACCENT,
        height=0.62,
        error_kw={"ecolor": FAINT, "elinewidth": 1.2},
    )
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=FAINT, linewidth=0.8)
    _label(axes, "ROC AUC lost when the feature is shuffled", "")
    return figure


def _draw_differences(verdict: Verdict) -> Figure:
    figure, axes = _new_figure(
        f"Challenger minus champion, {verdict.rows} rows", width=6.4, height=3.2
    )
    for place, name in enumerate(reversed(METRICS)):
        one = verdict.differences[name]
        colour = SECOND if one.high < 0 else ACCENT
        axes.plot([one.low, one.high], [place, place], color=colour, linewidth=2.5)
        axes.plot(one.value, place, "o", color=colour, markersize=7)
    axes.axvline(0, color=INK, linewidth=1)
    names = [_shown(name) for name in reversed(METRICS)]
    axes.set_yticks(range(len(names)), names)
    reach = max(
        0.02, *(abs(e) for one in verdict.differences.values() for e in (one.low, one.high))
    )
    axes.set(xlim=(-1.1 * reach, 1.1 * reach), ylim=(-0.6, len(names) - 0.4))
    _label(axes, "difference, with 95 % interval (left of 0: worse)", "")
    return figure


def _to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #24292f; margin: 2rem auto; max-width: 68rem;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid #eaeef2; }
th:first-child, td:first-child { text-align: left; }
.figures { margin-bottom: 1rem; display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
img { max-width: 100%; height: auto; }
.good { color: #1a7f37; } .bad { color: #d1242f; } .faint { color: #57606a; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0; }
dt { color: #57606a; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def _page(
    comparison: Comparison,
    verdict: Verdict,
    facts: Mapping[str, str],
    images: Mapping[str, bytes],
) -> str:
    best = comparison.best
    title = f"{_shown(best.name)}, {comparison.evaluation.rows} held-out rows"
    params = ", ".join(f"{name} {value}" for name, value in best.params.items())
    listed = {**facts, "parameters": params, "threshold": f"{best.threshold:.4g}"}
    one_column = [name for name in ("importances.png", "champion.png") if name in images]
    grid = [name for name in images if name not in one_column]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="faint">Malignant is the positive class. Intervals hold 95 % of bootstrap resamples.</p>
<dl>{"".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in listed.items())}</dl>
<h2>Metrics</h2>
{_metrics_table(comparison)}
<h2>Champion against challenger</h2>
{_verdict_text(verdict)}
{_image("champion.png", images) if "champion.png" in images else ""}
<h2>On the held-out rows</h2>
<div class="figures">{"".join(_image(name, images) for name in grid)}</div>
{_image("importances.png", images)}
<h2>Candidates, cross-validated</h2>
{_candidates_table(comparison)}
</body>
</html>
"""


def _image(name: str, images: Mapping[str, bytes]) -> str:
    data = base64.b64encode(images[name]).decode()
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'


def _metrics_table(comparison: Comparison) -> str:
    means = comparison.best.cv_metrics
    rows = []
    for name in METRICS:
        held_out = comparison.evaluation.metrics[name]
        mean, bar = means[name]["mean"], BARS.get(name)
        mark = "" if bar is None else ("good" if mean >= bar else "bad")
        rows.append(
            f'<tr><td>{_shown(name)}</td><td class="{mark}">{mean:.3f}</td>'
            f"<td>{'' if bar is None else f'{bar:.2f}'}</td><td>{held_out.value:.3f}</td>"
            f"<td>{held_out.low:.3f} – {held_out.high:.3f}</td></tr>"
        )
    return _table(["metric", "cross-validated", "bar", "held out", "95 % interval"], rows)


def _verdict_text(verdict: Verdict) -> str:
    against = (
        f"Held against {escape(verdict.champion)}."
        if verdict.champion
        else "There was no champion to hold it against."
    )
    if verdict.takes_over:
        return f'<p>{against} <strong class="good">It takes over.</strong></p>'
    faults = "".join(f"<li>{escape(line)}</li>" for line in verdict.objections)
    return f'<p>{against} <strong class="bad">It does not take over:</strong></p><ul>{faults}</ul>'


def _candidates_table(comparison: Comparison) -> str:
    columns = [SELECTION_SCORE, *METRICS]
    scores = comparison.cv_table.groupby("candidate", sort=False)[columns].agg(["mean", "std"])
    scores = scores.sort_values((SELECTION_SCORE, "mean"), ascending=False)
    rows = [
        f"<tr><td>{_shown(str(name))}</td>"
        + "".join(
            f"<td>{line[(column, 'mean')]:.3f} ± {line[(column, 'std')]:.3f}</td>"
            for column in columns
        )
        + "</tr>"
        for name, line in scores.iterrows()
    ]
    return _table(["candidate", *map(_shown, columns)], rows)


def _table(head: list[str], rows: list[str]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><tr>{cells}</tr>{''.join(rows)}</table>"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} – {estimate.high:.3f})"


def _shown(name: str) -> str:
    return {"roc_auc": "ROC AUC", "f1": "F1", "svm": "SVM", SELECTION_SCORE: "F-beta 1.5"}.get(
        name, name.replace("_", " ").capitalize()
    )
