"""The report: one page that needs nothing beside it, and the figures."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from pandas import read_csv

from ml.evaluate import Comparison, Estimate
from ml.gate import Verdict
from ml.preprocess import Split
from ml.registry import HELD_OUT_FILE
from ml.report import render_report
from ml.schema import ID
from ml.train import METRICS

PNG = b"\x89PNG\r\n\x1a\n"
FACTS = {"run": "run-1 <b>", "data": "abc"}
WORSE = Verdict(
    "20261101T000000Z-abc",
    dict.fromkeys(METRICS, Estimate(-0.1, -0.2, -0.05)),
    114,
    ["it is <worse>"],
)


@pytest.fixture(scope="module")
def files(comparison: Comparison, split: Split) -> dict[str, bytes]:
    """Render a report whose challenger stays one."""
    return render_report(comparison, WORSE, split.test, facts=FACTS, seed=42)


def test_every_figure_is_a_png_and_is_in_the_page(files: dict[str, bytes]) -> None:
    """Confusion, ROC, precision-recall, calibration, importances, champion."""
    figures = {name for name in files if name.endswith(".png")}
    assert figures == {
        "calibration.png", "champion.png", "confusion.png", "importances.png", "precision_recall.png", "roc.png",
    }  # fmt: skip
    page = files["report.html"].decode()
    for name in figures:
        assert files[name].startswith(PNG)
        assert f'<img alt="{name}" src="data:image/png;base64,' in page


def test_the_page_loads_nothing_from_elsewhere(files: dict[str, bytes]) -> None:
    """It can be sent by e-mail: no script, no link, no address."""
    page = re.sub(r"base64,[^\"]+", "", files["report.html"].decode())
    assert not re.search(r"<script|<link|https?:|url\(", page)


def test_the_page_tells_candidates_and_verdict_and_escapes_what_it_is_given(
    files: dict[str, bytes],
) -> None:
    """Every candidate with its scores, why the challenger stays one, and the facts."""
    page = files["report.html"].decode()
    for text in ("Logistic regression", "SVM", "F-beta 1.5", "run-1 &lt;b&gt;"):
        assert text in page
    assert "It does not take over:" in page
    assert "<li>it is &lt;worse&gt;</li>" in page


def test_the_first_model_has_no_champion_to_be_drawn_against(
    comparison: Comparison, split: Split
) -> None:
    """Nothing is drawn of a comparison that was not made."""
    files = render_report(comparison, Verdict(None, {}, 0, []), split.test, facts=FACTS, seed=42)
    assert "champion.png" not in files
    assert "It takes over." in files["report.html"].decode()


def test_held_out_rows_are_listed_with_what_the_model_says(
    files: dict[str, bytes], comparison: Comparison, split: Split
) -> None:
    """Ids, labels as published, probabilities, and the calls behind the confusion matrix."""
    rows = read_csv(io.BytesIO(files[HELD_OUT_FILE]))
    assert rows[ID].tolist() == split.test[ID].tolist()
    assert rows["score"].between(0, 1).all()
    missed = ((rows["target"] == 0) & (rows["label"] == 1)).sum()
    assert missed == comparison.evaluation.confusion["false_negative"]


def test_the_same_input_gives_the_same_bytes(
    files: dict[str, bytes], comparison: Comparison, split: Split
) -> None:
    """A retry registers what the first try did."""
    turned = replace(
        comparison,
        evaluation=replace(
            comparison.evaluation,
            metrics=dict(reversed(comparison.evaluation.metrics.items())),
        ),
    )
    assert render_report(turned, WORSE, split.test, facts=FACTS, seed=42) == files
