"""What becomes of the providers that listen: who raised, who is switched off, and who is being called just now.

Standard library only. Two files of the run folder outlive the listener process: `listeners.json` says how often each
provider has failed in a row, for the next listener process and for people; `listener.call` holds the call that is under
way, in mapped memory, so that writing it costs nothing and a process that was killed in a call leaves it behind.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flux import wire

#: Failures in a row after which a provider is switched off.
MOST_FAILURES = 5
#: The hooks of which state changes are delivered, and the others that the listener process calls.
TASK_HOOK, RUN_HOOK = "flux_task_state_changed", "flux_dag_run_state_changed"
STARTED_HOOK, STOPPING_HOOK = "flux_component_started", "flux_component_stopping"
HOOKS = (TASK_HOOK, RUN_HOOK, STARTED_HOOK, STOPPING_HOOK)

_SIZE = 512
_EVENT = struct.Struct("=q")


@dataclass(frozen=True, slots=True)
class ListenerState:
    """How one provider listens."""

    provider: str
    #: Tells one release of the provider from another: its failures are forgotten with the old one.
    stamp: str
    #: Calls in a row that raised, took too long or ended the process.
    failures: int
    #: No event is given to it until Flux starts anew or the provider changes.
    is_off: bool
    #: What the last of them was, in one line.
    reason: str
    #: When; ISO 8601, UTC.
    at: str
    #: The event whose call ended the process, until it was told; 0: none. Those before it come again meanwhile: that
    #: they go well says nothing.
    event: int = 0


def states(run_folder: Path) -> list[ListenerState]:
    """Return the providers whose last call failed, by name; empty when all is well."""
    return [state for _, state in _read(run_folder)]


def of_system(run_folder: Path, system: str) -> dict[str, ListenerState]:
    """Return by provider what earlier listener processes of `system`, one start of Flux, left."""
    return {state.provider: state for whose, state in _read(run_folder) if whose == system}


def publish(run_folder: Path, system: str, failing: Iterable[ListenerState]) -> None:
    """Write down the providers whose last call failed, whole.

    Raises:
        OSError: the disk is full or the folder gone.
    """
    rows = [asdict(state) for state in sorted(failing, key=lambda state: state.provider)]
    wire.write_file(str(run_folder / "listeners.json"), json.dumps({"system": system, "failing": rows}).encode())


def _read(run_folder: Path) -> list[tuple[str, ListenerState]]:
    try:
        data = json.loads((run_folder / "listeners.json").read_bytes())
        return [(data["system"], ListenerState(**row)) for row in data["failing"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []


class CallMark:
    """The call that is under way: a provider's name and the number of the event it is given.

    Raises:
        OSError: the run folder cannot be written.
    """

    def __init__(self, run_folder: Path) -> None:
        handle = os.open(run_folder / "listener.call", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, _SIZE)
            self._map = mmap.mmap(handle, _SIZE)
        finally:
            os.close(handle)

    @staticmethod
    def encode(provider: str) -> bytes:
        """Return what `begin` takes for a provider."""
        return provider.encode()[: _SIZE - _EVENT.size].ljust(_SIZE - _EVENT.size, b"\0")

    def begin(self, event: int, provider: bytes) -> None:
        """Note that `provider` is called now with `event`; 0 stands for what is no row of the outbox."""
        self._map[: _EVENT.size] = _EVENT.pack(event)
        self._map[_EVENT.size :] = provider

    def end(self) -> None:
        """Note that nobody is called."""
        self._map[_EVENT.size] = 0

    def left(self) -> tuple[int, str] | None:
        """Return the event and the provider whose call never ended; None: there was none."""
        provider = self._map[_EVENT.size :].rstrip(b"\0")
        if not self._map[_EVENT.size]:
            return None
        return _EVENT.unpack_from(self._map)[0], provider.decode(errors="replace")

    def close(self) -> None:
        self._map.close()
