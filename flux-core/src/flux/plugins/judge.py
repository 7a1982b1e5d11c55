"""The judging process: imports manifests, asks their hooks, and says what it found. Started by `judgement` only.

It reads one JSON object from its standard input, `{"path", "served", "candidates"}`, and writes a JSON line to the
descriptor that its argument names: `{"begin": i}` before, `{"verdict": …, "spoilt": bool}` after each candidate. What
author code prints goes where standard output and error lead; the lines have a way of their own, which programs that
author code starts do not inherit.

Nothing it imports is ever undone, so after a provider that left a thread or a process, or changed Flux, the path, the
environment and the like it ends (`spoilt`), and a fresh process judges the rest: no provider is blamed for another.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NoReturn

from flux import linux, process
from flux.errors import PluginError, shown, told
from flux.plugins import discovery
from flux.plugins.api_range import admits
from flux.plugins.catalogue import Offer
from flux.plugins.host import Host, implemented
from flux.plugins.scan import Found
from flux.plugins.tampering import Watch, differing, surroundings
from flux.plugins.verdict import ProviderState, Verdict

#: How long a thread, and a process, may go on after the import that started it, in seconds.
_THREAD_GRACE = 0.05
_PROCESS_GRACE = 0.5
#: Bytes of memory that the judging process may fill: a manifest is light, and a machine has other things to do.
_MOST_MEMORY = 2 << 30
#: Kept from here on, whatever a manifest does to their modules.
_encode = json.JSONEncoder().encode
_write = os.write


def main() -> NoReturn:
    """Judge what standard input names, in its order, and end."""
    linux.die_with_parent()
    channel = _own_channel(int(sys.argv[1]))
    process.go_on_in_child(channel)  # a manifest that kills its parent must not end who asked for the verdicts
    linux.become_subreaper()
    _limit_memory()
    request = json.loads(sys.stdin.buffer.read())
    sys.path[:] = request["path"]
    judge = Judge(request["served"])
    pid = os.getpid()
    for number, candidate in enumerate(request["candidates"]):
        _send(channel, _encode({"begin": number}).encode())
        verdict, spoilt = judge.verdict(candidate)
        if os.getpid() != pid:  # the manifest has forked, and this is its child
            os._exit(0)
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        _send(channel, _line(verdict, spoilt))
        if spoilt:
            break
    os._exit(0)  # threads that author code left do not keep it alive, and its exit handlers are not ours


def _own_channel(descriptor: int) -> int:
    """Move the channel to a high number, out of the way of author code, and closed in programs that it starts."""
    import fcntl

    channel = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(descriptor)
    return channel


def _limit_memory() -> None:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _MOST_MEMORY if most == resource.RLIM_INFINITY else min(_MOST_MEMORY, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def _line(verdict: Verdict, spoilt: bool) -> bytes:
    """The verdict as it is sent, its lines printable; a reference whose texts are no texts is found here."""
    reason = None if verdict.reason is None else shown(verdict.reason)
    verdict = replace(verdict, reason=reason, notes=tuple(map(shown, verdict.notes)))
    try:
        return _encode({"verdict": verdict.to_message(), "spoilt": spoilt}).encode()
    except (TypeError, ValueError) as error:
        broken = _with(verdict, ProviderState.BROKEN, f"What it offers cannot be told: {error}.")
        return _line(broken, spoilt)


def _send(channel: int, line: bytes) -> None:
    data = line + b"\n"
    while data:
        data = data[_write(channel, data) :]


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except Exception:  # author code closed or replaced it
        pass


class Judge:
    """Judges one provider after the other in this process.

    Args:
        served: the API versions that manifests may be made for, newest first.
    """

    def __init__(self, served: Sequence[str]) -> None:
        self._served = served
        self._host = Host()
        discovery.prepare()
        self._watch = Watch()
        self._watch.begin()
        #: Top-level modules that are there without any provider.
        self._base = set(map(_top, sys.modules))
        self._surroundings = surroundings()

    def verdict(self, candidate: Mapping[str, Any]) -> tuple[Verdict, bool]:
        """Judge one candidate; True: this process is spoilt for others.

        Args:
            candidate: {"name", "distribution", "version", "value", "group"} as of `Found`, "folder": to be put first
                on the path or None, "needs_api": whether its manifest must have FLUX_API.
        """
        found = Found(**{key: candidate[key] for key in ("name", "distribution", "version", "value", "group")})
        if candidate["folder"] is not None and candidate["folder"] not in sys.path[:1]:
            sys.path.insert(0, candidate["folder"])
            self._surroundings = surroundings()
        threads = len(sys._current_frames())
        verdict = self._verdict(found, bool(candidate["needs_api"]))
        changed = differing(self._surroundings, surroundings())
        if wrong := self._left_behind(threads):
            return (_with(verdict, ProviderState.BROKEN, wrong) if verdict.is_ok else verdict), True
        if changed and verdict.is_ok:
            verdict = replace(verdict, notes=(*verdict.notes, f"Its import changes {', '.join(changed)}."))
        return verdict, bool(changed)

    def _verdict(self, found: Found, needs_api: bool) -> Verdict:
        verdict = Verdict(found.name, found.distribution, found.version, ProviderState.OK, module=found.module)
        before = set(sys.modules)
        try:
            manifest = discovery.load(found)
        except PluginError as error:
            cause = error.__cause__ or error
            unfit = self._unfit(_api_in_source(found.module), needs_api=False)
            if unfit is not None and unfit[0] is ProviderState.INCOMPATIBLE:
                return _with(verdict, *unfit)
            return _with(
                verdict, ProviderState.BROKEN, f"Its manifest cannot be imported: {_told(cause, found.module)}."
            )
        if found.value != found.module or not isinstance(manifest, ModuleType):
            # Whoever calls its hooks later imports the module, and would find none of an object's.
            why = f"Its entry point names {found.value!r}, which is no module. Name one, as in 'package.provider'."
            return _with(verdict, ProviderState.BROKEN, why)
        unfit = self._unfit(vars(manifest).get("FLUX_API"), needs_api=needs_api)
        if unfit is not None:
            return _with(verdict, *unfit)
        offered, reason = self._asked(found.name, manifest)
        if reason is not None:
            return _with(verdict, ProviderState.BROKEN, reason)
        notes = [*_unmarked(manifest, self._host.hooks), *_repeated(offered)]
        if heavy := self._heavy(_top(found.module), before):
            notes.append(f"Its manifest imports {', '.join(heavy)}: import what is heavy where it is used.")
        return Verdict(
            found.name,
            found.distribution,
            found.version,
            ProviderState.OK,
            module=found.module,
            hooks=tuple(implemented(manifest)),
            notes=tuple(notes),
            **offered,
        )

    def _unfit(self, api: object, *, needs_api: bool) -> tuple[ProviderState, str] | None:
        """Why a manifest with this FLUX_API is not taken; None: it is."""
        if api is None:
            if not needs_api:
                return None
            return ProviderState.BROKEN, "Its manifest has no FLUX_API. Add, for example, FLUX_API = '>=1.0,<2'."
        if not isinstance(api, str):
            return (
                ProviderState.BROKEN,
                f"FLUX_API = {api!r} of its manifest is no text. Write, for example, '>=1.0,<2'.",
            )
        try:
            if any(admits(api, version) for version in self._served):
                return None
        except ValueError as error:
            return ProviderState.BROKEN, f"FLUX_API = {api!r} of its manifest cannot be read: {error}"
        served = " and ".join(self._served)
        return (
            ProviderState.INCOMPATIBLE,
            f"It needs API {api}, and this Flux serves {served}. Install a version of it, or of Flux, that fits.",
        )

    def _asked(self, name: str, manifest: object) -> tuple[dict[str, Any], str | None]:
        """What the manifest offers, by field of `Verdict`; or why it cannot be said."""
        host = self._host
        try:
            host.register(name, manifest)
        except PluginError as error:
            return {}, _without_name(str(error), name)
        try:
            offered: dict[str, Any] = {
                "operators": _refs(host.operators()),
                "sensors": _refs(host.sensors()),
                "executors": _refs(host.executors()),
                "macros": _refs(host.macros()),
                "connection_types": tuple(kind for _, kind in host.connection_types()),
            }
            faults = host.faults
        finally:
            host.unregister(name)
        if faults:
            return {}, f"{faults[0].hook}: {faults[0].message.removesuffix('.')}."
        return offered, None

    def _heavy(self, own: str, before: set[str]) -> list[str]:
        """The outside packages that the provider's package uses on import; where that is not seen, those it brought.

        What another provider has brought already shows only as the origin of its globals.
        """
        known = self._base | sys.stdlib_module_names | {own, "flux"}
        inside = f"{own}."
        used = {
            origin
            for name, module in list(sys.modules.items())
            if name == own or name.startswith(inside)
            for origin in _origins(module)
        }
        if used - known:
            return sorted(used - known)
        return sorted({_top(name) for name in sys.modules.keys() - before if name[0] != "_"} - known)

    def _left_behind(self, threads: int) -> str | None:
        """What a provider left in this process that it must not; None: nothing."""
        if changes := self._watch.changes():
            shown = ", ".join(changes[:3]) + (" and more" if len(changes) > 3 else "")
            return f"Its import changes {shown}. A provider adds to Flux through hooks only."
        until = time.monotonic() + _THREAD_GRACE
        while len(sys._current_frames()) > threads:
            if time.monotonic() > until:
                return "Its import leaves a thread running. Start threads where they are used: Flux forks."
            time.sleep(0.005)
        until = time.monotonic() + _PROCESS_GRACE
        while _living_children():
            if time.monotonic() > until:
                _end_children()
                return "Its import leaves a process running. Start programs where they are used."
            time.sleep(0.005)
        return None


def _living_children() -> list[int]:
    """Reap what has ended; return the pids of the others. An orphan of a program that was started is among them."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return []
    return process.children()


