"""The command line: one module per noun. Printing and exit codes are here and nowhere else."""

from __future__ import annotations

__all__: list[str] = []
