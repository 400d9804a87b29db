"""Runs commands and measures them: wall time, memory, bytes read, and how busy everybody else kept the machine.

Unaware of which engine a command belongs to.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Ran:
    """One command that came to its end."""

    seconds: float  # from just before the process is made until it is gone
    peak_mib: float  # largest resident set of it or of one of its children; never below this Python's own at the start
    read_bytes: int  # all bytes that its read calls returned, page cache or not (rchar); mapped files are not in it
    cpu: float  # processor seconds of it and its children, which a busy machine lengthens less than the wall time
    code: int


class Failed(Exception):
    """A command ended otherwise than it should have."""


def run(command: list, cwd: Path, env: dict | None = None, core: int | None = None, codes: tuple = (0,)) -> Ran:
    """Runs a command to its end, its output into a file that is shown if it fails."""
    words = [str(word) for word in command]
    if core is not None:
        words = ["taskset", "-c", str(core), *words]
    log = Path(cwd) / ".engine-bench.log"
    with log.open("wb") as out:
        started = time.perf_counter()
        process = subprocess.Popen(
            words, cwd=cwd, env=os.environ | (env or {}), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        # The end is awaited without reaping, so that the system still knows what the process read.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.perf_counter() - started
        counters = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        text = log.read_text(errors="replace")[-2000:]
        raise Failed(f"{' '.join(words)[:300]} ended with {process.returncode}:\n{text}")
    ran = Ran(
        seconds, usage.ru_maxrss / 1024, int(counters["rchar"]), usage.ru_utime + usage.ru_stime, process.returncode
    )
    _last.append(ran)
    return ran


_last: deque = deque(maxlen=1)


def last_output(cwd: Path) -> str:
    """What the last command in this folder printed."""
    return (Path(cwd) / ".engine-bench.log").read_text(errors="replace")


def _busy_seconds() -> float:
    """Processor seconds used by everybody since the machine started."""
    user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split(None, 8)[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


class Others:
    """Cores that other processes kept busy since this was made: near 0 on a calm machine."""

    def __init__(self) -> None:
        self.began, self.busy, self.own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def cores(self) -> float:
        wall = time.perf_counter() - self.began
        return max(0.0, (_busy_seconds() - self.busy) - (_own_seconds() - self.own)) / max(wall, 0.01)


def wait_for_calm(seconds: float, limit: float = 0.1) -> None:
    """Sleeps until others use less than `limit` cores for two seconds, or the time is over."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        others = Others()
        time.sleep(2)
        if others.cores() < limit:
            return


@dataclass
class Series:
    """The values of several rounds of one measurement."""

    values: list
    others_cores: float
    load: float  # the load average of a minute when it ended
    cpu_seconds: float | None = None  # median of what the measured command and its children used

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def series(rounds: int, once, calm: float = 0.0, attempts: int = 1, limit: float = 0.15) -> Series:
    """`once()` measured `rounds` times; while others were busier than `limit` cores, again, and the calmest counts."""
    best = None
    for _ in range(attempts):
        wait_for_calm(calm)
        others = Others()
        values, cpu = [], []
        for _ in range(rounds):
            values.append(once())
            cpu.append(_last[-1].cpu if _last else 0.0)
        found = Series(values, others.cores(), os.getloadavg()[0], statistics.median(cpu))
        if best is None or found.others_cores < best.others_cores:
            best = found
        if best.others_cores <= limit:
            break
    return best


def hardware(work: Path) -> dict:
    """The machine, and the file system that is measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = subprocess.run(["stat", "-f", "-c", "%T", work], capture_output=True, text=True).stdout.strip()
    return {
        "processor": name, "threads": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1),
        "kernel": platform.release().split("-")[0], "file_system": kind,
    }


def drop_from_cache(path: Path) -> None:
    """Makes the next read of a file go to the disk (as far as this machine decides: a host may cache below it)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def say(text: str) -> None:
    """A line about how far it is."""
    print(text, file=sys.stderr, flush=True)
