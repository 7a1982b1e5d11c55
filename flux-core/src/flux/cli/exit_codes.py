"""What a command's exit code means."""

from __future__ import annotations

DONE = 0
#: Refused or failed.
FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
