"""A component's end of its tie to the hypervisor: its beats, its messages, and the news that the hypervisor is gone.

Standard library only; for launcher, supervisor and UI. The other end is `running/hypervisor.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from flux.loop import Callback, Loop

#: Between two beats; those of all components come at the same moments, and what components do regularly with them.
BEAT_SECONDS = 2.0


class Heart:
    """Beats from within `loop`, so that a loop that hangs falls silent.

    Args:
        fd: what `--hypervisor-fd` names; None when there is no hypervisor, then nothing is sent.
        on_alone: called once when the hypervisor is gone.
        is_well: asked before each beat; False keeps it back, as when another thread hangs.
    """

    def __init__(
        self, loop: Loop, fd: int | None, on_alone: Callback, *, is_well: Callable[[], bool] = lambda: True
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._on_alone = on_alone
        self._is_well = is_well
        if fd is not None:
            os.set_blocking(fd, False)
            loop.add_reader(fd, self._read)
            self._beats = loop.every(BEAT_SECONDS, self.beat)
            self.beat()

    def say(self, message: dict[str, Any]) -> None:
        """Send the hypervisor a message, such as `{"op": "ready"}`."""
        self._write(json.dumps(message).encode() + b"\n")

    def beat(self) -> None:
        """Send a beat now; for who keeps the loop busy with many small things."""
        if self._is_well():
            self._write(b".\n")

    def _write(self, data: bytes) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, data)
        except BlockingIOError:  # the hypervisor is stopped and has not read for minutes
            pass
        except OSError:
            self._alone()

    def _read(self) -> None:
        """Nothing is ever sent to us here: it is the end."""
        try:
            if self._fd is not None and os.read(self._fd, 4096):
                return
        except BlockingIOError:
            return
        except OSError:  # it ended with beats of ours unread
            pass
        self._alone()

    def _alone(self) -> None:
        if self._fd is not None:
            self._beats.cancel()
            self._loop.remove(self._fd)
            os.close(self._fd)
            self._fd = None
            self._on_alone()
