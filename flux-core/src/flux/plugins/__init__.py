"""What a provider's manifest imports: two markers, and the records its hooks return. Standard library only.

A manifest is a module that says by name what the provider offers. It must be light: Flux imports every manifest
wherever it needs the catalogue, and what a `Ref` names only when somebody uses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from flux.errors import PluginError, PolicyViolation, told

__all__ = ["API_VERSION", "ConnectionType", "Field", "PolicyViolation", "Ref", "hookimpl", "hookspec"]

#: Version of the hooks, apart from the release number: minor, a hook or an argument was added; major, one was removed.
API_VERSION = "1.0"

#: The attribute by which the host knows a marked function.
IMPLEMENTS = "_flux_implements"
SPECIFIES = "_flux_specifies"

_Function = TypeVar("_Function", bound=Callable[..., Any])


def hookimpl(function: _Function) -> _Function:
    """Mark a function of a manifest as the implementation of the hook of its name."""
    setattr(function, IMPLEMENTS, True)
    return function


def hookspec(function: _Function) -> _Function:
    """Mark a function as the specification of a hook."""
    setattr(function, SPECIFIES, True)
    return function


@dataclass(frozen=True, slots=True)
class Ref:
    """Something a provider offers, by name; nothing is imported before `load`.

    Raises:
        PluginError: `path` is not "package.module:Name", or only one end of a transfer is given.
    """

    #: What people call it: an operator's class name, an executor's or a macro's name.
    name: str
    #: Where it is: "package.module:Name".
    path: str
    #: One line for lists; empty: the first line of the docstring.
    summary: str = field(default="", kw_only=True)
    #: Of a transfer, which names both: the kinds of system it reads from and writes to, as "mysql".
    source: str | None = field(default=None, kw_only=True)
    target: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for text in (self.name, self.path):
            if not isinstance(text, str):
                raise PluginError(
                    f"Ref({self.name!r}, {self.path!r}): {text!r} is no text. Write Ref('Name', 'package.module:Name')."
                )
        module, _, attribute = self.path.partition(":")
        if not self.name.isprintable() or self.name != self.name.strip():
            raise PluginError(
                f"Ref({self.name!r}, {self.path!r}): its name has space around it, or what cannot be printed."
            )
        if not self.name or not all(part.isidentifier() for part in (*module.split("."), attribute)):
            raise PluginError(
                f"Ref({self.name!r}, {self.path!r}) names nothing. Write Ref('Name', 'package.module:Name')."
            )
        if (self.source is None) != (self.target is None):
            raise PluginError(
                f"Ref({self.name!r}) names one end of a transfer. Give both source and target, or neither."
            )

    def load(self) -> Any:
        """Import the module and return what the reference names.

        Raises:
            PluginError: the module cannot be imported, or has no such name.
        """
        from importlib import import_module

        module_name, _, attribute = self.path.partition(":")
        try:
            return getattr(import_module(module_name), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module that calls sys.exit or asserts must not end its host
            raise PluginError(f"{self.name!r} ({self.path}) cannot be loaded: {told(error)}.") from error


@dataclass(frozen=True, slots=True)
class Field:
    """A setting of a connection that only its type has, such as `principal`."""

    name: str
    #: Encrypted in the store, masked in lists and logs.
    secret: bool = field(default=False, kw_only=True)
    required: bool = field(default=False, kw_only=True)
    #: None: no default.
    default: str | None = field(default=None, kw_only=True)
    help: str = field(default="", kw_only=True)


_SCHEME = re.compile(r"[a-z][a-z0-9_+.-]*")

#: The settings every connection can have.
StandardField = Literal["host", "port", "login", "password", "schema"]


@dataclass(frozen=True, slots=True)
class ConnectionType:
    """A kind of outside system: which client talks to it, and which settings it needs.

    Data only, so that a form needs no client library.

    Raises:
        PluginError: the name cannot be a URI's scheme, the client is no `Ref`, or a field is there twice or neither a
            standard one nor a `Field`.
    """

    #: As in a connection's `type` and the scheme of its URI.
    name: str
    #: The class that talks to the system.
    client: Ref = field(kw_only=True)
    #: In the order a form shows them.
    fields: Sequence[StandardField | Field] = field(default=(), kw_only=True)
    default_port: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        who = f"ConnectionType({self.name!r})"
        if not _SCHEME.fullmatch(str(self.name)):
            raise PluginError(f"{who}: its name is also a URI's scheme. Use a-z, 0-9, '_', '+', '.' and '-'.")
        if not isinstance(self.client, Ref):
            raise PluginError(f"{who}: its client is {self.client!r}. Write Ref('Name', 'package.module:Name').")
        standard = get_args(StandardField)
        names = []
        for each in self.fields:
            if not isinstance(each, Field) and each not in standard:
                raise PluginError(f"{who}: its field {each!r} is no Field, and none of {', '.join(standard)}.")
            if isinstance(each, Field) and each.name in standard:
                raise PluginError(f"{who}: its Field {each.name!r} is a standard one. Write it as {each.name!r} alone.")
            names.append(each.name if isinstance(each, Field) else each)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PluginError(f"{who} has the field {twice[0]!r} twice. Give one of them another name.")
