"""A sweep of 100 cells of which 30 want more memory than they may have: a row for each, and nothing runs twice."""

import json
import shutil

from . import graphs
from .measure import Series, last_output, run, say
from .tools import executed

CELLS, OVER, LIMIT = 100, 30, "64 MiB"


def write(folder) -> None:
    """`memory.toml`: each cell fills its MiB, and holds them for half a second if they are too many.

    All differ, so that no two cells are the same work.
    """
    small = [f"{megabytes / 10}" for megabytes in range(1, CELLS - OVER + 1)]
    large = [str(100 + extra) for extra in range(OVER)]
    script = (
        "import os, time; size = float(os.environ['MB']); block = b'x' * int(size * 2**20); "
        "time.sleep(0.5 if size > 64 else 0); open(os.environ['TO'], 'w').write(str(len(block)))"
    )
    command = ["sh", "-c", 'TO="$1/size" exec python3 -c "$2"', "cell", "{out}", script]
    stage = graphs.command_stage("cell", command, env={"MB": "1"}, more=f'memory_limit = "{LIMIT}"\n')
    values = ", ".join(f'"{value}"' for value in small + large)
    text = graphs.experiment("memory") + stage
    (folder / "memory.toml").write_text(f'{text}\n[sweep.grid]\n"cell.env.MB" = [{values}]\n')


def measure(bench) -> None:
    """One first run, then one that must execute nothing."""
    if not bench.commands:
        return say("memory: this anneal has no command stages; not measured")
    folder = bench.work / "memory"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(folder)
    words = ["memory.toml", "--root", ".", "--outputs", "outputs"]
    build = [bench.args.anneal, "run", *words, "--jobs", "2"]
    first = run(build, folder, codes=(0, 1, 5))
    again = executed(build, folder)
    rows = [json.loads(path.read_text()) for path in (folder / "outputs/objects-v1/failures").glob("*.json")]
    memory = sum(row["failure"]["class"] == "oom" for row in rows)
    records = len(list((folder / "outputs/objects-v1/records").glob("*.json")))
    run([bench.args.anneal, "report", *words, "--json"], folder)
    report = folder / "report.json"
    report.write_text(last_output(folder))
    told = bench.anneal.version
    for figure, value, unit, target in (
        (f"{CELLS} cells, {OVER} over their limit of {LIMIT}: first run", first.seconds, "s", None),
        ("cells with a result", records, "", {"at_least": CELLS - OVER}),
        ("cells with a row `oom`", memory, "", {"at_least": OVER}),
        ("rows in all", records + len(rows), "", {"at_least": CELLS}),
        ("executed by the second run", again, "", {"at_most": 0}),
    ):
        bench.add("memory", figure, "anneal", told, Series([value], 0.0, 0.0), unit, target=target, shown="run")
