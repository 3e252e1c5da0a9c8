"""### DataFrames through XCom, one below the threshold and one above"""

from datetime import timedelta

from airflow.sdk import dag, task

LIMITS = {"execution_timeout": timedelta(minutes=1)}


@dag(schedule=None, is_paused_upon_creation=False, default_args={"owner": "tests"}, doc_md=__doc__)
def frames():
    @task(**LIMITS)
    def make(rows: int):
        import numpy as np
        import pandas as pd

        values = np.random.default_rng(0).normal(size=rows)
        return pd.DataFrame({"value": values, "label": ["a b"] * rows})

    @task(**LIMITS)
    def measure(frame):
        return {
            "rows": len(frame),
            "sum": frame["value"].sum().hex(),
            "types": [str(dtype) for dtype in frame.dtypes],
        }

    for rows in (10, 20_000):
        frame = make.override(task_id=f"make_{rows}")(rows)
        measure.override(task_id=f"measure_{rows}")(frame)


frames()
