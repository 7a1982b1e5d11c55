"""Params: values that a DAG declares and a run's `conf` may set, with the checks the author asked for."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

from flux.arguments import check_mapping
from flux.errors import BadParam

#: JSON's types, with Python's classes as other names for them.
_TYPE_NAMES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    None: "null",
    type(None): "null",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
    "null": (type(None),),
}

ParamType = type | str | None


class Param:
    """A declared param: its default and what its values must keep. Without a default every run must give it.

    Args:
        default: a JSON value; `...` (or leaving it out) means that there is none.
        type: "string", "integer", "number", "boolean", "array", "object", "null", Python's class for one of them, or
            several in a list. None: any JSON value.
        minimum, maximum: bounds of a number, both included; of the length of a string or an array.
        enum: the allowed values.
    """

    def __init__(
        self,
        default: Any = ...,
        *,
        type: ParamType | Sequence[ParamType] = None,  # noqa: A002 - the name that authors know
        minimum: float | None = None,
        maximum: float | None = None,
        enum: Sequence[Any] | None = None,
        description: str = "",
    ) -> None:
        self.default = default
        self.type = _type_names(type)
        self.minimum = minimum
        self.maximum = maximum
        self.enum = None if enum is None else list(enum)
        self.description = description

    @property
    def is_required(self) -> bool:
        """There is no default."""
        return isinstance(self.default, EllipsisType)

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise BadParam naming the param and what it has to be."""
        fault = self._fault(value)
        if fault:
            hint = f" ({self.description})" if self.description else ""
            raise BadParam(f"Param {name!r} = {value!r} {fault}{hint}.")
        return value

    def _fault(self, value: Any) -> str | None:
        if not _is_json(value):
            return "is not a JSON value"
        if self.type is not None and not any(_is_of(value, name) for name in self.type):
            return f"is not of type {' or '.join(self.type)}"
        if self.enum is not None and not any(_same(value, allowed) for allowed in self.enum):
            return f"is not one of {', '.join(map(repr, self.enum))}"
        size = _size(value)
        if self.minimum is not None and size is not None and size < self.minimum:
            return f"is below the minimum {self.minimum}"
        if self.maximum is not None and size is not None and size > self.maximum:
            return f"is above the maximum {self.maximum}"
        return None

    def to_spec(self) -> dict[str, Any]:
        """Return the JSON that a DAG version keeps; "default" is absent when there is none."""
        spec = {} if self.is_required else {"default": self.default}
        rest = {"type": self.type, "minimum": self.minimum, "maximum": self.maximum, "enum": self.enum}
        spec |= {key: value for key, value in rest.items() if value is not None}
        return spec | {"description": self.description} if self.description else spec

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Param:
        """Read what `to_spec` wrote."""
        return cls(**spec)

    def __repr__(self) -> str:
        return f"Param({', '.join(f'{key}={value!r}' for key, value in self.to_spec().items())})"


def declare(values: Mapping[str, Any] | None, what: str) -> dict[str, Param]:
    """Return `params={...}` of a DAG or a task as Params; a plain value is a Param with that default.

    `what` names the owner in messages, such as "DAG 'sales'".

    Raises:
        AuthoringError: not a mapping from names.
        BadParam: a default does not keep its own declaration.
    """
    declared = {
        name: value if isinstance(value, Param) else Param(value)
        for name, value in check_mapping(values, f"{what}: params").items()
    }
    for name, param in declared.items():
        if not param.is_required:
            try:
                param.check(name, param.default)
            except BadParam as error:
                raise BadParam(f"{what}: {error}") from None
    return declared


def from_specs(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, Param]:
    """Read the params of a DagStructure."""
    return {name: Param.from_spec(spec) for name, spec in specs.items()}


def resolve(
    dag_params: Mapping[str, Any], task_params: Mapping[str, Any] | None, conf: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the values a task sees: the DAG's, over them the task's, over them those of `conf` that are declared.

    They are copies: a task may change what it got.

    Values of both mappings are Params or plain ones. A plain value of a task is checked by the DAG's Param of that
    name. Other keys of `conf` are left out.

    Raises:
        BadParam: a value breaks its declaration, or one without a default is not in `conf`.
    """
    declared = declare(dag_params, "DAG")
    values = {name: param.default for name, param in declared.items()}
    for name, value in (task_params or {}).items():
        if isinstance(value, Param) or name not in declared:
            declared.update(declare({name: value}, "Task"))
            value = declared[name].default
        values[name] = value
    values.update({name: value for name, value in (conf or {}).items() if name in declared})
    for name, param in declared.items():
        if isinstance(values[name], EllipsisType):
            raise BadParam(f"Param {name!r} has no default and was not given. Set it in the run's conf.")
        param.check(name, values[name])
    return copy.deepcopy(values)


def _type_names(given: ParamType | Sequence[ParamType]) -> list[str] | None:
    if given is None:
        return None
    items: Sequence[Any] = given if isinstance(given, list | tuple) else [given]
    names = [_TYPE_NAMES.get(item, item) for item in items]
    unknown = [name for name in names if name not in _TYPES]
    if unknown or not names:
        raise BadParam(f"Param type {given!r} is not known. Known: {', '.join(_TYPES)}.")
    return names


def _is_of(value: Any, type_name: str) -> bool:
    if isinstance(value, bool):
        return type_name == "boolean"
    if type_name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[type_name])


def _same(value: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _size(value: Any) -> float | None:
    """What minimum and maximum bound; None: nothing."""
    if isinstance(value, str | list | tuple):
        return len(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_json(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
