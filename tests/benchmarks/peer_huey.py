"""Huey on the chain and the fan. Run by an interpreter that has it: `python peer_huey.py SHAPE SIZE FOLDER`.

SQLite with durable commits, eight worker processes that look for work every millisecond, and a fork for each task.
It keeps no record of what runs: a task that dies with its worker is gone. Prints the CPU seconds of everything,
and when the tasks were asked for by the clock of their stamps.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from huey import SqliteHuey

SHAPE, SIZE, FOLDER = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
TASKS = SIZE if SHAPE == "chain" else SIZE + 2
STAMPS = FOLDER / "stamps"

huey = SqliteHuey(filename=str(FOLDER / "huey.db"), fsync=True, results=SHAPE != "chain")


def isolated(name):
    """What a task does, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        began = time.monotonic_ns()
        file = os.open(STAMPS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"0 {name} {began} {time.monotonic_ns()}\n".encode())
        os._exit(0)
    if os.waitpid(pid, 0)[1] != 0:
        raise RuntimeError(name)


@huey.task()
def link(number):
    isolated(number)
    if number + 1 < SIZE:
        link(number + 1)


@huey.task()
def first():
    isolated("first")
    for number in range(SIZE):
        middle(number)


@huey.task()
def middle(number):
    isolated(number)
    if huey.storage.incr("ended") == SIZE:
        last()


@huey.task()
def last():
    isolated("last")


def end_when_done():
    while not STAMPS.exists() or len(STAMPS.read_bytes().splitlines()) < TASKS:
        time.sleep(0.02)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)


asked = time.monotonic_ns()
if SHAPE == "chain":
    link(0)
else:
    first()
consumer = huey.create_consumer(
    workers=8, worker_type="process", periodic=False, initial_delay=0.001, max_delay=0.001, backoff=1.0
)
threading.Thread(target=end_when_done, daemon=True).start()
try:
    consumer.run()
except (KeyboardInterrupt, SystemExit):
    pass
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(part.ru_utime + part.ru_stime for part in used), asked)
