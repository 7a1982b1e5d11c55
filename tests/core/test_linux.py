"""The kernel calls, each seen from outside: /proc, the disk, a child's death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flux import linux, process
from tests.waiting import until


def in_child(code: str) -> str:
    """Run code in a fresh interpreter whose environment has a FLUX_CLAIM of zeros; return what it prints."""
    argv = [sys.executable, "-c", f"import os\nfrom flux import linux, process\n{code}"]
    environment = {**os.environ, "FLUX_CLAIM": process.NO_CLAIM}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_claim_is_overwritten_where_the_kernel_shows_it() -> None:
    shown = in_child(
        "assert linux.locate_in_environment('FLUX_CLAIM', 19)\n"
        "assert linux.overwrite_in_environment('FLUX_CLAIM', process.claim_text(42))\n"
        "print(process.carried_claim(os.getpid()))"
    )
    assert shown == "42\n"


def test_a_claim_set_anew_by_python_is_still_overwritten_in_place() -> None:
    shown = in_child(
        "linux.locate_in_environment('FLUX_CLAIM', 19)\n"
        "os.environ['FLUX_CLAIM'] = process.claim_text(1)\n"
        "print(linux.overwrite_in_environment('FLUX_CLAIM', process.claim_text(42)))\n"
        "print(process.carried_claim(os.getpid()))"
    )
    assert shown == "True\n42\n"


def test_a_variable_that_is_missing_or_of_another_length_is_left_alone() -> None:
    assert in_child("print(linux.overwrite_in_environment('FLUX_NONE', 'x'))") == "False\n"
    assert in_child("print(linux.overwrite_in_environment('FLUX_CLAIM', '1'))") == "False\n"


def test_a_process_dies_with_its_parent() -> None:
    code = "linux.die_with_parent(); print(os.getpid(), flush=True); import time; time.sleep(1000)"
    script = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {('from flux import linux; import os; ' + code)!r}],"
        " stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline().decode(), flush=True)\n"
        "child.stdout.close(); child.returncode = 0"
    )
    child = int(in_child(script))
    until(lambda: not process.is_alive(child))


def test_an_orphan_comes_to_the_subreaper() -> None:
    shown = in_child(
        "linux.become_subreaper()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        os.read(0, 1)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(len(process.children()))"
    )
    assert shown == "1\n"


def test_the_name_is_shown() -> None:
    assert in_child("linux.set_name('flux-test-name-too-long'); print(open('/proc/self/comm').read())").startswith(
        "flux-test-name-"
    )


def test_a_process_that_forbids_inspection_is_not_dumpable() -> None:
    code = "linux.forbid_inspection(); import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    assert in_child(code) == "0\n"


def test_a_hole_frees_the_middle_and_keeps_the_ends(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"a" * 100_000 + b"b" * 1_000_000 + b"c" * 100_000)
    before = file.stat().st_blocks
    with file.open("r+b") as opened:
        assert linux.punch_hole(opened.fileno(), 100_000, 1_000_000)
    data = file.read_bytes()
    assert file.stat().st_blocks < before
    assert (data[:100_000], data[-100_000:]) == (b"a" * 100_000, b"c" * 100_000)
    assert set(data[100_000:-100_000]) == {0}


def test_a_hole_in_what_is_no_file_is_refused() -> None:
    read_end, write_end = os.pipe()
    assert not linux.punch_hole(write_end, 0, 10)
    os.close(read_end)
    os.close(write_end)


def test_inotify_tells_what_changed(tmp_path: Path) -> None:
    watch = linux.Inotify()
    watch.add(str(tmp_path), linux.IN_CLOSE_WRITE | linux.IN_MOVED_TO | linux.IN_DELETE | linux.IN_CREATE)
    assert watch.read() == []
    (tmp_path / "näme.py").write_text("x")
    (tmp_path / "näme.py").rename(tmp_path / "b.py")
    (tmp_path / "b.py").unlink()
    (tmp_path / "folder").mkdir()
    seen = watch.read()
    assert (str(tmp_path / "näme.py"), linux.IN_CLOSE_WRITE) in seen
    assert (str(tmp_path / "b.py"), linux.IN_MOVED_TO) in seen
    assert (str(tmp_path / "b.py"), linux.IN_DELETE) in seen
    assert (str(tmp_path / "folder"), linux.IN_CREATE | linux.IN_ISDIR) in seen
    watch.close()


def test_inotify_tells_that_the_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    watch = linux.Inotify()
    watch.add(str(folder), linux.IN_DELETE_SELF)
    folder.rmdir()
    assert [mask & (linux.IN_IGNORED | linux.IN_DELETE_SELF) for _, mask in watch.read()] == [
        linux.IN_DELETE_SELF,
        linux.IN_IGNORED,
    ]
    watch.close()


def test_the_clock_watch_tells_once_that_the_clock_was_set() -> None:
    watch = linux.ClockWatch()
    try:
        assert not watch.was_set()
        for _ in range(2):
            set_clock_to_what_it_shows()
            assert watch.was_set()
            assert not watch.was_set()
    finally:
        watch.close()


def set_clock_to_what_it_shows() -> None:
    """Set the wall clock without moving it by more than some microseconds."""
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))
    except PermissionError:
        pytest.skip("this user may not set the clock")


def test_a_signal_number_has_its_name() -> None:
    assert process.signal_name(signal.SIGKILL) == "SIGKILL"
    assert process.signal_name(64 - 10) == "signal 54"
