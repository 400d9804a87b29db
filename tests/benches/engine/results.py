"""The results file: rows with everything needed to judge them, and the Markdown table made of them.

A file holds one machine. Measuring a figure again replaces its row, so that slow peers need not be measured each time;
every row therefore says when, at which commit and how busy others were. Unaware of how a row came to be.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from .measure import Series

ROOT = Path(__file__).resolve().parents[3]


def commit() -> str:
    """The checkout's commit."""
    git = lambda *words: subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")


class Results:
    """Rows by theme, kept in one JSON file that is written after every row."""

    def __init__(self, path: Path | None, hardware: dict, at: str, command: str, keep_calmer: bool) -> None:
        self.keep_calmer = keep_calmer
        self.path, self.hardware, self.at, self.command = path, hardware, at, command
        self.rows = []
        if path and path.exists():
            known = json.loads(path.read_text())
            if known["hardware"]["processor"] != hardware["processor"]:
                sys.exit(f"{path} was measured on another machine; name another file with --out")
            self.rows = known["rows"]

    def add(
        self, theme: str, figure: str, tool: str, version: str, found: Series, unit: str, *,
        shown: str, where: str, target: dict | None = None, note: str = "",
    ) -> None:
        """Takes a row. `target` is {"at_most": x} or {"at_least": x}, alone or times the median of "of", a tool."""
        row = {
            "theme": theme, "figure": figure, "tool": tool, "version": version, "unit": unit, "median": found.median,
            "target": target, "note": note, "shown": shown, "file_system": where, "date": time.strftime("%Y-%m-%d"),
            "commit": self.at, "command": self.command, "load_average": round(found.load, 2),
            "cores_used_by_others": round(found.others_cores, 3),
            "cpu_seconds": found.cpu_seconds, "all": found.values,
        }
        same = lambda r: (r["theme"], r["figure"], r["tool"]) == (theme, figure, tool)
        before = next((r for r in self.rows if same(r)), None)
        others = f"others {found.others_cores:.2f} cores"
        print(f"  {figure}, {tool}: {number(found.median)} {unit} of {len(found.values)} ({others})", file=sys.stderr)
        if self.keep_calmer and before and before["cores_used_by_others"] < row["cores_used_by_others"]:
            print("  a calmer measurement is kept", file=sys.stderr)
            return
        self.rows = [r for r in self.rows if not same(r)] + [row]
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            record = {"bench": "engine", "hardware": self.hardware, "rows": self.rows}
            self.path.write_text(json.dumps(record, indent=1) + "\n")

    def verdict(self, row: dict) -> tuple[str, str]:
        """A row's target in words, and whether it is met."""
        target = row["target"]
        if not target:
            return "", ""
        least = "at_least" in target
        bound = target["at_least" if least else "at_most"]
        words = f"{'>=' if least else '<='} {number(bound)}"
        if "of" in target:
            wanted = (row["theme"], target["figure"], target["of"])
            other = next((r for r in self.rows if (r["theme"], r["figure"], r["tool"]) == wanted), None)
            words += f" x {target['of']}"
            if other is None:
                return words, "not compared"
            bound *= other["median"]
        met = row["median"] >= bound if least else row["median"] <= bound
        return words, "yes" if met else "**no**"

    def table(self, themes: list[str]) -> str:
        """The rows of some themes as Markdown."""
        heads = ["figure", "tool", "median", "least to most (n)", "CPU s", "others, cores", "target", "met"]
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for theme in themes:
            rows = [row for row in self.rows if row["theme"] == theme]
            for row in sorted(rows, key=lambda row: row["figure"]):
                spread = f"{number(min(row['all']))} to {number(max(row['all']))} ({len(row['all'])})"
                words, met = self.verdict(row)
                cpu = "" if row["cpu_seconds"] is None else number(row["cpu_seconds"])
                median = f"{number(row['median'])} {row['unit']}".strip()
                others = f"{row['cores_used_by_others']:.2f}"
                cells = [row["figure"], row["tool"], median, spread, cpu, others, words, met]
                lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def number(value: float) -> str:
    """Three digits that matter."""
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
