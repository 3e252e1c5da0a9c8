"""The DAGs of the checkout, parsed once."""

from __future__ import annotations

import pytest
from airflow.dag_processing.dagbag import BundleDagBag

from compose.home import REPO


@pytest.fixture(scope="session")
def dags():
    folder = REPO / "dags"
    bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags")
    assert bag.import_errors == {}
    return bag.dags
