from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from flux.loop import Loop
from flux.running.heart import Heart


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    loop.call_later(10, loop.stop)
    yield loop
    loop.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, int]]:
    """The hypervisor's end, and the descriptor a component is given."""
    hypervisor, component = socket.socketpair()
    yield hypervisor, component.detach()
    hypervisor.close()


def test_it_beats_from_the_first_moment_and_sends_messages(loop: Loop, ends: tuple[socket.socket, int]) -> None:
    hypervisor, fd = ends
    heart = Heart(loop, fd, on_alone=loop.stop)
    heart.say({"op": "ready"})
    assert hypervisor.recv(100) == b'.\n{"op": "ready"}\n'
    os.close(fd)


@pytest.mark.slow
def test_it_beats_on(loop: Loop, ends: tuple[socket.socket, int]) -> None:
    hypervisor, fd = ends
    Heart(loop, fd, on_alone=loop.stop)
    assert hypervisor.recv(100) == b".\n"
    loop.add_reader(hypervisor.fileno(), loop.stop)
    loop.run()
    assert hypervisor.recv(100) == b".\n"
    loop.remove(hypervisor.fileno())
    os.close(fd)


def test_the_end_of_the_hypervisor_is_told_once_and_closes_the_descriptor(
    loop: Loop, ends: tuple[socket.socket, int]
) -> None:
    """Beats that the hypervisor has not read make its end a reset, not an end of file."""
    hypervisor, fd = ends
    told: list[str] = []
    heart = Heart(loop, fd, on_alone=lambda: (told.append("alone"), loop.call_later(0.01, loop.stop)))
    hypervisor.close()
    loop.run()
    heart.say({"op": "ready"})
    assert told == ["alone"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_hypervisor_that_does_not_read_blocks_nobody(loop: Loop, ends: tuple[socket.socket, int]) -> None:
    hypervisor, fd = ends
    told: list[str] = []
    heart = Heart(loop, fd, on_alone=lambda: told.append("alone"))
    for _ in range(5000):
        heart.say({"op": "ready"})
    assert told == []
    assert hypervisor.recv(10)
    os.close(fd)


def test_without_a_hypervisor_nothing_happens(loop: Loop) -> None:
    told: list[str] = []
    Heart(loop, None, on_alone=lambda: told.append("alone")).say({"op": "ready"})
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert told == []
