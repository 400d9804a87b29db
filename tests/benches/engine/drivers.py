"""Sixteen drivers at once on one sweep of 200 cells: each cell runs once, in no more time than one driver takes."""

import os
import shutil
import subprocess
import time

from . import graphs
from .measure import Failed, Others, Series, say

CELLS, DRIVERS = 200, 16
SCRIPT = 'sleep 0.05; echo "$CELL" >> "$1"; echo "$CELL" > "$2/cell"'


def write(folder) -> None:
    """`drivers.toml`: each cell sleeps, appends its name to a log outside, and writes it into its artifact."""
    command = ["sh", "-c", SCRIPT, "cell", str(folder / "log"), "{out}"]
    text = graphs.experiment("drivers") + graphs.command_stage("cell", command, env={"CELL": "0"})
    values = ", ".join(f'"{cell}"' for cell in range(CELLS))
    (folder / "drivers.toml").write_text(f'{text}\n[sweep.grid]\n"cell.env.CELL" = [{values}]\n')


def measure(bench) -> None:
    """One driver, then sixteen, each round in an empty store."""
    if not bench.commands:
        return say("drivers: this anneal has no command stages; not measured")
    folder = bench.work / "drivers"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder)
    build = [str(bench.args.anneal), "run", "drivers.toml", "--root", ".", "--outputs", "outputs", "--jobs", "2"]

    def together(count: int) -> tuple[float, int, int]:
        shutil.rmtree(folder / "outputs", ignore_errors=True)
        (folder / "log").write_text("")
        os.sync()
        started = time.perf_counter()
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = [subprocess.Popen(build, cwd=folder, **quiet) for _ in range(count)]
        codes = [process.wait() for process in running]
        seconds = time.perf_counter() - started
        lines = (folder / "log").read_text().split()
        if any(codes) or len(set(lines)) != CELLS:
            raise Failed(f"{count} drivers ended with {codes} and executed {len(set(lines))} of {CELLS} cells")
        return seconds, len(lines), count

    found = {}
    for count in (1, DRIVERS):
        others = Others()
        rounds = [together(count) for _ in range(bench.args.rounds)]
        found[count] = (rounds, others.cores(), os.getloadavg()[0])
    figure = f"{CELLS} cells of 50 ms, two at a time"
    for count, (rounds, busy, load) in found.items():
        name = "one driver" if count == 1 else f"{count} drivers"
        target = None if count == 1 else {"at_most": 1.1, "of": "anneal, one driver", "figure": figure}
        seconds = Series([row[0] for row in rounds], busy, load)
        bench.add("drivers", figure, f"anneal, {name}", bench.anneal.version, seconds, "s", shown="run", target=target)
        lines = Series([row[1] for row in rounds], busy, load)
        bench.add("drivers", "executions, by a log outside", f"anneal, {name}", bench.anneal.version, lines, "",
                  shown="lines of the log", target={"at_most": CELLS})
