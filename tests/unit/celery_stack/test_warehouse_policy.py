"""A task that visibly uses the warehouse's connection outside of `pg_io` is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_stack.check_dags import Report

DAG = '''
"""Queries."""

from datetime import timedelta

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator as Query
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import dag, task

OWNED = {{"owner": "ml-team", "execution_timeout": timedelta(minutes=5), "retries": 1}}


@dag(schedule=None, default_args=OWNED, doc_md=__doc__)
def queries():
    {task}


queries()
'''
CALL = "PythonOperator(task_id='ask', python_callable=print, op_kwargs={'conn_id': 'warehouse'})"


@pytest.mark.parametrize(
    "task",
    [
        "Query(task_id='ask', sql='SELECT 1', conn_id='warehouse')",
        "Query(task_id='ask', sql='SELECT 1', conn_id='warehouse', pool='default_pool')",
        "Query.partial(task_id='ask', conn_id='warehouse').expand(sql=['SELECT 1'])",
        "Query.partial(task_id='ask', sql='SELECT 1').expand(conn_id=['other', 'warehouse'])",
        CALL,
    ],
)
def test_warehouse_outside_of_its_pool_is_refused(check: Callable[[str], Report], task: str):
    """Named as an argument, shared by mapped instances, or of some of them."""
    report = check(DAG.format(task=task))
    ((_, lines),) = report.findings.items()
    assert lines == [
        "DAG queries, task ask: conn_id is 'warehouse', which needs pool 'pg_io', found "
        "'default_pool'. Set queue='pg_io' and pool='pg_io'."
    ]


@pytest.mark.parametrize(
    "task",
    [
        "Query(task_id='ask', sql='SELECT 1', conn_id='warehouse', queue='pg_io', pool='pg_io')",
        "Query.partial(task_id='ask', conn_id='warehouse', queue='pg_io', pool='pg_io').expand(sql=['SELECT 1'])",
        "Query(task_id='ask', sql='SELECT 1', conn_id='other')",
        "Query.partial(task_id='ask', conn_id='other').expand_kwargs([{'sql': 'SELECT 1'}])",
    ],
)
def test_warehouse_in_its_pool_and_other_connections_pass(
    check: Callable[[str], Report], task: str
):
    """Nothing to say about them."""
    assert check(DAG.format(task=task)).findings == {}
