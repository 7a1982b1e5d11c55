"""Judging the providers beside a running supervisor, and what the listener process is to load of them.

A supervisor judges before it begins, and again when the one-file provider changes. Judging waits for another process,
so it has a thread of its own.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flux import providers
from flux.config import Config
from flux.dag_folder import PROVIDER_FILE
from flux.loop import Loop
from flux.plugins.catalogue import LOCAL, Catalogue
from flux.plugins.verdict import Verdict
from flux.running.listeners import HOOKS


class Judging:
    """Judges again when asked to; one at a time.

    Args:
        environ: of the judging process, less what is Flux's.
        on_judged: called in the loop with the new catalogue, which is saved.
        on_failed: called in the loop with the error that kept from judging or saving; the old catalogue stands.
    """

    def __init__(
        self,
        config: Config,
        loop: Loop,
        environ: Mapping[str, str],
        on_judged: Callable[[Catalogue], object],
        on_failed: Callable[[Exception], object],
    ) -> None:
        self._config = config
        self._loop = loop
        self._environ = environ
        self._on_judged = on_judged
        self._on_failed = on_failed
        self._is_judging = False
        self._is_stale = False

    def judge(self) -> None:
        """Judge all providers as they are now."""
        self._is_stale = self._is_judging
        if not self._is_judging:
            self._is_judging = True
            threading.Thread(target=self._run, name="judging", daemon=True).start()

    def _run(self) -> None:
        try:
            # What configuration insists on is checked at the start alone: a running system does not end for it.
            catalogue = providers.find(self._config, self._environ, lenient=True)
            providers.save(catalogue, self._config)
        except Exception as error:
            problem = error
            self._loop.call_soon_threadsafe(lambda: self._done(lambda: self._on_failed(problem)))
        else:
            self._loop.call_soon_threadsafe(lambda: self._done(lambda: self._on_judged(catalogue)))

    def _done(self, tell: Callable[[], object]) -> None:
        self._is_judging = False
        if self._is_stale:
            self.judge()
        else:
            tell()


def listening(catalogue: Catalogue) -> list[Verdict]:
    """Return the good providers that the listener process is to load, in the catalogue's order."""
    return [
        verdict for verdict in catalogue.verdicts if verdict.is_ok and not frozenset(HOOKS).isdisjoint(verdict.hooks)
    ]


def to_load(catalogue: Catalogue, config: Config) -> Sequence[dict[str, Any]]:
    """Return what the listener process is told of each provider that listens.

    {"name", "module", "folder": where to look for the module first, None: nowhere else, "stamp": changes with its code}
    """
    return [
        {
            "name": verdict.name,
            "module": verdict.module,
            "folder": str(config.dags_folder) if verdict.distribution is None else None,
            "stamp": _stamp(verdict, config),
        }
        for verdict in listening(catalogue)
    ]


def _stamp(verdict: Verdict, config: Config) -> str:
    if verdict.name != LOCAL:
        return verdict.version or ""
    try:
        return hashlib.sha256((config.dags_folder / PROVIDER_FILE).read_bytes()).hexdigest()
    except OSError:
        return ""
