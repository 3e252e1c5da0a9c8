"""How good the training procedure is: nested cross-validation over every row of the reference table.

    python -m tests.benchmarks.bench_model [REPEATS]

Each outer fold runs all that `wdbc_training` does on its training rows alone (tuning, threshold,
choice of the candidate), then measures the winner on rows that none of it has seen. The mean over
the outer folds is what the next model can be expected to reach; no row helps to choose and to
measure at once. Stratified, 5 outer folds a repeat, seed as in `ML_SEED`.
"""

from __future__ import annotations

import sys

import numpy as np
from joblib import Parallel, cpu_count, delayed
from pandas import DataFrame
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import RepeatedStratifiedKFold

from ml.evaluate import BARS, evaluate_model, select_best
from ml.load import reference_table
from ml.preprocess import labels_of
from ml.settings import CANDIDATE_NAMES, MLSettings
from ml.train import METRICS, train_candidate

OUTER_FOLDS = 5
REPEATS = 4


def measure_fold(table: DataFrame, train: list[int], test: list[int]) -> dict[str, float | str]:
    """Train on the rows `train`, measure on the rows `test`; give the winner and its metrics."""
    settings = MLSettings(ARTIFACTS_URL="-", LANDING_DIR="-")
    candidates = [
        train_candidate(
            name,
            table.iloc[train].reset_index(drop=True),
            seed=settings.ML_SEED,
            folds=settings.ML_CV_FOLDS,
            repeats=settings.ML_CV_REPEATS,
        )
        for name in CANDIDATE_NAMES
    ]
    best = select_best(candidates)
    rows = table.iloc[test].reset_index(drop=True)
    evaluation = evaluate_model(best.model, rows, bootstrap_samples=1, seed=settings.ML_SEED)
    return {"winner": best.name, **evaluation.values}


def measure_procedure(repeats: int) -> DataFrame:
    """Give a row per outer fold: the winner and its metrics on rows it has not seen."""
    table = reference_table()
    outer = RepeatedStratifiedKFold(n_splits=OUTER_FOLDS, n_repeats=repeats, random_state=42)
    folds = outer.split(table, labels_of(table))
    return DataFrame(
        Parallel(n_jobs=cpu_count())(
            delayed(measure_fold)(table, list(train), list(test)) for train, test in folds
        )
    )


def main() -> None:
    """Print each metric's mean, its standard deviation over the folds, and the bar."""
    found = measure_procedure(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS)
    shown = Table(title=f"Nested cross-validation, {len(found)} outer folds", title_justify="left")
    for column in ("metric", "mean", "std over folds", "bar"):
        shown.add_column(column, justify="left" if column == "metric" else "right")
    for name in METRICS:
        bar = f"{BARS[name]:.2f}" if name in BARS else ""
        shown.add_row(name, f"{found[name].mean():.4f}", f"{np.std(found[name]):.4f}", bar)
    console = Console(highlight=False)
    console.print(shown)
    winners = found["winner"].value_counts().items()
    console.print("winners:", ", ".join(f"{name} {count}" for name, count in winners))


if __name__ == "__main__":
    main()
