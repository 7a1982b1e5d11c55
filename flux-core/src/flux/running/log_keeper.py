"""Hands the logs of ended attempts to the log handlers: each handler in a thread of its own of the supervisor.

What is to be kept is in the store since the commit that ended the attempt, so a supervisor that dies loses nothing; its
successor may hand over a log a second time. A handler that raises is called again with growing pauses; one that hangs
holds up its own logs only.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path

from flux.drivers import KeptLog, LogHandler
from flux.errors import StoreError
from flux.secret import mask
from flux.store import kept_logs
from flux.store.engine import Store
from flux.store.kept_logs import LogToKeep
from flux.times import Clock

#: Seconds between two looks for what failed and is due again.
_LOOK_SECONDS = 1.0
#: The same while the database is away.
_AWAY_SECONDS = 5.0


class LogKeeper:
    """The threads of all configured log handlers.

    Args:
        folder: the logs folder.
    """

    def __init__(self, store: Store, clock: Clock, folder: Path, handlers: Mapping[str, LogHandler]) -> None:
        self._threads = [_Thread(store, clock, folder, name, handler) for name, handler in handlers.items()]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Attempts have ended: look at once."""
        for thread in self._threads:
            thread.look.set()

    def stop(self, seconds: float) -> None:
        """Begin nothing further, and wait for what is under way, up to `seconds`; the rest waits in the store."""
        for thread in self._threads:
            thread.is_stopping = True
            thread.look.set()
        for thread in self._threads:
            thread.join(seconds / len(self._threads))


class _Thread(threading.Thread):
    def __init__(self, store: Store, clock: Clock, folder: Path, name: str, handler: LogHandler) -> None:
        super().__init__(name=f"log handler {name}", daemon=True)
        self.look = threading.Event()
        self.is_stopping = False
        self._store = store
        self._clock = clock
        self._folder = folder
        self._handler_name = name
        self._handler = handler

    def run(self) -> None:
        while not self.is_stopping:
            self.look.clear()
            try:
                pause = self._keep_some()
            except StoreError:  # the database thread tells about it
                pause = _AWAY_SECONDS
            except Exception:
                traceback.print_exc()
                pause = _AWAY_SECONDS
            if pause != 0:
                self.look.wait(pause)

    def _keep_some(self) -> float | None:
        """Hand over what is due, up to a number; return how long to sleep, None: until attempts have ended."""
        logs, gone = self._store.read(
            lambda connection: kept_logs.due(connection, self._handler_name, self._clock.now())
        )
        kept, failed = list(gone), []
        for log in logs:
            if self.is_stopping:
                break
            if self._keep(log):
                kept.append(log.message)
            else:
                failed.append(log)
        if kept or failed:
            self._store.write(lambda connection: kept_logs.done(connection, kept, failed, self._clock.now()))
            return 0
        is_idle = self._store.read(lambda connection: kept_logs.waiting(connection, self._handler_name)) == 0
        return None if is_idle else _LOOK_SECONDS

    def _keep(self, log: LogToKeep) -> bool:
        path = self._folder / log.log
        if not path.exists():  # its process was never launched, or somebody was quicker
            return True
        pid = os.getpid()
        try:
            self._handler.keep(kept_log(log, path))
        except BaseException as error:  # a handler that calls sys.exit must not end its thread
            if log.tries == 0:
                with contextlib.suppress(OSError):
                    print(
                        mask(
                            f"supervisor: log handler {self._handler_name!r} did not keep {str(path)!r}: "
                            f"{type(error).__name__}: {error}. It is called again, with growing pauses."
                        ),
                        file=sys.stderr,
                        flush=True,
                    )
            return False
        finally:
            if os.getpid() != pid:  # a child that the handler forked and let go: the database is not its own
                os._exit(0)
        return True


def kept_log(log: LogToKeep, path: Path) -> KeptLog:
    """Return what a handler gets."""
    map_index = None if log.map_index < 0 else log.map_index
    return KeptLog(log.dag_id, log.run_id, log.task_id, map_index, log.attempt, path)
