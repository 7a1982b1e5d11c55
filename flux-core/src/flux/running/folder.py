"""Brings the store up to the DAGs folder: finds changed files by content, has each read in a process of its own.

The kernel tells of changes at once (inotify); a scan every `scan_seconds` is the safety net, for file systems and moves
it does not tell of. A scan compares time stamps first and contents then, so a file is read once for each content. A
DAG file is read again when anything it was read from has changed: modules below the folder, template files.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flux.config import Config
from flux.dag_file import dag_files
from flux.dag_folder import PROVIDER_FILE
from flux.errors import StoreError
from flux.loop import Loop
from flux.running.folder_files import Stamp, content_hash, shown, stamp
from flux.running.folder_watch import FolderWatch
from flux.running.versions import Shelved, shelve
from flux.store import dags
from flux.store.dags import DagFile, Reading, Registered
from flux.times import utc_now
from flux.wire import write_file

if TYPE_CHECKING:
    import sqlalchemy as sa

    from flux.running.launcher_client import LauncherClient

#: Before what the database refused is tried again.
_AGAIN_SECONDS = 1.0
#: Files read at the same time.
_READERS = 2
#: A broken file that took longer to read is not read again because another file has changed: it would hold a reader.
_SLOW_SECONDS = 2.0


class Database(Protocol):
    """Runs work in a transaction and calls back in the loop; `writer.Writer` is one."""

    def call(
        self,
        work: Callable[[sa.Connection], Any],
        done: Callable[[Any], object] = ...,
        *,
        failed: Callable[[Exception], object] | None = None,
        reads_only: bool = False,
    ) -> None: ...


@dataclass(slots=True)
class _Known:
    """A DAG file as it was last read."""

    #: {path: SHA-256} of what it was read from; "" for a file that could not be read at all.
    sources: Mapping[str, str]
    stamps: Mapping[str, Stamp] = field(default_factory=dict)
    has_error: bool = False
    is_slow: bool = False

    @property
    def may_be_mended(self) -> bool:
        """Whether it is worth another reading when some other file has changed."""
        return self.has_error and not self.is_slow


@dataclass(frozen=True, slots=True)
class _Stored:
    """What storing a reading gave."""

    registered: list[Registered]
    shelved: list[Shelved]
    #: In the store, also of a reading that was good but clashes with another file.
    has_error: bool
    #: Files that were refused for a dag_id that is free now.
    again: list[str]


class Folder:
    """The DAGs folder as the store knows it.

    Args:
        on_changed: called in the loop with the DAGs of a file that was read, after they were stored, and with an
            empty list when a file is gone.
        on_provider_changed: called when the one-file provider of the folder is another than before; nothing is read
            until `obey` or `go_on` is called. None: nobody judges it again.
    """

    def __init__(
        self,
        config: Config,
        loop: Loop,
        database: Database,
        launcher: Callable[[], LauncherClient | None],
        on_changed: Callable[[Sequence[Registered], Sequence[Shelved]], object],
        on_provider_changed: Callable[[], object] | None = None,
    ) -> None:
        self._config = config
        self._root = str(config.dags_folder)
        self._loop = loop
        self._database = database
        self._launcher = launcher
        self._on_changed = on_changed
        self._on_provider_changed = on_provider_changed
        self._provider = stamp(self._root, PROVIDER_FILE)
        self._known: dict[str, _Known] = {}
        self._is_loaded = False
        self._waiting: deque[str] = deque()
        self._reading: dict[int, tuple[str, dict[str, Stamp]]] = {}
        #: When each reading began, by `time.monotonic`.
        self._began: dict[int, float] = {}
        #: Looked at while they were being read: looked at once more when that is done.
        self._missed: set[str] = set()
        #: Being read by rules of the providers that hold no more: read again when that is done.
        self._outdated: set[str] = set()
        #: The one-file provider is being judged: what may be imported is not known.
        self._awaits_rules = False
        #: What providers refuse and decide by, until every file was read under it; None: that is so.
        self._rules: Mapping[str, Any] | None = None
        #: All files are to be read, also those that have not changed, when it is known which there are.
        self._rereads_all = False
        #: Broken files are read once more: what they lacked may have been installed while nothing ran.
        self._retries_broken = False
        #: Files with names that are not UTF-8, as they are shown.
        self._misnamed: set[str] = set()
        self._storing = 0
        self._numbers = 0
        self._syncs: list[Callable[[], object]] = []
        self._watch = FolderWatch(self._root, loop, self._look)

    # --- watching --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Learn what the store has, read what has changed since, and go on watching."""
        self._watch.start()
        self._retries_broken = True
        self.load()
        self._loop.every(self._config.scan_seconds, self._look)

    def sync(self, done: Callable[[], object]) -> None:
        """Read what has changed by now, and call `done` when all of it is stored."""
        self._syncs.append(done)
        if self._is_loaded:
            self._scan()
        self._settled()

    def launcher_changed(self) -> None:
        """Ask again what a launcher that died was reading."""
        self._waiting.extendleft(path for path, _ in self._reading.values())
        self._reading.clear()
        self._missed.clear()
        self._read_next()

    def obey(self, rules: Mapping[str, Any]) -> None:
        """Read every file again if providers refuse or decide otherwise than when the files were read last.

        That outlives this process: files are read for what changed while nothing ran, and so are the rules.

        Args:
            rules: see `flux.providers.rules`; the launcher obeys them already.
        """
        decisive = {name: rules[name] for name in ("refused", "policies") if rules.get(name)}
        if decisive != (self._kept_rules() if self._rules is None else self._rules):
            self._rules = decisive
            self._rereads_all = True
        self._awaits_rules = False
        if self._is_loaded and self._rereads_all:
            self._scan()
        else:
            self._read_next()

    def go_on(self) -> None:
        """Read by the rules of before: there are no others."""
        self._awaits_rules = False
        self._read_next()

    @property
    def _rules_file(self) -> Path:
        return self._config.run_folder / "folder-rules.json"

    def _kept_rules(self) -> Mapping[str, Any]:
        try:
            kept: Mapping[str, Any] = json.loads(self._rules_file.read_bytes())
        except (OSError, ValueError):
            return {}
        return kept

    def _keep_rules(self) -> None:
        """Everything was read by the new rules and is stored."""
        try:
            write_file(str(self._rules_file), json.dumps(self._rules).encode())
        except OSError as error:  # the next system reads all files once more
            print(f"folder: {error}", file=sys.stderr, flush=True)
        self._rules = None

    def load(self) -> None:
        """Learn what the store has, and read what has changed since."""
        self._database.call(dags.files, self._loaded, failed=self._load_later, reads_only=True)

    def _load_later(self, error: Exception) -> None:
        print(f"folder: {error}", file=sys.stderr, flush=True)
        self._loop.call_later(_AGAIN_SECONDS, self.load)

    def _loaded(self, files: Sequence[DagFile]) -> None:
        for file in files:
            if file.hash:
                sources = file.sources or {file.path: file.hash}
                self._known[file.path] = _Known({**sources, file.path: file.hash}, has_error=file.error is not None)
            elif file.hash == "":
                self._known[file.path] = _Known({file.path: ""}, has_error=True)
        self._is_loaded = True
        self._scan()

    def glance(self) -> None:
        """Scan if the folder is another one than before: cheap enough to do often."""
        if self._watch.glance():
            self._look()

    def _look(self) -> None:
        if self._is_loaded:
            self._scan()

    # --- finding changes -------------------------------------------------------------------------------------------

    def _scan(self) -> None:
        self._watch.renew()
        self._look_at_provider()
        self._missed.update(path for path, _ in self._reading.values())
        if self._rereads_all:
            self._outdated.update(path for path, _ in self._reading.values())
        busy = self._missed.union(self._waiting)
        present = self._named_well(dag_files(self._root))
        changed = self._retries_broken or any(path not in self._known for path in present)
        for path in present:
            if path in busy:
                continue
            known = self._known.get(path)
            if known is None or self._rereads_all or self._has_changed(path, known):
                self._waiting.append(path)
                changed = True
        if changed:  # what a broken file lacked may be there now
            queued = set(self._waiting) | busy
            self._waiting.extend(path for path in present if path not in queued and self._known[path].may_be_mended)
        self._retries_broken = self._rereads_all = False
        for path in self._known.keys() - set(present) - self._misnamed - busy:
            self._gone(path)
        self._read_next()

    def _look_at_provider(self) -> None:
        seen, self._provider = self._provider, stamp(self._root, PROVIDER_FILE)
        if seen != self._provider and self._on_provider_changed is not None:
            self._awaits_rules = True
            self._on_provider_changed()

    def _named_well(self, paths: Sequence[str]) -> list[str]:
        """Return those that can be written down; the others become import errors under a name that can."""
        good = [path for path in paths if shown(path) == path]
        self._misnamed = {shown(path) for path in paths} - set(good)
        for path in self._misnamed - self._known.keys():
            self._known[path] = _Known({path: ""}, has_error=True)
            message = f"The name of {path!r} is not valid UTF-8. Rename the file."
            self._store(path, Reading(hash="", error={"message": message, "line": None, "traceback": ""}), None)
        return good

    def _has_changed(self, path: str, known: _Known) -> bool:
        stamps = {source: stamp(self._root, source) for source in known.sources}
        if stamps == known.stamps:
            return False
        if any(content_hash(self._root, source) != sha for source, sha in known.sources.items()):
            return True
        known.stamps = stamps
        return False

    def _gone(self, path: str) -> None:
        del self._known[path]
        self._store(path, Reading(hash=None), None)

    # --- reading ---------------------------------------------------------------------------------------------------

    def _read_next(self) -> None:
        while self._waiting and len(self._reading) < _READERS and not self._awaits_rules:
            launcher = self._launcher()
            if launcher is None:
                break
            path = self._waiting.popleft()
            known = self._known.get(path)
            stamps = {source: stamp(self._root, source) for source in (known.sources if known else ())}
            stamps[path] = stamp(self._root, path)
            self._numbers += 1
            self._reading[self._numbers] = (path, stamps)
            self._began[self._numbers] = time.monotonic()
            launcher.read(self._numbers, self._root, path, self._config.import_timeout_seconds)
        self._settled()

    def read_done(self, message: Mapping[str, Any]) -> None:
        """Take the launcher's answer to `read`, and store it."""
        path, stamps = self._reading.pop(message["id"], (None, {}))
        seconds = time.monotonic() - self._began.pop(message["id"], 0.0)
        if path is None:
            return  # asked again since
        sources: dict[str, str] = dict(message["sources"] or {})
        if path not in sources:  # its process ended before it could tell; what was changed since is read again
            sources[path] = (content_hash(self._root, path) if stamp(self._root, path) == stamps[path] else None) or ""
        self._known[path] = _Known(
            sources,
            # What was not looked at before the reading is looked at once more by the next scan.
            {source: stamps.get(source, (0, 0, 0)) for source in sources},
            has_error=message["error"] is not None,
            is_slow=seconds > _SLOW_SECONDS,
        )
        reading = Reading(
            hash=sources[path],
            structures=message["structures"] or (),
            sources=sources,
            contents=self._contents(sources.values()),
            warnings=message["warnings"] or (),
            error=message["error"],
        )
        self._store(path, reading, message["host"])
        if path in self._outdated:
            self._outdated.discard(path)
            self._waiting.append(path)
        if path in self._missed:
            self._missed.discard(path)
            self._scan()
        else:
            self._read_next()

    def _contents(self, hashes: Any) -> dict[str, bytes]:
        found = {}
        for sha in hashes:
            try:
                found[sha] = (self._config.run_folder / "sources" / sha).read_bytes()
            except OSError:
                continue  # of a file that could not be read; or the store has it
        return found

    def _store(self, path: str, reading: Reading, host: int | None) -> None:
        def work(connection: sa.Connection) -> _Stored:
            _check_contents(connection, path, reading)
            registered = dags.register(connection, path, reading, utc_now())
            refused = {file.path: file for file in dags.errors(connection)}
            return _Stored(
                registered,
                [shelve(connection, self._config, item.version_id) for item in registered],
                has_error=path in refused,
                again=[file.path for file in refused.values() if file.hash == "" and "dag_id" in (file.error or {})],
            )

        def done(stored: _Stored) -> None:
            self._storing -= 1
            known = self._known.get(path)
            if known is not None:
                known.has_error = stored.has_error
            self._release_host(host, stored.shelved)
            self._on_changed(stored.registered, stored.shelved)
            busy = {busy for busy, _ in self._reading.values()}.union(self._waiting)
            self._waiting.extend(path for path in stored.again if path in self._known and path not in busy)
            self._read_next()

        def failed(error: Exception) -> None:
            self._storing -= 1
            self._release_host(host, ())
            print(f"folder: {path}: {error}", file=sys.stderr, flush=True)
            if isinstance(error, StoreError) or reading.hash is None:
                self._known[path] = _Known({path: ""}, has_error=True)  # the next scan tries again
            elif reading.error is None:
                message = f"What was read cannot be stored: {type(error).__name__}: {error}".splitlines()[0]
                fault = {"message": message, "line": None, "traceback": ""}
                self._store(path, dataclasses.replace(reading, structures=(), error=fault), None)
            self._settled()

        self._storing += 1
        self._database.call(work, done, failed=failed)

    def _release_host(self, host: int | None, shelved: Sequence[Shelved]) -> None:
        """Let the host of a reading serve the versions it gave; end it if there are none."""
        launcher = self._launcher() if host is not None else None
        if launcher is None or host is None:
            return
        if shelved:
            launcher.keep(host, [version.hash for version in shelved])
        else:
            launcher.drop(host)

    def _settled(self) -> None:
        is_idle = not (self._waiting or self._reading or self._storing or self._awaits_rules)
        if self._is_loaded and is_idle:
            if self._rules is not None:
                self._keep_rules()
            syncs, self._syncs = self._syncs, []
            for done in syncs:
                done()


def _check_contents(connection: sa.Connection, path: str, reading: Reading) -> None:
    """Refuse a good reading of which some source's bytes are neither here nor in the store.

    Raises:
        StoreError: they were lost between reading and storing; reading again brings them back.
    """
    if reading.error is None:
        missing = set(reading.sources.values()) - reading.contents.keys()
        if missing and missing - dags.contents(connection, missing).keys():
            lost = next(source for source, sha in reading.sources.items() if sha in missing)
            raise StoreError(f"The bytes of {lost!r} were lost before {path!r} was stored. It is read again.")
