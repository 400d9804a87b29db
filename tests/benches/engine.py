#!/usr/bin/env python3
"""anneal as a pipeline engine beside GNU make, DVC, Snakemake, a bare loop, MD5 and the disk, on one machine.

    cargo build --release
    python3 -m venv VENV && VENV/bin/pip install dvc snakemake
    python3 tests/benches/engine.py --anneal target/release/anneal --peers VENV/bin

Without --peers those found on the PATH are measured; what is not found is left out. --only takes some of: noop, first,
hashing, drivers, memory. Figures are medians of ten rounds (three where a single round takes seconds); every row says
how many cores other processes used meanwhile. The first time takes long, above all the 100,000 cells that are really
run once: give --work (and --sweep-work, which may be a tmpfs) to keep and reuse the filled folders. Nothing is judged
beyond the table's last column.
"""

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # nothing is left in the checkout

from engine import drivers, first, hashing, memory, noop, tools  # noqa: E402
from engine.measure import Failed, hardware, say  # noqa: E402
from engine.results import ROOT, Results, commit  # noqa: E402

THEMES = {"noop": noop, "first": first, "hashing": hashing, "drivers": drivers, "memory": memory}


def cells(text: str) -> tuple[int, int]:
    one, two = text.split("x")
    return int(one), int(two)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anneal", type=lambda text: Path(text).resolve(), help="the binary; none: peers only")
    parser.add_argument("--peers", type=lambda text: Path(text).resolve(), help="folder with the peers' programs")
    parser.add_argument("--only", default=",".join(THEMES), help="themes, parted by commas")
    parser.add_argument("--tools", help="of anneal, make, DVC, Snakemake only these, parted by commas")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--slow-rounds", type=int, default=3, help="where a round takes many seconds")
    parser.add_argument("--sizes", default="1000,10000", help="numbers of written-out stages")
    parser.add_argument("--slow-sizes", default="300,1000", help="the same for DVC and Snakemake")
    parser.add_argument("--cells", type=cells, default=(250, 400), help="axes of the sweep, 250x400")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the file that is hashed, 10^9 bytes")
    parser.add_argument("--work", type=Path, help="folder to work in, kept and reused [default: a temporary one]")
    parser.add_argument("--sweep-work", type=Path, help="the same for the large sweep [default: --work]")
    parser.add_argument("--wait-calm", type=float, default=0, help="seconds to wait for others to be idle before a row")
    parser.add_argument("--attempts", type=int, default=1, help="measure a row again while others are busy, so often")
    parser.add_argument("--keep-calmer", action="store_true", help="keep rows that were measured while others did less")
    parser.add_argument("--commit", help="that the binary was built from [default: the checkout's]")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/benches/results/engine.json")
    return parser.parse_args()


class Bench:
    """What every theme needs: options, tools, a folder, and where rows go."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        args.sweep_work = (args.sweep_work or work).resolve()
        sizes, slow_sizes = ([int(size) for size in text.split(",")] for text in (args.sizes, args.slow_sizes))
        self.anneal = tools.anneal(args.anneal, sizes) if args.anneal else None
        self.commands = bool(self.anneal) and tools.has_commands(args.anneal)
        found = ([self.anneal] if self.commands else []) + tools.peers(args.peers, slow_sizes)
        if args.anneal and not self.commands:
            say("this anneal has no command stages; only `hashing` can be measured of it")
        wanted = args.tools and args.tools.split(",")
        self.tools = [tool for tool in found if not wanted or tool.name in wanted]
        if wanted and "anneal" not in wanted:
            self.anneal, self.commands = None, False
        self.cores = sorted(os.sched_getaffinity(0))
        self.calm = (args.wait_calm, args.attempts)
        # Where things lie on this machine is nobody's business.
        words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
        command = "python3 tests/benches/engine.py " + shlex.join(words)
        self.results = Results(args.out, hardware(work), args.commit or commit(), command, args.keep_calmer)

    def calm_for(self, tool: tools.Tool) -> tuple:
        """A row that takes minutes is not measured again for the sake of calm; its CPU seconds tell enough."""
        return (self.args.wait_calm, 1) if tool.slow else self.calm

    def add(self, theme: str, figure: str, tool: str, version: str, found, unit: str, *, where=None, **more) -> None:
        kind = hardware(where)["file_system"] if where else self.results.hardware["file_system"]
        self.results.add(theme, figure, tool, version, found, unit, where=kind, **more)


def main() -> None:
    args = arguments()
    themes = args.only.split(",")
    if unknown := set(themes) - set(THEMES):
        sys.exit(f"no such theme: {', '.join(sorted(unknown))}; there are {', '.join(THEMES)}")
    with tempfile.TemporaryDirectory() as scratch:
        work = (args.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(args, work)
        failed = False
        for theme in themes:
            say(theme)
            try:
                THEMES[theme].measure(bench)
            except Failed as failure:
                say(f"{theme}: {failure}")
                failed = True
        print(bench.results.table(themes))
    sys.exit(failed)


if __name__ == "__main__":
    main()
