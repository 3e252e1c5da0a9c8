"""The pipeline's settings: defaults, one-line errors, a light import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ml.settings import _EXPECTED, CANDIDATE_NAMES, MLSettingError, MLSettings
from ml.train import RECIPES

REQUIRED = {"ARTIFACTS_URL": "memory://store", "LANDING_DIR": "landing"}


def test_unset_and_empty_variables_take_the_defaults() -> None:
    """An empty value counts as unset."""
    settings = MLSettings.from_env({**REQUIRED, "ML_SEED": "", "UNRELATED": "x"})
    assert settings.ML_SEED == 42
    assert settings.ML_TEST_FRACTION == 0.2


def test_given_variables_are_read() -> None:
    """Values are converted from text."""
    settings = MLSettings.from_env({**REQUIRED, "ML_CV_FOLDS": "3", "CODE_VERSION": "1a2b3c4"})
    assert settings.ML_CV_FOLDS == 3
    assert settings.CODE_VERSION == "1a2b3c4"


def test_the_error_for_a_test_fraction_is_one_whole_sentence() -> None:
    """The message names variable, expectation, found value and remedy."""
    with pytest.raises(MLSettingError) as caught:
        MLSettings.from_env({**REQUIRED, "ML_TEST_FRACTION": "1.5"})
    assert str(caught.value) == (
        "ML_TEST_FRACTION must be a number between 0 and 1 (exclusive), got '1.5'. Set it in .env."
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ML_TEST_FRACTION", "0"),
        ("ML_TEST_FRACTION", "nan"),
        ("ML_TEST_FRACTION", "a fifth"),
        ("ML_SEED", "-1"),
        ("ML_SEED", "4294967296"),
        ("ML_CV_FOLDS", "1"),
        ("ML_CV_REPEATS", "0"),
        ("ML_BOOTSTRAP_SAMPLES", "99"),
        ("ML_SYNTHETIC_ROWS", "19"),
        ("ML_SYNTHETIC_ROWS", "10001"),
        ("ML_RETRAIN_ROWS", "0"),
        ("CPU_TRAIN_THREADS", "0"),
        ("CPU_TRAIN_THREADS", "1.5"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(name: str, value: str) -> None:
    """Each bound holds, and the message has no second line."""
    with pytest.raises(MLSettingError) as caught:
        MLSettings.from_env({**REQUIRED, name: value})
    assert str(caught.value) == f"{name} must be {_EXPECTED[name]}, got {value!r}. Set it in .env."


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_required_variable_is_named(name: str) -> None:
    """The artifact store and the landing folder have no default."""
    with pytest.raises(MLSettingError, match=rf"{name} must be .*, got nothing\. Set it in \.env"):
        MLSettings.from_env({**REQUIRED, name: ""})


def test_every_variable_has_a_description_and_an_expectation() -> None:
    """No variable is left unexplained."""
    assert set(_EXPECTED) == set(MLSettings.model_fields)
    assert all(field.description for field in MLSettings.model_fields.values())


def test_every_candidate_name_has_a_recipe() -> None:
    """The names that settings accept are those that training knows."""
    assert tuple(RECIPES) == CANDIDATE_NAMES


def test_importing_the_settings_loads_no_numeric_library() -> None:
    """DAG files may import the settings at the top."""
    code = "import sys, ml.settings; print(sorted({'pandas','numpy','sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
