"""### Train the breast-cancer classifier

load → preprocess → train (one task per candidate, on `cpu_train`) → evaluate → register

| task | does | queue |
|---|---|---|
| load | checks the newest table in the landing folder; a bad one is refused with each fault listed, and the last good data stays in use | default |
| preprocess | holds out a stratified test part, split by a seed that is fixed beforehand | default |
| train | tunes one candidate by repeated cross-validation and fits it with its decision threshold | cpu_train |
| evaluate | takes the best candidate and measures it on the held-out rows | default |
| register | keeps model, metrics and cross-validation table as an immutable version | default |

DataFrames travel through XCom; models by path and SHA-256. Every Monday at 03:00 UTC; for a run
at once: `make train`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.timetables import CronTriggerTimetable  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from pandas import DataFrame
