from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from flux.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop that ends by itself after ten seconds, so that a lost callback fails its test instead of hanging."""
    loop = Loop()
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGUSR1, signal.SIGUSR2)}
    loop.call_later(10, loop.stop)
    yield loop
    for signum, handler in before.items():
        signal.signal(signum, handler)
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def test_reader_is_called_when_bytes_arrive(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe
    seen: list[bytes] = []

    def take() -> None:
        seen.append(os.read(read, 100))
        loop.stop()

    loop.add_reader(read, take)
    loop.call_later(0.01, lambda: os.write(write, b"hello"))
    loop.run()
    assert seen == [b"hello"]


def test_reader_is_told_of_the_end_of_a_pipe(loop: Loop) -> None:
    read, write = os.pipe()
    ends: list[bytes] = []

    def take() -> None:
        ends.append(os.read(read, 100))
        loop.remove(read)
        loop.stop()

    loop.add_reader(read, take)
    os.close(write)
    loop.run()
    os.close(read)
    assert ends == [b""]


def test_writer_is_called_until_it_is_removed_and_the_reader_stays(loop: Loop) -> None:
    import socket

    here, there = socket.socketpair()
    calls: list[str] = []

    def writable() -> None:
        calls.append("writable")
        loop.remove_writer(here.fileno())
        there.send(b"x")

    def readable() -> None:
        calls.append("readable")
        here.recv(10)
        loop.stop()

    loop.add_reader(here.fileno(), readable)
    loop.add_writer(here.fileno(), writable)
    loop.run()
    loop.remove(here.fileno())
    here.close()
    there.close()
    assert calls == ["writable", "readable"]


def test_a_descriptor_removed_by_an_earlier_callback_of_the_round_is_not_called(loop: Loop) -> None:
    first, first_write = os.pipe()
    second, second_write = os.pipe()
    called: list[int] = []

    def forget_both(fd: int) -> None:
        called.append(fd)
        loop.remove(first)
        loop.remove(second)
        loop.call_later(0.01, loop.stop)

    loop.add_reader(first, lambda: forget_both(first))
    loop.add_reader(second, lambda: forget_both(second))
    os.write(first_write, b"x")
    os.write(second_write, b"x")
    loop.run()
    for fd in (first, first_write, second, second_write):
        os.close(fd)
    assert len(called) == 1


def test_timers_run_in_order_of_their_moments(loop: Loop) -> None:
    calls: list[str] = []
    loop.call_later(0.03, loop.stop)
    loop.call_later(0.02, lambda: calls.append("late"))
    loop.call_later(0.001, lambda: calls.append("early"))
    loop.call_later(0, lambda: calls.append("now"))
    loop.run()
    assert calls == ["now", "early", "late"]


def test_cancelled_timer_is_not_called(loop: Loop) -> None:
    calls: list[str] = []
    timer = loop.call_later(0, lambda: calls.append("cancelled"))
    loop.call_later(0.01, loop.stop)
    timer.cancel()
    timer.cancel()
    loop.run()
    assert calls == []
    assert not timer.is_pending


def test_a_timer_cancelled_in_its_own_round_is_not_called(loop: Loop) -> None:
    calls: list[str] = []
    loop.call_later(0, lambda: second.cancel())
    second = loop.call_later(0, lambda: calls.append("second"))
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert calls == []


def test_a_cancelled_timer_wakes_nobody(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe
    loop.add_reader(read, loop.stop)
    loop.call_later(0.01, lambda: None).cancel()
    os.write(write, b"x")
    loop.run()
    assert [timer.is_pending for _, _, timer in loop._timers] == [True], "only the guard: the loop sleeps until then"


def test_ten_thousand_cancelled_timers_leave_the_others_in_place(loop: Loop) -> None:
    calls: list[int] = []
    kept = [loop.call_later(0.001 * index, lambda index=index: calls.append(index)) for index in range(5)]  # type: ignore[misc]
    for _ in range(10_000):
        loop.call_later(3600, lambda: None).cancel()
    loop.call_later(0.02, loop.stop)
    loop.run()
    assert calls == [0, 1, 2, 3, 4]
    assert not any(timer.is_pending for timer in kept)
    assert len(loop._timers) < 200, "the heap does not grow by timers that were cancelled"


def test_a_repeated_call_comes_at_every_multiple_of_its_period(loop: Loop) -> None:
    calls: list[float] = []

    def take() -> None:
        calls.append(time.monotonic())
        if len(calls) == 5:
            loop.stop()

    loop.every(0.02, take)
    began = time.monotonic()
    loop.run()
    numbers = [call // 0.02 for call in calls]
    assert numbers[0] > began // 0.02
    assert numbers == sorted(set(numbers)), "at most once for each multiple, and not before it"


def test_repeated_calls_of_one_period_share_their_moments_whenever_they_were_asked_for(loop: Loop) -> None:
    guard = loop._timers[0][2]
    for after in (0.0, 0.0, 0.01):
        loop.every(0.1, lambda: None, after=after)
        ends = time.monotonic() + 0.013
        while time.monotonic() < ends:
            pass
    one, two, late = (when for when, _, timer in sorted(loop._timers, key=lambda entry: entry[1]) if timer is not guard)
    assert (two - one) / 0.1 == pytest.approx(round((two - one) / 0.1), abs=1e-6)
    assert (late - 0.01 - one) / 0.1 == pytest.approx(round((late - 0.01 - one) / 0.1), abs=1e-6)


def test_a_loop_that_was_held_up_makes_one_call_for_all_that_it_missed(loop: Loop) -> None:
    calls: list[int] = []

    def hold_up() -> None:
        while time.monotonic() < ends:
            pass

    loop.call_later(0, hold_up)
    loop.every(0.01, lambda: calls.append(1))
    loop.every(0.01, loop.stop)  # of the same round: it is asked for later
    ends = time.monotonic() + 0.1
    loop.run()
    assert calls == [1]


def test_a_repeated_call_ends_when_it_is_cancelled_also_by_itself(loop: Loop) -> None:
    calls: list[str] = []

    def once() -> None:
        calls.append("once")
        itself.cancel()

    itself = loop.every(0.01, once)
    never = loop.every(0.01, lambda: calls.append("never"))
    never.cancel()
    never.cancel()
    loop.call_later(0.05, loop.stop)
    loop.run()
    assert calls == ["once"]


def test_a_repeated_call_that_raises_is_made_again(loop: Loop, capfd: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        if len(calls) == 2:
            loop.stop()
        raise ValueError("bad call")

    loop.every(0.01, broken)
    loop.run()
    assert capfd.readouterr().err.count("ValueError: bad call") == 2


def test_calls_from_other_threads_come_in_order_and_wake_the_loop(loop: Loop) -> None:
    calls: list[int] = []

    def work() -> None:
        for index in range(1000):
            loop.call_soon_threadsafe(lambda index=index: calls.append(index))  # type: ignore[misc]
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    thread.start()
    loop.run()
    thread.join()
    assert calls == list(range(1000))


def test_more_wake_ups_than_the_pipe_holds_lose_nothing(loop: Loop) -> None:
    calls: list[int] = []
    for index in range(70_000):
        loop.call_soon_threadsafe(lambda index=index: calls.append(index))  # type: ignore[misc]
    loop.call_soon_threadsafe(loop.stop)
    loop.run()
    assert len(calls) == 70_000


def test_signals_are_called_back_in_the_loop(loop: Loop) -> None:
    seen: list[str] = []
    loop.on_signal(signal.SIGUSR1, lambda: seen.append("usr1"))
    loop.on_signal(signal.SIGUSR2, loop.stop)
    loop.call_later(0.001, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    loop.call_later(0.01, lambda: os.kill(os.getpid(), signal.SIGUSR2))
    loop.run()
    assert seen == ["usr1"]


def test_a_signal_that_came_before_the_loop_ran_is_not_lost(loop: Loop) -> None:
    loop.on_signal(signal.SIGUSR1, loop.stop)
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.run()
    assert len(loop._timers) == 1, "only the guard of ten seconds is left: the loop was ended by the signal"


def test_a_signal_wakes_a_loop_that_sleeps(loop: Loop) -> None:
    loop.on_signal(signal.SIGUSR1, loop.stop)
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    loop.run()
    assert len(loop._timers) == 1


def test_a_callback_that_raises_is_shown_and_the_loop_goes_on(loop: Loop, capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ValueError("bad callback")

    loop.call_later(0, broken)
    loop.call_later(0.01, loop.stop)
    loop.run()
    shown = capfd.readouterr().err
    assert "ValueError: bad callback" in shown
    assert "in broken" in shown


def test_a_forked_child_drops_the_loop_and_the_parent_keeps_its_own(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe
    loop.add_reader(read, loop.stop)
    pid = os.fork()
    if pid == 0:
        loop.close()
        os.write(write, b"x")
        os._exit(0)
    loop.run()
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(read, 10) == b"x"
