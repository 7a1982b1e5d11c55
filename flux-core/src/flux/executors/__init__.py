"""The executors that core brings: both run attempts on the supervisor's machine, through its launcher."""

from __future__ import annotations

__all__: list[str] = []
