"""What passes between supervisor and agent in pieces: sources one way, log and files of an attempt the other.

A piece is {"offset", "data"} in base64 and names its place, so one that comes twice does no harm.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flux.attempt import AttemptSpec
from flux.dag_file import Manifest
from flux.errors import Refused
from flux.running import attempt_processes

#: Bytes of a source in one answer.
_CHUNK = 1 << 17


def source(run_folder: Path, version: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Return a piece of a source of a DAG version, and the size of the whole.

    Raises:
        Refused: the version has no such source.
    """
    sha, offset = question["sha"], question["offset"]
    if sha not in Manifest.read(run_folder, version).sources.values():
        raise Refused(f"{sha!r} is no source of the version of this attempt.")
    with (run_folder / "sources" / sha).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(offset)
        return {"data": base64.b64encode(file.read(_CHUNK)).decode("ascii"), "size": size}


def take_log(spec: AttemptSpec, question: Mapping[str, Any]) -> None:
    """Write a piece of the log where it belongs; a disk that does not take it costs the log, not the attempt."""
    try:
        _write_at(spec.log, question["offset"], base64.b64decode(question["data"]))
    except OSError as error:
        print(f"supervisor: {spec.log} cannot be written: {error}", file=sys.stderr, flush=True)
        return
    attempt_processes.bound_log(spec.log, spec.log_max_bytes)


def take_file(spec: AttemptSpec, question: Mapping[str, Any]) -> None:
    """Write a piece of a file beside the log; it gets its name when it is whole.

    Raises:
        Refused: an attempt leaves no file of that name.
    """
    name, data = question["name"], base64.b64decode(question["data"])
    log = Path(spec.log)
    is_result = re.fullmatch(re.escape(log.stem) + r"\.\d+\.result", name)
    if not is_result and name != Path(spec.rendered_file).name:
        raise Refused(f"{name!r} is no file of an attempt.")
    part = log.with_name(f"{name}.part")
    if question["offset"] == 0:
        part.unlink(missing_ok=True)
    _write_at(str(part), question["offset"], data)
    if question["offset"] + len(data) == question["size"]:
        part.replace(log.with_name(name))


def _write_at(path: str, offset: int, data: bytes) -> None:
    """Write into a file of our user's alone at an offset; its folders are made."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)
