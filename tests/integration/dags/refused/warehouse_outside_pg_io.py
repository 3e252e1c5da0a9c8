"""### Refused by the policies: nothing would limit its connections"""

from datetime import timedelta

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import dag


@dag(schedule=None, default_args={"owner": "tests"}, doc_md=__doc__)
def warehouse_outside_pg_io():
    SQLExecuteQueryOperator(
        task_id="ask",
        conn_id="warehouse",
        sql="SELECT 1",
        execution_timeout=timedelta(minutes=1),
    )


warehouse_outside_pg_io()
