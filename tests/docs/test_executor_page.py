"""The page on executors is true: its executor runs a task on another machine, with ssh played by a script."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.docs.test_tutorial import BLOCK, Block, Reader, follow, missing
from tests.waiting import until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "write-an-executor.md"
#: Plays `ssh -o OPTION -R THERE:HERE HOST COMMAND`: a shell with another folder and a bare environment, and the socket.
#: The Python of worker-3 finds no packages.
SSH = """#!/bin/sh
echo "$3" "$4" "$5" "$6" >> {calls}
shift 2
if [ "$1" = -R ]; then ln -s "${{2#*:}}" "${{2%%:*}}"; shift 2; fi
if [ "$1" = worker-3 ]; then set -- "$1" "$(echo "$2" | sed 's/ -P -m / -S -P -m /')"; fi
shift
cd / && env -i PATH=/usr/bin:/bin sh -c "$*"
"""


@pytest.mark.slow
@pytest.mark.acceptance
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    blocks = [Block(m["kind"], m["text"], m["note"] or "") for m in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    reader = Reader(tmp_path)
    calls, ssh = tmp_path / "calls", tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH.format(calls=calls))
    ssh.chmod(0o755)
    (tmp_path / ".flux" / "dags").mkdir(parents=True)
    reader.env |= {
        "PATH": f"{ssh.parent}:{Path(sys.executable).parent}:{reader.env['PATH']}",
        "PYTHONPATH": str(tmp_path),
    }
    todo = iter(blocks)
    for block in todo:
        if block.note == "background":
            break
        follow(reader, block)
    with reader.background(block.text) as system:
        assert system.stderr is not None
        until(lambda: "Flux is up" in system.stderr.readline(), 30, "flux up")
        for block in todo:
            if block.note == "until":
                comes_true(reader, block, next(todo))
            else:
                follow(reader, block)
        system.send_signal(signal.SIGINT)
        assert system.wait(15) == 130
    assert " worker-2 echo $$ >> /tmp/flux-" in calls.read_text()
    for line in calls.read_text().splitlines():
        claim = line.partition("/tmp/flux-")[2].partition(".")[0]
        for name in ("sock", "pids", "cancelled"):
            Path(f"/tmp/flux-{claim}.{name}").unlink(missing_ok=True)


def comes_true(reader: Reader, commands: Block, shown: Block) -> None:
    """Run commands again and again until they print what is shown."""

    def is_shown() -> bool:
        reader.type(commands.text)
        return missing(shown.text, reader.shown) is None

    until(is_shown, 20, shown.text)
