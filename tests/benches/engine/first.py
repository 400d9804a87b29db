"""The first run of 300 copying stages, two at a time, against a bare loop that starts the same processes two at a time.

The floor is `xargs -P2`: no shell, no graph, one `cp` a stage, nothing made durable. `bash` shows what a loop by hand
costs; `dd conv=fsync` what it costs when every copy is on the disk before its process ends, which anneal promises of
every result (file, folder and record) and no other program here.
"""

import itertools
import os
import shutil

from . import graphs
from .measure import run, say, series
from .tools import QUIET, prepare

COUNT = 300
LOOPS = {
    "xargs -P2 cp": ["xargs", "-a", "list", "-P2", "-n2", "cp"],
    "bash loop": ["bash", "-c", f"for ((i = 0; i < {COUNT}; i++)); do cp src/$i out/$i & ((i)) && wait -n; done; wait"],
    "xargs -P2 dd conv=fsync": [
        "xargs", "-a", "numbers", "-P2", "-I{}", "dd", "if=src/{}", "of=out/{}", "conv=fsync", "status=none",
    ],
}
FIGURE = f"first run of {COUNT} copies, two at a time"


def measure(bench) -> None:
    """Each round starts in a fresh folder, everything earlier on the disk."""
    all_rounds = bench.work / "first"
    shutil.rmtree(all_rounds, ignore_errors=True)
    numbers = itertools.count()
    for name, command in LOOPS.items():
        def loop() -> float:
            folder = all_rounds / str(next(numbers))
            graphs.sources(folder, COUNT)
            (folder / "out").mkdir()
            (folder / "list").write_text("".join(f"src/{n} out/{n}\n" for n in range(COUNT)))
            (folder / "numbers").write_text("".join(f"{n}\n" for n in range(COUNT)))
            os.sync()
            seconds = run(command, folder).seconds
            assert len(list((folder / "out").iterdir())) == COUNT
            return seconds

        found = series(bench.args.rounds, loop, *bench.calm)
        bench.add("first", FIGURE, name, "", found, "s", shown=" ".join(command))
    for tool in bench.tools:
        if tool.slow:
            say(f"{tool.name}: {COUNT} stages, {bench.args.slow_rounds} times")

        def fresh() -> float:
            folder = all_rounds / str(next(numbers))
            prepare(tool, folder, COUNT)
            os.sync()
            return run(tool.build, folder, QUIET).seconds

        found = series(bench.args.slow_rounds if tool.slow else bench.args.rounds, fresh, *bench.calm_for(tool))
        target = {"at_most": 3.0, "of": "xargs -P2 cp", "figure": FIGURE} if tool.name == "anneal" else None
        bench.add("first", FIGURE, tool.name, tool.version, found, "s", target=target,
                  shown=" ".join(map(str, tool.build[1:])))
    shutil.rmtree(all_rounds, ignore_errors=True)
