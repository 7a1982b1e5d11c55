"""The layers of `flux`: what a module may import. A new module is added here, and to CONTRIBUTING.md, first."""

from __future__ import annotations

#: Layer by layer, lowest first. A name stands for the module and, of a package, for everything in it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "states", "times", "structure"),
    ("graph", "linux", "process", "loop", "wire", "config", "encryption"),
    (
        "arguments",
        "edges",
        "dag",
        "operator",
        "task_output",
        "sensor",
        "task_group",
        "decorators",
        "params",
        "schedule",
        "cron",
        "trigger_rules",
        "results",
        "secret",
        "masking",
        "connection",
        "context",
        "templating",
        "dependencies",
        "retries",
        "macros",
    ),
    ("plugins", "executor", "dag_folder", "dag_file", "dag_providers", "attempt", "connection_fields", "drivers"),
    ("store",),
    (
        "operators",
        "sensors",
        "executors",
        "lazy",
        "run_report",
        "drawing",
    ),
    ("builtin", "app", "providers", "providers_here", "interactive", "dag_command", "in_process", "one_run"),
    ("running",),
    ("cli", "testing"),
)
LAYER = {f"flux.{name}": number for number, names in enumerate(LAYERS) for name in names}


def layer(name: str) -> int | None:
    """The layer of a module; None when the table does not know it."""
    return LAYER.get(".".join(name.split(".")[:2]))
