"""Options: one table, read once from the environment, `flux.toml` and the defaults, in this order of strength.

An option `name` is `name` in `flux.toml` and FLUX_NAME in the environment. An empty value counts as absent. A relative
path begins at the home in the file, and at the working folder in the environment. To add one: a field of `Config`.
Standard library only; only `app` and the components' entry points read the result.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from flux.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        type: text, path, seconds, count, bytes, flag, list, zone, or choices as "full|fast".
        default: None where it is absent, or follows from the home.
        secret: its value may hold a password, which is masked where it is shown.
    """

    name: str
    type: str
    default: Any
    help: str
    secret: bool = False

    @property
    def variable(self) -> str:
        """Name of its environment variable."""
        return f"FLUX_{self.name.upper()}"


class _Row(NamedTuple):
    """What an option is beside its name and Python type."""

    type: str
    default: Any
    help: str
    secret: bool = False


@dataclass(frozen=True)
class Config:
    """The value of every option. Paths are absolute."""

    home: Path
    #: {option: "default", the path of flux.toml, or the name of the variable}
    sources: Mapping[str, str]

    database_url: Annotated[
        str, _Row("text", None, "Metadata database: SQLite in the home; or PostgreSQL, MariaDB, MySQL.", True)
    ]
    durability: Annotated[str, _Row("full|fast", "full", "fast: the last commits may be lost when the machine dies.")]
    dags_folder: Annotated[Path, _Row("path", None, "Folder of the DAG files; by default dags/ in the home folder.")]
    logs_folder: Annotated[
        Path, _Row("path", None, "Folder of the attempts' logs; by default logs/ in the home folder.")
    ]
    timezone: Annotated[str, _Row("zone", "UTC", "Time zone in which people are shown times.")]
    executor: Annotated[str, _Row("text", "local", "Executor of all tasks: local, sequential, or a provider's.")]
    parallelism: Annotated[int, _Row("count", None, "Attempts at once; by default two for each CPU, at least 8.")]
    queued_timeout_seconds: Annotated[
        float, _Row("seconds", 600.0, "Time in which an executor's plugin must begin an attempt, or may refuse it.")
    ]
    executor_call_seconds: Annotated[
        float, _Row("seconds", 60.0, "Time that an executor's plugin may take to start an attempt.")
    ]
    agent_silence_seconds: Annotated[
        float, _Row("seconds", 30.0, "Silence after which an attempt that an agent runs is lost.")
    ]
    secret_key_file: Annotated[
        Path, _Row("path", None, "File with the keys that encrypt stored secrets; by default secret.key in the home.")
    ]
    secrets_backends: Annotated[
        tuple[str, ...], _Row("list", (), "Drivers that are asked for connections and variables, in order.")
    ]
    log_handlers: Annotated[tuple[str, ...], _Row("list", (), "Drivers that also keep the logs of attempts.")]
    plugins: Annotated[tuple[str, ...], _Row("list", (), "Modules to load as plugins, beside the installed providers.")]
    providers_disabled: Annotated[tuple[str, ...], _Row("list", (), "Providers that are not loaded.")]
    providers_only: Annotated[tuple[str, ...], _Row("list", (), "If given, the only providers that are loaded.")]
    providers_required: Annotated[tuple[str, ...], _Row("list", (), "Providers without which Flux refuses to start.")]
    strict: Annotated[bool, _Row("flag", False, "Whether a broken provider is an error.")]
    log_max_bytes: Annotated[
        int, _Row("bytes", 200_000_000, "Size of an attempt's log; beyond it, both ends are kept.")
    ]
    min_free_bytes: Annotated[int, _Row("bytes", 200_000_000, "Free disk space below which nothing new starts.")]
    import_timeout_seconds: Annotated[float, _Row("seconds", 30.0, "Time a DAG file may take to be read.")]
    scan_seconds: Annotated[float, _Row("seconds", 30.0, "Time between two safety scans of the DAGs folder.")]
    dag_hosts: Annotated[int, _Row("count", 32, "DAG hosts that are kept at once.")]
    dag_host_idle_seconds: Annotated[float, _Row("seconds", 300.0, "Time after which an unused DAG host ends.")]
    stuck_seconds: Annotated[float, _Row("seconds", 10.0, "Silence after which a component is restarted.")]
    adopt_timeout_seconds: Annotated[
        float, _Row("seconds", 60.0, "Time that tasks go on while no supervisor is there.")
    ]
    smtp_host: Annotated[str, _Row("text", "localhost", "Mail server.")]
    smtp_port: Annotated[int, _Row("count", 25, "Port of the mail server.")]
    smtp_user: Annotated[str, _Row("text", "", "User at the mail server; empty: no login.")]
    smtp_password_file: Annotated[Path | None, _Row("path", None, "File with the password of that user.")]
    smtp_from: Annotated[str, _Row("text", "flux@localhost", "Sender of mails.")]
    smtp_starttls: Annotated[bool, _Row("flag", False, "Whether STARTTLS encrypts the way to the mail server.")]

    @property
    def run_folder(self) -> Path:
        """Folder of sockets, locks, results and the sources of DAG versions."""
        return self.home / "run"

    @property
    def file(self) -> Path:
        """The configuration file, which may be absent."""
        return self.home / "flux.toml"

    @property
    def database_file(self) -> Path | None:
        """The file of a SQLite database; None for a server."""
        match = _SQLITE.match(self.database_url)
        return Path(match["file"]) if match else None


_SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<file>[^?]+)")
_PASSWORD = re.compile(r"(?P<before>://[^:/?#@]*:).*(?=@)|(?P<key>[?&]\w*passw(or)?d=)[^&]*")

OPTIONS: tuple[Option, ...] = tuple(
    Option(name, *hint.__metadata__[0])
    for name, hint in get_type_hints(Config, include_extras=True).items()
    if hasattr(hint, "__metadata__")
)


def load(environ: Mapping[str, str], *, home: str | os.PathLike[str] | None = None) -> Config:
    """Return the configuration of `home`, by default FLUX_HOME or ~/.flux.

    Raises:
        ConfigError: an option is unknown or has a value that cannot be used; the file cannot be read.
    """
    base = _folder(environ, environ.get("FLUX_HOME") or "~/.flux" if home is None else os.fspath(home))
    file = base / "flux.toml"
    written = _read_file(file)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        if environ.get(option.variable):
            sources[option.name], raw = option.variable, environ[option.variable]
        elif written.get(option.name, "") != "":
            sources[option.name], raw = str(file), written[option.name]
        else:
            sources[option.name] = "default"
            values[option.name] = _default(option, base)
            continue
        if option.type == "path" and sources[option.name] == option.variable:
            raw = _from_here(raw, environ)
        values[option.name] = _value(option, raw, sources[option.name], environ)
    values["database_url"] = _with_absolute_file(values["database_url"], base)
    for name in ("dags_folder", "logs_folder", "secret_key_file", "smtp_password_file"):
        if values[name] is not None:
            values[name] = base / values[name]
    return Config(home=base, sources=sources, **values)