def _end_children() -> None:
    """Kill what was started, and what becomes ours by that. Gives up on what cannot be killed."""
    until = time.monotonic() + _PROCESS_GRACE
    while (left := _living_children()) and time.monotonic() < until:
        for pid in left:
            process.send(pid, signal.SIGKILL)
        time.sleep(0.005)


def _with(verdict: Verdict, state: ProviderState, reason: str) -> Verdict:
    return Verdict(verdict.name, verdict.distribution, verdict.version, state, reason, module=verdict.module)


def _refs(offers: Iterable[Offer]) -> tuple[Any, ...]:
    return tuple(offer.ref for offer in offers)


def _without_name(message: str, name: str) -> str:
    """A message of the host as a sentence about the provider, whose name stands beside it."""
    rest = message.removeprefix(f"Provider {name!r}").lstrip(": ")
    return (
        f"It {rest}" if rest.startswith("implements") else rest[:1].upper() + rest[1:] if rest[:5] != "flux_" else rest
    )


def _told(error: BaseException, module: str) -> str:
    """Type and text of an error, and the line of the provider's own code that it is about."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({_place(error.filename or module, error.lineno or 0)})"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and _is_authors(frame.filename)
    ]
    place = f" ({_place(own[-1].filename, own[-1].lineno or 0)})" if own else ""
    return f"{told(error)}{place}"


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120
_STANDARD = os.path.dirname(os.path.abspath(os.__file__)) + os.sep  # noqa: PTH100, PTH120


def _is_authors(file: str) -> bool:
    if file.startswith(_OURS) or f"{os.sep}stevedore{os.sep}" in file:
        return False
    return not file.startswith(_STANDARD) or "site-packages" in file


def _place(file: str, line: int) -> str:
    return f"{Path(*Path(file).parts[-2:])}:{line}"


def _api_in_source(module: str) -> object:
    """FLUX_API as a manifest that does not import has it written; None: it cannot be seen."""
    try:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        with open(spec.origin, "rb") as file:  # noqa: PTH123
            tree = ast.parse(file.read())
    except BaseException:  # finding it imports the package around it, which may be what is broken
        return None
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "FLUX_API" for target in node.targets):
            return node.value.value if isinstance(node.value, ast.Constant) else None
    return None


def _unmarked(manifest: object, hooks: Iterable[str]) -> list[str]:
    """A line for each name of a hook behind which is nothing that anybody will call."""
    called = implemented(manifest)
    return [
        f"{hook} is not called: {'' if isinstance(value, FunctionType) else 'make it a function, and '}"
        "mark it with @hookimpl."
        for hook, value in vars(manifest).items()
        if hook in hooks and hook not in called
    ]


def _repeated(offered: Mapping[str, Sequence[Any]]) -> list[str]:
    """A line for each name that the provider offers twice."""
    kinds = (("operators", "sensors"), ("executors",), ("macros",), ("connection_types",))
    names = [Counter(item.name for field in fields for item in offered[field]) for fields in kinds]
    return [f"It offers the name {name!r} twice." for each in names for name, count in each.items() if count > 1]


def _origins(module: object) -> set[str]:
    """Top-level packages that a module's globals come from."""
    found = set()
    for value in list(vars(module).values()) if isinstance(module, ModuleType) else ():
        if isinstance(value, ModuleType):
            found.add(_top(value.__name__))
        elif isinstance(value, (type, FunctionType)) and isinstance(value.__module__, str):
            found.add(_top(value.__module__))
    return found


def _top(name: str) -> str:
    return name.partition(".")[0]


if __name__ == "__main__":
    main()
