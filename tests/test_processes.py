"""Work on several cores: in order, with its errors, and with an end when its starter is killed."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edit_r1.processes import spread, standing_workers, torch_threads

SCRIPT = """
import os, sys, time
from pathlib import Path
from edit_r1.processes import spread

def work(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    spread(work, [sys.argv[1]] * 8, processes=2, few=2)
"""


def _square(value: int) -> tuple[int, int]:
    if value < 0:
        raise ValueError(f"value={value}")
    return value * value, os.getpid()


def test_results_come_in_order_whoever_made_them() -> None:
    for few, makers in ((2, False), (100, True)):
        results = spread(_square, range(20), processes=2, few=few)
        assert [value for value, _ in results] == [n * n for n in range(20)]
        assert ({maker for _, maker in results} == {os.getpid()}) == makers
    assert spread(_square, []) == []


def test_standing_workers_stay_for_the_next_call_and_no_longer() -> None:
    def makers() -> set[int]:
        return {maker for _, maker in spread(_square, range(40), processes=2, few=2)}

    with standing_workers():
        first = makers() | makers() | makers()
        assert len(first) <= 2 and os.getpid() not in first
        with pytest.raises(ChildProcessError, match="died at its work"):
            spread(os._exit, [7, 7, 7], processes=2, few=2)
        second = makers()  # others, as those have died
        assert not first & second
    assert not second & makers()


THREADS = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from edit_r1.processes import begin_worker, process_context

def threads(_):
    import numpy
    numpy.ones((300, 300)) @ numpy.ones((300, 300))  # a forked process has its threads from the first product on
    return len(os.listdir("/proc/self/task"))

if __name__ == "__main__":
    before = dict(os.environ)
    with ProcessPoolExecutor(1, process_context(["numpy"]), initializer=begin_worker) as pool:
        print(pool.submit(threads, None).result(), dict(os.environ) == before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only a fork server has numpy before a worker begins")
def test_a_worker_has_no_thread_beside_its_own(tmp_path: Path) -> None:
    script = tmp_path / "threads.py"
    script.write_text(THREADS)
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    told = {name: value for name, value in os.environ.items() if name not in limits}
    said = subprocess.run([sys.executable, str(script)], env=told, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["2", "True"]  # the work, and the thread that waits for the starter's end


def test_threads_are_as_told_inside_and_as_before_after() -> None:
    before = torch.get_num_threads()
    for count in (2, 1):
        with torch_threads(count):
            assert torch.get_num_threads() == count
        assert torch.get_num_threads() == before


def test_errors_are_raised_here() -> None:
    with pytest.raises(ValueError, match="value=-1"):
        spread(_square, [1, -1, 2], processes=2, few=2)
    with pytest.raises(ChildProcessError, match="died at its work"):
        spread(os._exit, [7, 7, 7], processes=2, few=2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kill -9 and /proc are what this is about")
def test_no_process_outlives_its_starter(tmp_path: Path) -> None:
    script, folder = tmp_path / "work.py", tmp_path / "workers"
    script.write_text(SCRIPT)
    folder.mkdir()
    starter = subprocess.Popen([sys.executable, str(script), str(folder)])
    _wait_until(lambda: len(list(folder.iterdir())) == 2)
    workers = [int(path.name) for path in folder.iterdir()]
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    _wait_until(lambda: not any(_runs(worker) for worker in workers))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a session of its own is what this is about")
@pytest.mark.parametrize("ignored", [False, True])
def test_at_an_interrupt_only_the_starter_speaks(tmp_path: Path, ignored: bool) -> None:
    """As a terminal's Ctrl-C, which reaches every process of the command; a shell's background jobs ignore it."""
    script, folder = tmp_path / "work.py", tmp_path / "workers"
    script.write_text(SCRIPT)
    folder.mkdir()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        starter = subprocess.Popen(
            [sys.executable, str(script), str(folder)], start_new_session=True, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    _wait_until(lambda: len(list(folder.iterdir())) == 2)
    os.killpg(starter.pid, signal.SIGINT)
    if ignored:
        with pytest.raises(subprocess.TimeoutExpired):
            starter.communicate(timeout=2)
        assert all(_runs(int(path.name)) for path in folder.iterdir())
        os.killpg(starter.pid, signal.SIGKILL)
    _, said = starter.communicate(timeout=30)
    assert ignored or (said.count("Traceback") == 1 and said.rstrip().endswith("KeyboardInterrupt"))
    _wait_until(lambda: not any(_runs(int(path.name)) for path in folder.iterdir()))


def _wait_until(condition) -> None:  # type: ignore[no-untyped-def]
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("nothing happened in 30 s")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have settings of their own")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    script = """
import resource
import numpy as np
from edit_r1.processes import keep_freed_memory
keep_freed_memory()
np.ones(2**21).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(2**21).sum()  # 16 MB, 4096 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert int(told) < 5000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have settings of their own")
def test_kept_memory_can_be_returned() -> None:
    script = """
import os
from edit_r1.processes import keep_freed_memory, return_freed_memory

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

keep_freed_memory()
blocks = [bytes(range(256)) * 1024 for _ in range(800)]  # 200 MB
last = bytes(blocks[-1])
full = held()
blocks = []
kept = held()
return_freed_memory()
print(full - kept, full - held())
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    kept, returned = map(float, told.split())
    assert kept < 20 and returned > 150, "MB that went back by being freed, and by the call"
