"""The pipeline's environment variables: names, meaning, unit, default and bounds.

Light on purpose: DAG files may import it at the top, so it loads pydantic and nothing of the
numeric stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

CANDIDATE_NAMES = ("logistic_regression", "svm", "random_forest", "gradient_boosting")
"""The models that can be trained; `ml.train` holds the recipe of each."""

_EXPECTED = {
    "ML_TEST_FRACTION": "a number between 0 and 1 (exclusive)",
    "ML_SEED": "a whole number from 0 to 4294967295",
    "ML_CV_FOLDS": "a whole number from 2 to 20",
    "ML_CV_REPEATS": "a whole number from 1 to 100",
    "ML_BOOTSTRAP_SAMPLES": "a whole number from 100 to 100000",
    "ML_SYNTHETIC_ROWS": "0, or a whole number from 20 to 10000",
    "ML_RETRAIN_ROWS": "a whole number from 1 to 1000000",
    "ARTIFACTS_URL": "a folder or an object-store URL",
    "LANDING_DIR": "a folder",
    "CPU_TRAIN_THREADS": "a whole number from 1 to 256",
    "CODE_VERSION": "text",
}


class MLSettingError(ValueError):
    """A setting is wrong or missing; the message is one line: variable, expected, found, remedy."""

    retryable = False


class MLSettings(BaseModel):
    """Every variable of the pipeline; a field's name is the variable's name."""

    model_config = ConfigDict(frozen=True)

    ML_TEST_FRACTION: float = Field(
        0.2, gt=0, lt=1, description="Share of the rows held out for the final test, 0 < x < 1."
    )
    ML_SEED: int = Field(
        42,
        ge=0,
        le=2**32 - 1,
        description="Seed of the split, the folds, the models and the bootstrap.",
    )
    ML_CV_FOLDS: int = Field(
        5, ge=2, le=20, description="Folds of the stratified cross-validation, per repeat."
    )
    ML_CV_REPEATS: int = Field(
        3, ge=1, le=100, description="Times that the cross-validation is repeated with other folds."
    )
    ML_BOOTSTRAP_SAMPLES: int = Field(
        1000,
        ge=100,
        le=100_000,
        description="Resamples of the test rows behind each 95 % confidence interval.",
    )
    ML_SYNTHETIC_ROWS: int = Field(
        100,
        ge=0,
        le=10_000,
        description="Rows of the synthetic batch that arrives each day. 0 where real data comes: "
        "the stack then lands nothing by itself, the reference table neither.",
    )
    ML_RETRAIN_ROWS: int = Field(
        500,
        ge=1,
        le=1_000_000,
        description="New or corrected observations that start a training between the weekly ones.",
    )
    ARTIFACTS_URL: str = Field(
        min_length=1,
        description="Folder or object-store URL that keeps data snapshots, candidates and "
        "registered models.",
    )
    LANDING_DIR: Path = Field(description="Folder in which new data files (.csv, .data) arrive.")
    CPU_TRAIN_THREADS: int = Field(
        1, ge=1, le=256, description="Threads that one training task may use."
    )

    CODE_VERSION: str = Field("", description="Commit or release, recorded with each model.")

    @field_validator("ML_SYNTHETIC_ROWS")
    @classmethod
    def _hold_both_classes(cls, rows: int) -> int:
        """Refuse a batch so small that a class might be absent from it."""
        if 0 < rows < 20:
            raise ValueError("too few")
        return rows

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the settings out of `env`; an empty value counts as unset.

        Raises:
            MLSettingError: the first wrong or missing value, in one line.
        """
        given = {name: env[name] for name in cls.model_fields if env.get(name)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            found = repr(given[name]) if name in given else "nothing"
            raise MLSettingError(
                f"{name} must be {_EXPECTED[name]}, got {found}. Set it in .env."
            ) from None
