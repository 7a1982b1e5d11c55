"""What one module alone may do: write states, speak SQL, use ctypes, start and kill processes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.house.layers import layer
from tests.house.tree import Module, docstrings, imports, modules, walk_run_time

STATE_WRITER = "flux.store.transitions"
STATE_TABLES = {"task_instance", "dag_run"}
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM\s|INSERT\s+INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|CREATE\s+TABLE\s)", re.DOTALL
)
#: Functions of `os` that start a process by copying this one, or send a signal.
PROCESS_CALLS = {"fork", "forkpty", "kill", "killpg", "posix_spawn", "posix_spawnp", "system", "popen"}
PROCESS_CALLS |= {f"spawn{letters}" for letters in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}
PROCESS_NAMES = {f"os.{name}" for name in PROCESS_CALLS} | {"signal.pidfd_send_signal"}


def table_of(call: ast.Call) -> str | None:
    """The name of the table that `insert(table)`, `sa.update(schema.table)` is about."""
    if not call.args:
        return None
    table = call.args[0]
    return table.attr if isinstance(table, ast.Attribute) else table.id if isinstance(table, ast.Name) else None


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def written_tables(call: ast.Call) -> set[str]:
    """The tables of `insert` or `update` that a chain of calls begins with."""
    inner = {
        table_of(node) for node in ast.walk(call) if isinstance(node, ast.Call) and called(node) in ("insert", "update")
    }
    return {table for table in inner if table}


def state_writes(module: Module) -> Iterator[ast.Call]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        if called(node) == "insert" and table_of(node) in STATE_TABLES:
            yield node
        if called(node) == "values" and written_tables(node) & STATE_TABLES:
            keys = {keyword.arg for keyword in node.keywords}
            keys |= {getattr(key, "value", None) for arg in node.args if isinstance(arg, ast.Dict) for key in arg.keys}
            if "state" in keys or None in keys:
                yield node


def test_only_transitions_writes_the_state_of_a_task_instance_or_a_run() -> None:
    wrong = [
        module.at(node)
        for module in modules().values()
        if module.name != STATE_WRITER and not module.name.startswith("flux.store.migrations")
        for node in state_writes(module)
    ]
    assert not wrong, f"Write states through {STATE_WRITER}: {wrong}"


def test_the_rule_about_states_sees_a_write() -> None:
    """A rule that sees nothing passes for ever: here is what it must see."""
    source = "import x\nq = sa.update(schema.task_instance).where(a).values(state='ready')\nr = insert(dag_run)\n"
    module = Module("example", modules()["flux.states"].path, ast.parse(source))
    assert [node.lineno for node in state_writes(module)] == [2, 3]


def test_only_the_store_imports_sqlalchemy_and_alembic() -> None:
    wrong = [
        module.at(node)
        for module in modules().values()
        if not (module.name + ".").startswith("flux.store.")
        for node, target in imports(module)
        if target.split(".")[0] in ("sqlalchemy", "alembic", "sqlite3", "psycopg", "pymysql")
    ]
    assert not wrong, wrong


def test_there_is_no_sql_outside_the_store() -> None:
    wrong = []
    for module in modules().values():
        if (module.name + ".").startswith("flux.store."):
            continue
        skipped = docstrings(module.tree)
        for node in ast.walk(module.tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped
            if is_text and SQL.search(node.value):
                wrong.append(module.at(node))
    assert not wrong, wrong


def test_only_linux_uses_ctypes() -> None:
    wrong = [
        m.at(n)
        for m in modules().values()
        for n, target in imports(m)
        if target.split(".")[0] == "ctypes" and m.name != "flux.linux"
    ]
    assert not wrong, wrong


def test_only_process_starts_and_kills_processes() -> None:
    wrong = []
    for module in modules().values():
        if module.name == "flux.process":
            continue
        wrong += [
            module.at(node)
            for node, target in imports(module)
            if target.split(".")[0] in ("subprocess", "multiprocessing", "pty", "_posixsubprocess")
        ]
        for node in walk_run_time(module.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in PROCESS_NAMES:
                wrong.append(module.at(node))
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                wrong += [module.at(node) for alias in node.names if alias.name in PROCESS_CALLS]
    assert not wrong, f"Go through flux.process: {wrong}"


def test_a_shell_is_never_given_a_string() -> None:
    wrong = [
        module.at(node)
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.keyword) and node.arg == "shell" and getattr(node.value, "value", True)
    ]
    assert not wrong, wrong


def test_pluggy_stevedore_and_cryptography_are_each_imported_by_one_module() -> None:
    owners = {
        "pluggy": "flux.plugins.host",
        "stevedore": "flux.plugins.discovery",
        "cryptography": "flux.encryption",
    }
    wrong = [
        m.at(n)
        for m in modules().values()
        for n, target in imports(m)
        if owners.get(target.split(".")[0], m.name) != m.name
    ]
    assert not wrong, wrong


def test_only_the_command_line_prints() -> None:
    """So do parts and processes, into their own logs; everything else returns values, raises, or logs."""
    allowed = ("flux.attempt", "flux.dag_command", "flux.dag_file", "flux.one_run")
    wrong = [
        module.at(node)
        for module in modules().values()
        if layer(module.name) not in (5, 7, 8) and module.name not in allowed
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, wrong


def test_every_error_is_defined_in_errors() -> None:
    """So that each has a code and a section; signals inside one module derive from Exception."""
    errors = {node.name for node in modules()["flux.errors"].tree.body if isinstance(node, ast.ClassDef)}
    wrong = [
        module.at(node)
        for module in modules().values()
        if module.name != "flux.errors"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        and {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases} & errors
    ]
    assert not wrong, f"Move these to flux/errors.py: {wrong}"
