"""Luigi on the chain and the fan. Run by an interpreter that has it: `python peer_luigi.py SHAPE SIZE FOLDER`.

A process for each task, as with more than one worker; the scheduler inside, targets as files. Prints the CPU seconds of
everything, and when the tasks were asked for by the clock of their stamps.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import luigi

SHAPE, SIZE, FOLDER = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])


class Step(luigi.Task):
    name = luigi.Parameter()

    def output(self):
        return luigi.LocalTarget(str(FOLDER / f"{self.name}.done"))

    def requires(self):
        if SHAPE == "chain":
            return [Step(str(int(self.name) - 1))] if self.name != "0" else []
        if self.name == "last":
            return [Step(str(number)) for number in range(SIZE)]
        return [Step("first")] if self.name != "first" else []

    def run(self):
        began = time.monotonic_ns()
        file = os.open(FOLDER / "stamps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"0 {self.name} {began} {time.monotonic_ns()}\n".encode())
        os.close(file)
        with self.output().open("w"):
            pass


last = str(SIZE - 1) if SHAPE == "chain" else "last"
asked = time.monotonic_ns()
if not luigi.build([Step(last)], local_scheduler=True, workers=8, log_level="CRITICAL", no_lock=True):
    sys.exit("Luigi failed")
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(part.ru_utime + part.ru_stime for part in used), asked)
