"""The machine-learning pipeline as plain functions: it imports no Airflow.

| Module | Gives |
|---|---|
| `ml.settings` | the pipeline's environment variables |
| `ml.schema` | the table's layout and its validation |
| `ml.load` | reading data files, gathering the data to train on, its snapshots |
| `ml.synthetic` | batches for stacks without real data |
| `ml.landing` | the landing folder: taking files out of it, quarantine |
| `ml.preprocess` | the split into train and test, features and labels |
| `ml.train` | the candidates, tuned and cross-validated |
| `ml.evaluate` | the choice of the best and its test metrics |
| `ml.artifacts` | files in the artifact store, checked by SHA-256 |
| `ml.gate` | whether to train, and whether the result may become the champion |
| `ml.registry` | the versioned, immutable models |
| `ml.champion` | which of them is in use; also a command |
| `ml.report` | a version's report: one HTML page and its figures |
| `ml.score` | predictions |
| `ml.drift` | how far batches are from the data trained on |

Source: WDBC (Wolberg, Mangasarian, Street, Street, 1993), as published in scikit-learn.
"""
