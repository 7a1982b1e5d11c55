"""The page about a provider, from its verdict and its classes. Loads everything that the provider offers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from flux.cli import docstring, provider_offers
from flux.cli.markup import Page
from flux.connection import variable_name
from flux.operator import BaseOperator
from flux.plugins import ConnectionType, Field, Ref
from flux.plugins.catalogue import CORE
from flux.plugins.verdict import Verdict
from flux.sensor import BaseSensor

_BASES: tuple[type, ...] = (BaseSensor, BaseOperator)
#: What stands in an example of a connection for each standard setting.
_EXAMPLE = {"host": "host", "login": "login", "password": "password", "schema": "schema"}


def write(verdict: Verdict, page: Page, *, summary: str = "", reference: str | None = None) -> None:
    """Write the page of a good provider.

    Args:
        summary: what stands below the title; empty: what its distribution says of itself.
        reference: where the page on base arguments is, for links; None: nowhere.

    Raises:
        PluginError: something that it offers cannot be loaded.
    """
    page.heading(1, verdict.name if verdict.distribution is None else verdict.distribution)
    page.paragraphs(summary or _summary(verdict))
    if verdict.name != CORE and verdict.distribution is not None:
        page.code("sh", f"pip install {verdict.distribution}")
    transfers = [ref for ref in verdict.operators if ref.source is not None]
    _classes(page, "Operators", [ref for ref in verdict.operators if ref.source is None], reference)
    _classes(page, "Transfers", transfers, reference)
    _classes(page, "Sensors", verdict.sensors, reference)
    _macros(page, verdict)
    _executors(page, verdict)
    if verdict.connection_types:
        page.heading(2, "Connection types")
        for kind in verdict.connection_types:
            _connection_type(page, kind)
    further = [hook for hook in verdict.hooks if not hasattr(verdict, hook.removeprefix("flux_"))]
    if further:
        page.heading(2, "Hooks")
        page.paragraphs(f"Its manifest also implements {', '.join(f'`{hook}`' for hook in further)}.")


def _summary(verdict: Verdict) -> str:
    from importlib import import_module
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        if verdict.distribution is not None:
            return str(metadata(verdict.distribution).json.get("summary", ""))
    except PackageNotFoundError:
        pass
    return docstring.read(import_module(verdict.module).__doc__).text


def _classes(page: Page, title: str, refs: Any, reference: str | None) -> None:
    if refs:
        page.heading(2, title)
    for ref in refs:
        loaded = ref.load()
        page.heading(3, ref.name)
        page.code("python", provider_offers.import_line(ref))
        if ref.source is not None:
            page.paragraphs(f"From {ref.source} to {ref.target}.")
        page.paragraphs(docstring.read(_own_doc(loaded)).text or ref.summary)
        page.table(("argument", "type", "default", "templated", "meaning"), list(_arguments(loaded)))
        bases = [base for base in _BASES if issubclass(loaded, base)]
        named = [
            f"`{base.__name__}`"
            if reference is None
            else page.link(base.__name__, f"{reference}#{base.__name__.lower()}")
            for base in bases
        ]
        page.paragraphs(f"It also takes the arguments of {' and '.join(named)}.")


def _own_doc(loaded: type) -> str | None:
    """The class's own docstring, or that of the nearest base below Flux's."""
    return next((kind.__doc__ for kind in _own_classes(loaded) if kind.__doc__), None)


def _own_classes(loaded: type) -> list[type]:
    return [kind for kind in loaded.__mro__ if kind not in _BASES and issubclass(kind, BaseOperator)]


def _arguments(loaded: Any) -> Iterator[tuple[str, str, str, str, str]]:
    """A row for each argument that the class adds to those of its base: required ones first, then as in its text."""
    found: dict[str, inspect.Parameter] = {}
    told: dict[str, str] = {}
    for kind in _own_classes(loaded):
        made = vars(kind).get("__init__")
        for document in (kind.__doc__, made.__doc__ if made is not None else None):
            told = {**docstring.read(document).arguments, **told}
        for name, parameter in list(inspect.signature(made).parameters.items())[1:] if made is not None else ():
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.setdefault(name, parameter)
    for name, parameter in sorted(found.items(), key=lambda pair: pair[1].default is not inspect.Parameter.empty):
        templated = "yes" if name in loaded.template_fields else ""
        yield f"`{name}`", _type(parameter), _default(parameter), templated, told.get(name, "")


def _type(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return ""
    return f"`{annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)}`"


def _default(parameter: inspect.Parameter) -> str:
    """As it is written; `…` for an object without a text of its own."""
    if parameter.default is inspect.Parameter.empty:
        return "required"
    text = repr(parameter.default)
    return "…" if " at 0x" in text or text.startswith("<") else f"`{text}`"


def _macros(page: Page, verdict: Verdict) -> None:
    rows = []
    for ref in verdict.macros:
        loaded = ref.load()
        use = provider_offers.macro_name(verdict.name, ref.name)
        text = ref.summary or (docstring.read(loaded.__doc__).text.split("\n\n")[0] if callable(loaded) else "")
        rows.append((f"`{use}{_signature(loaded)}`", text))
    if rows:
        page.heading(2, "Macros")
        page.table(("in templates", "meaning"), rows)


def _signature(loaded: Callable[..., Any]) -> str:
    """The arguments without their types; empty for what is no function of Python."""
    if not inspect.isfunction(loaded):
        return ""
    signature = inspect.signature(loaded)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(inspect.Signature(bare))


def _executors(page: Page, verdict: Verdict) -> None:
    if verdict.executors:
        page.heading(2, "Executors")
    for ref in verdict.executors:
        page.heading(3, ref.name)
        page.paragraphs(docstring.read(ref.load().__doc__).text or ref.summary)
        page.code("sh", f"FLUX_EXECUTOR={ref.name} flux up")


def _connection_type(page: Page, kind: ConnectionType) -> None:
    fields = provider_offers.fields(kind)
    page.heading(3, kind.name)
    page.paragraphs(_client_text(kind.client))
    page.table(
        ("field", "default", "required", "secret", "meaning"),
        [
            (
                f"`{each.name}`",
                "" if each.default is None else f"`{each.default}`",
                "yes" if each.required else "",
                "yes" if each.secret else "",
                each.help,
            )
            for each in fields
        ],
    )
    page.paragraphs("As a URI in the environment, and as a command, which asks for what is secret:")
    variable = variable_name(f"{kind.name}_default")
    page.code("sh", f"export {variable}='{_uri(kind, fields)}'\n{_command(kind, fields)}")


def _client_text(ref: Ref) -> str:
    return ref.summary or docstring.read(ref.load().__doc__).text.split("\n\n")[0]


def _uri(kind: ConnectionType, fields: list[Field]) -> str:
    """A URI with each standard setting, and those of its own that are required."""
    names = {each.name for each in fields}
    text = {name: example for name, example in _EXAMPLE.items() if name in names}
    login = text.get("login", "") + (":password" if "password" in names else "")
    port = f":{kind.default_port}" if kind.default_port is not None else ":port" if "port" in names else ""
    query = "&".join(f"{each.name}=…" for each in fields if each.required)
    return (
        f"{kind.name}://{login + '@' if login else ''}{text.get('host', '')}{port}"
        f"{'/schema' if 'schema' in names else ''}{'?' + query if query else ''}"
    )


def _command(kind: ConnectionType, fields: list[Field]) -> str:
    words = [f"flux connection add {kind.name}_default --type {kind.name}"]
    words += [f"--{each.name} {each.name.upper()}" for each in fields if each.name in ("host", "login", "schema")]
    words += [f"--field {each.name}=…" for each in fields if each.required and not each.secret]
    return " ".join(words)
