"""What flux-provider-mysql is good for: load a day's sales, wait until they are complete, sum them up.

export FLUX_CONN_MYSQL_DEFAULT='mysql://login:password@127.0.0.1:3306/schema'
FLUX_DAGS_FOLDER=$PWD/examples flux dag test mysql_example 2026-01-05
"""

from flux import DAG, task
from flux_provider_mysql.operators import MySqlOperator
from flux_provider_mysql.sensors import MySqlSensor

DAY = {"day": "{{ ds }}"}

with DAG("mysql_example", schedule="@daily", start_date="2026-01-01", catchup=False) as dag:
    table = MySqlOperator(
        task_id="table",
        sql="""
            CREATE TABLE IF NOT EXISTS example_sales (
                day DATE, shop VARCHAR(40), amount DECIMAL(9, 2), PRIMARY KEY (day, shop)
            ) CHARACTER SET utf8mb4
        """,
    )
    load = MySqlOperator(
        task_id="load",
        sql="""
            DELETE FROM example_sales WHERE day = %(day)s;
            INSERT INTO example_sales VALUES (%(day)s, 'Lübeck; am Markt', 12.50), (%(day)s, 'Łódź', 7.25);
        """,
        parameters=DAY,
    )
    complete = MySqlSensor(
        task_id="complete",
        sql="SELECT COUNT(*) >= 2 FROM example_sales WHERE day = %(day)s",
        parameters=DAY,
        poke_interval=30,
        timeout=3_600,
    )
    total = MySqlOperator(
        task_id="total",
        sql="SELECT COUNT(*) AS shops, SUM(amount) AS amount FROM example_sales WHERE day = %(day)s",
        parameters=DAY,
    )

    @task
    def tell(rows: list, ds: str) -> str:
        line = f"{ds}: {rows[0]['amount']} in {rows[0]['shops']} shops"
        print(line)
        return line

    table >> load >> complete >> total
    tell(total.output)
