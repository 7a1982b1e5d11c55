"""The sensor that waits for a file."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flux.context import Context
from flux.errors import FluxError
from flux.sensor import BaseSensor

__all__ = ["FileSensor"]


class FileSensor(BaseSensor):
    """Wait for a file or folder to exist.

    Whoever delivers the file writes it under another name and renames it, else it is found half written.

    Args:
        filepath: its path; `*`, `?`, `[…]` and `**` stand for any name, `~` for the home folder.
    """

    template_fields: Sequence[str] = ("filepath",)
    ui_color = "#e6f1f2"

    def __init__(self, *, filepath: str | os.PathLike[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filepath = os.fspath(filepath) if isinstance(filepath, os.PathLike) else filepath

    def poke(self, context: Context) -> bool:
        """Return whether it exists; a folder above it that may not be read is an error."""
        if not self.filepath:
            raise FluxError(f"filepath of task {self.task_id!r} is empty after rendering.")
        path = Path(self.filepath).expanduser()
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            pattern = str(path)
            return glob.has_magic(pattern) and next(glob.iglob(pattern, recursive=True), None) is not None  # noqa: PTH207
        return True
