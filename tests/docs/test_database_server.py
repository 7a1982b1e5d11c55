"""What the page says of a database server is true: its SQL and its commands are run, on each server that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.databases import parameters, server_url

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "run-as-a-service.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("## A database server\n")[2].partition("\n## ")[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", parameters("mariadb", "mysql"))
def test_the_login_of_the_page_is_enough_for_the_commands_of_the_page(kind: str, tmp_path: Path) -> None:
    server, name = server_url(kind), f"flux_test_{uuid.uuid4().hex[:12]}"
    [sql] = re.findall(r"```sql\n(.*?)```", SECTION, re.DOTALL)
    [url] = re.findall(r"'(mariadb://[^']+)'", SECTION)
    mine = url.replace("flux", name).replace("db.example.com", f"{server.host}:{server.port}")
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        try:
            for statement in filter(str.strip, sql.replace("flux", name).split(";")):
                connection.exec_driver_sql(statement.replace("%", "%%"))
            environ = {
                "PATH": os.environ["PATH"], "FLUX_HOME": str(tmp_path / "home"),
                "FLUX_DATABASE_URL": mine.replace("mariadb:", f"{kind}:"),
            }  # fmt: skip
            for command in ("init", "db check", "db upgrade", "doctor"):
                argv = [Path(sys.executable).with_name("flux"), *command.split()]
                done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
                assert done.returncode == 0, (command, done.stdout, done.stderr)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
            connection.exec_driver_sql(f"DROP USER IF EXISTS '{name}'@'%%'")
    engine.dispose()
