"""Runs in which nothing is to be done, process start included, and plans of a large sweep."""

from pathlib import Path

from . import graphs
from .measure import Failed, Series, last_output, run, say, series
from .tools import QUIET, Tool, executed, prepare

TARGETS = {1000: 12.0, 10_000: 60.0}


def measure(bench) -> None:
    """Written-out stages for every engine, then the sweep."""
    floor = series(bench.args.rounds, lambda: run(["/bin/true"], bench.work).seconds * 1e3, *bench.calm)
    bench.add("noop", "a process that does nothing", "/bin/true", "", floor, "ms", shown="the floor of what is below")
    for tool in bench.tools:
        for count in tool.sizes:
            written_out(bench, tool, count)
    if bench.commands:
        swept(bench)


def filled(folder: Path) -> bool:
    return (folder / ".filled").exists()


def written_out(bench, tool: Tool, count: int) -> None:
    folder = bench.work / f"noop-{tool.name}-{count}"
    if not filled(folder):
        say(f"{tool.name}: {count} stages for the first time")
        prepare(tool, folder, count)
        seconds = run(tool.build, folder, QUIET).seconds
        (folder / ".filled").write_text(str(seconds))
    run(tool.build, folder, QUIET)  # a run after the first one settles what the first one could not trust yet
    if tool.name == "anneal" and (count_now := executed(tool.build, folder)):
        raise Failed(f"anneal executed {count_now} of {count} stages although nothing changed")
    rounds = bench.args.slow_rounds if tool.slow else bench.args.rounds
    found = series(rounds, lambda: run(tool.build, folder, QUIET).seconds * 1e3, *bench.calm_for(tool))
    target = {"at_most": TARGETS[count]} if tool.name == "anneal" and count in TARGETS else None
    bench.add("noop", f"no-op, {count:,} written-out stages", tool.name, tool.version, found, "ms", target=target,
              shown=" ".join(map(str, tool.build[1:])))


def swept(bench) -> None:
    first, second = bench.args.cells
    cells = first * second
    folder = bench.args.sweep_work / f"sweep-{cells}"
    tool = bench.anneal
    words = ["sweep.toml", "--root", ".", "--outputs"]
    build = [bench.args.anneal, "run", *words, "outputs", "--jobs", "2"]
    if not filled(folder):
        say(f"anneal: {cells} cells for the first time")
        folder.mkdir(parents=True, exist_ok=True)
        graphs.sources(folder, 1)
        graphs.sweep(folder, first, second)
    plan = [bench.args.anneal, "plan", *words]
    for state, outputs in (("nothing run yet", "outputs-empty"), ("all of it done", "outputs")):
        if state == "all of it done" and not filled(folder):
            seconds = run(build, folder).seconds
            (folder / ".filled").write_text(str(seconds))
            once = Series([seconds], 0.0, 0.0)
            bench.add("noop", f"first run of {cells:,} cells, really run", "anneal", tool.version, once, "s",
                      shown="its folder is reused for the rows on this sweep", where=folder)
        memory = []

        def planned() -> float:
            ran = run([*plan, outputs], folder)
            memory.append(ran.peak_mib)
            return ran.seconds * 1e3

        planned()
        memory.clear()
        found = series(bench.args.rounds, planned, *bench.calm)
        bench.add("noop", f"plan of {cells:,} cells, {state}", "anneal", tool.version, found, "ms", where=folder,
                  target={"at_most": 1000.0}, shown="plan")
        peak = Series(memory, found.others_cores, found.load)
        bench.add("noop", f"plan of {cells:,} cells, {state}: peak resident", "anneal", tool.version, peak, "MiB",
                  where=folder, target={"at_most": 500.0 / 1.048576}, shown="plan")
    run(build, folder)
    if count_now := executed(build, folder):
        raise Failed(f"anneal executed {count_now} of {cells} cells although nothing changed")
    found = series(bench.args.rounds, lambda: run(build, folder).seconds * 1e3, *bench.calm)
    bench.add("noop", f"no-op, {cells:,} sweep cells", "anneal", tool.version, found, "ms", where=folder,
              target={"at_most": 600.0}, shown="run", note=last_output(folder)[-200:])
