"""Names that people look for in core and that a provider has: where they are, for messages. Static, and only a help."""

from __future__ import annotations

#: {provider: {module of its package: names}}
WELL_KNOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "sql": {
        "operators": (
            "SqlOperator",
            "SqlCheckOperator",
            "SqlValueCheckOperator",
            "SqlIntervalCheckOperator",
            "StoredProcedureOperator",
        ),
        "sensors": ("SqlSensor",),
        "transfers": ("SqlToSqlOperator", "FileToSqlOperator", "SqlToFileOperator"),
    },
    "mysql": {
        "operators": ("MySqlOperator",),
        "sensors": ("MySqlSensor",),
        "transfers": ("FileToMySqlOperator", "MySqlToFileOperator"),
    },
    "hdfs": {
        "operators": ("HdfsDeleteOperator", "HdfsMoveOperator", "MapReduceOperator"),
        "sensors": ("HdfsSensor",),
        "transfers": ("LocalFileToHdfsOperator", "HdfsToLocalFileOperator"),
    },
    "hive": {
        "operators": ("HiveOperator", "HiveStatsOperator"),
        "sensors": ("HivePartitionSensor", "HiveTableSensor"),
        "transfers": (
            "MySqlToHiveOperator",
            "HiveToMySqlOperator",
            "FileToHiveOperator",
            "SqlToHiveOperator",
            "HiveToFileOperator",
        ),
    },
    "pig": {"operators": ("PigOperator",)},
    "celery": {},
}


def distribution(provider: str) -> str | None:
    """Return what to install for a provider, by its name; None: it is none of these."""
    return f"flux-provider-{provider}" if provider in WELL_KNOWN else None


def where(name: str) -> tuple[str, str] | None:
    """Return (provider, module to import from) of an operator or sensor; None: it is none of these."""
    for provider, modules in WELL_KNOWN.items():
        for module, names in modules.items():
            if name in names:
                return provider, f"flux_provider_{provider}.{module}"
    return None