def with_absolute_paths(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the same meaning in every working folder: paths in it begin at the present one."""
    paths = {option.variable for option in OPTIONS if option.type == "path"}
    return {name: _from_here(text, environ) if name in paths else text for name, text in environ.items()}


def describe(config: Config) -> list[dict[str, Any]]:
    """Return [{"name", "value", "default", "source", "help"}] of every option, passwords masked."""
    return [
        {
            "name": option.name,
            "value": _shown(option, getattr(config, option.name)),
            "default": _shown(option, _default(option, config.home)),
            "source": config.sources[option.name],
            "help": option.help,
        }
        for option in OPTIONS
    ]


def template() -> str:
    """Return the text of a new `flux.toml`: every option as a comment."""
    lines = ["# Options of Flux. Each is also an environment variable: FLUX_ and its name; the environment wins."]
    for option in OPTIONS:
        example = "" if option.default is None else option.default
        shown = {True: "true", False: "false"}.get(example) if isinstance(example, bool) else None
        text = shown or (str(example) if isinstance(example, (int, float)) else _quoted(example))
        lines += ["", f"# {option.help}", f"#{option.name} = {text}"]
    return "\n".join(lines) + "\n"


def _quoted(value: str | tuple[str, ...]) -> str:
    return f'"{value}"' if isinstance(value, str) else "[" + ", ".join(f'"{item}"' for item in value) + "]"


def _folder(environ: Mapping[str, str], text: str) -> Path:
    path = Path(text)
    if path.parts and path.parts[0] == "~":
        path = Path(environ.get("HOME") or Path.home(), *path.parts[1:])
    # Not resolved: a home behind a symbolic link is known by the name it was given.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _read_file(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"Configuration {str(file)!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"Configuration {str(file)!r} is not valid TOML: {error}. Mend that line.") from error
    known = {option.name for option in OPTIONS}
    for name in data:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"Did you mean {' or '.join(near)}?" if near else "`flux config list` shows all options."
            raise ConfigError(f"Option {name!r} in {str(file)!r} does not exist. {hint}")
    return data


def _default(option: Option, home: Path) -> Any:
    match option.name:
        case "database_url":
            return f"sqlite:///{home / 'flux.db'}"
        case "dags_folder":
            return home / "dags"
        case "logs_folder":
            return home / "logs"
        case "secret_key_file":
            return home / "secret.key"
        case "parallelism":
            return max(8, 2 * len(os.sched_getaffinity(0)))
    return option.default


def _value(option: Option, raw: Any, source: str, environ: Mapping[str, str]) -> Any:
    try:
        if option.type == "path":
            return _path(raw, environ)
        return _READERS[option.type](raw) if option.type in _READERS else _choice(raw, option.type.split("|"))
    except ValueError as error:
        shown = "…" if option.secret else repr(raw)
        raise ConfigError(f"Option {option.name} = {shown} (from {source}) {error}") from None


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError("is not text. Put it in quotes.")
    return raw.strip()


def _path(raw: Any, environ: Mapping[str, str]) -> Path:
    text = _text(raw)
    return _folder(environ, text) if text.startswith("~") else Path(text)


def _from_here(text: str, environ: Mapping[str, str]) -> str:
    """A path as a person types it: from the working folder, as in any other command. Empty stays empty."""
    return str(_folder(environ, text.strip())) if text.strip() else ""


def _seconds(raw: Any) -> float:
    try:
        number = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("is not a number of seconds above 0. Set one, for example 5.")
    return number


def _count(raw: Any) -> int:
    if isinstance(raw, str) and raw.strip().isascii() and raw.strip().isdecimal():
        raw = int(raw)
    if not isinstance(raw, int) or isinstance(raw, bool) or raw < 1:
        raise ValueError("is not a whole number above 0. Set one, for example 8.")
    return raw


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _bytes(raw: Any) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?B?)", str(raw).strip().upper(), re.ASCII)
    unit = match and match[2].removesuffix("B") + ("B" if match[2] else "")
    if match is None or unit not in _UNITS:
        raise ValueError("is not a number of bytes. Set one, for example 200000000 or 200 MB.")
    return int(match[1]) * _UNITS[unit]


def _flag(raw: Any) -> bool:
    value = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    try:
        return value[str(raw).strip().lower()]
    except KeyError:
        raise ValueError("is neither true nor false. Set one of these.") from None


def _list(raw: Any) -> tuple[str, ...]:
    items = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError("is not a list of names. Separate them by commas.")
    return tuple(item.strip() for item in items if item.strip())


def _zone(raw: Any) -> str:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(_text(raw)).key
    except (KeyError, ValueError, OSError):
        raise ValueError("is not a time zone. Set one, for example Europe/Berlin.") from None


def _choice(raw: Any, choices: list[str]) -> str:
    text = str(raw).strip()
    if text not in choices:
        raise ValueError(f"is not one of {', '.join(choices)}.")
    return text


_READERS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "seconds": _seconds,
    "count": _count,
    "bytes": _bytes,
    "flag": _flag,
    "list": _list,
    "zone": _zone,
}


def _with_absolute_file(url: str, home: Path) -> str:
    """A relative SQLite file is in the home, wherever a component runs."""
    match = _SQLITE.match(url)
    if match is None or match["file"] == ":memory:":
        return url
    return url[: match.start("file")] + str(home / match["file"]) + url[match.end("file") :]


def _shown(option: Option, value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    if option.secret and isinstance(value, str):
        return _PASSWORD.sub(lambda match: f"{match['before'] or match['key']}***", value)
    return value
