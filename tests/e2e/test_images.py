"""The images: pinned names, and an Airflow image that bears what the Compose files ask of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import PROJECT

REPO = Path(__file__).parents[2]
AIRFLOW_IMAGE = f"airflow-celery-stack:{PROJECT}"
CONFINED = [
    *("--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none"),  # noqa: S108 - in the container
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
]


def needs_image(test: Callable[..., None]) -> Callable[..., None]:
    """Run `test` on a real engine, after the stack has built its image."""
    return pytest.mark.e2e(pytest.mark.usefixtures("stack")(test))


def image_names() -> dict[str, str]:
    lines = (REPO / "compose/images/images.env").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def run_in_image(*command: str, user: str = "12345:0") -> str:
    docker = ["docker", "run", *CONFINED, "--user", user, AIRFLOW_IMAGE, *command]
    done = subprocess.run(docker, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_every_third_party_image_is_pinned_to_a_version():
    names = image_names()
    assert "POSTGRES_IMAGE" in names
    assert {
        v for v in names.values() if not re.fullmatch(r"[a-z0-9/_-]+:v?\d+\.[\w.-]+", v)
    } == set()


def test_airflow_dockerfile_and_images_env_name_the_same_base():
    dockerfile = (REPO / "compose/images/airflow/Dockerfile").read_text()
    assert f"ARG PYTHON_IMAGE={image_names()['PYTHON_IMAGE']}\n" in dockerfile


@needs_image
@pytest.mark.parametrize("user", ["50000:0", "12345:0"])
def test_airflow_runs_under_any_uid_read_only_and_without_capabilities(user):
    assert run_in_image("airflow", "version", user=user).splitlines()[-1].startswith("3.")


@needs_image
def test_code_is_found_in_one_place_that_can_be_mounted_over():
    show = "import celery_stack, compose, ml; print(celery_stack.__file__, compose.__file__, ml.__file__)"
    for path in run_in_image("python", "-c", show).split():
        assert path.startswith("/opt/stack/")


@needs_image
def test_packages_that_lost_their_tests_still_import():
    run_in_image(
        "python",
        "-c",
        "import numpy.testing, pandas.testing, pyarrow.dataset, scipy.stats, sklearn.utils._testing",
    )


@needs_image
def test_image_holds_no_compiler_and_no_pip_in_its_environment():
    check = "! command -v gcc && ! command -v make && ! test -e /opt/venv/bin/pip && echo none"
    assert run_in_image("sh", "-c", check) == "none"


@needs_image
def test_secrets_of_the_build_leave_nothing_in_the_history():
    history = ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", AIRFLOW_IMAGE]
    shown = subprocess.run(history, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"BEGIN CERTIFICATE|index-url|_PROXY=|://[^ ]*@", shown, re.IGNORECASE)
