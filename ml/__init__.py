"""The machine-learning pipeline as plain functions: it imports no Airflow.

| Module | Gives |
|---|---|
| `ml.settings` | the pipeline's environment variables |
| `ml.schema` | the table's layout and its validation |
| `ml.load` | reading data files, snapshots, the last good data |
| `ml.preprocess` | the split into train and test, features and labels |
| `ml.train` | the candidates, tuned and cross-validated |
| `ml.evaluate` | the choice of the best and its test metrics |
| `ml.artifacts` | files in the artifact store, checked by SHA-256 |
| `ml.registry` | the versioned, immutable models |

Source: WDBC (Wolberg, Mangasarian, Street, Street, 1993), as published in scikit-learn.
"""
