"""The engines that are compared: where they are, which version, and how each builds the graph of `graphs`.

Unaware of what is measured.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import graphs
from .measure import last_output, run


@dataclass
class Tool:
    """An engine, or what stands for none."""

    name: str
    version: str
    build: list  # the command that brings a folder up to date, two at a time
    sizes: list  # numbers of stages that it gets through within minutes
    slow: bool  # an empty run takes seconds
    write: object  # writes the graph into a folder
    start: list | None = None  # what it needs once in a folder


def version(words: list) -> str | None:
    """The first line that a program says of itself; none if it is not there."""
    try:
        out = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (out.stdout or out.stderr).strip().splitlines()
    return lines[0] if out.returncode == 0 and lines else None


def anneal(program: Path, sizes: list) -> Tool | None:
    told = version([program, "--version"])
    build = [program, "run", "copies.toml", "--root", ".", "--outputs", "outputs", "--jobs", "2"]
    return told and Tool("anneal", told, build, sizes, False, graphs.copies)


def has_commands(program: Path) -> bool:
    """Whether this build of anneal knows stages that run a command."""
    return version([program, "stages", "command"]) is not None


def peers(folder: Path | None, slow_sizes: list) -> list[Tool]:
    """Those of make, DVC and Snakemake that are found: in `folder`, else on the path."""

    def found(name: str) -> Path | None:
        inside = folder / name if folder else None
        path = inside if inside and inside.exists() else shutil.which(name)
        return Path(path) if path else None

    tools = []
    if make := found("make"):
        # Without its built-in rules, which it would try in vain on every source.
        build = [make, "-r", "-j2", "-s"]
        sizes = [300, 1000, 10_000, 100_000]
        tools.append(Tool("make", version([make, "--version"]), build, sizes, False, graphs.makefile))
    if dvc := found("dvc"):
        start = [dvc, "init", "--no-scm", "-q"]
        told = f"DVC {version([dvc, '--version'])}"
        tools.append(Tool("DVC", told, [dvc, "repro", "-q"], slow_sizes, True, graphs.dvc_yaml, start))
    if snakemake := found("snakemake"):
        build = [snakemake, "-c2", "--quiet", "all"]
        told = f"Snakemake {version([snakemake, '--version'])}"
        tools.append(Tool("Snakemake", told, build, slow_sizes, True, graphs.snakefile))
    return tools


# No peer may spend its time with asking home, nor be slowed down by a lack of compiled Python.
QUIET = {"DVC_NO_ANALYTICS": "1", "DVC_TEST": "1", "PYTHONDONTWRITEBYTECODE": ""}


def prepare(tool: Tool, folder: Path, count: int) -> None:
    """A fresh folder with the graph of `count` stages in this engine's words, nothing run yet."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    graphs.sources(folder, count)
    tool.write(folder, count)
    if tool.start:
        run(tool.start, folder, QUIET)


def executed(command: list, folder: Path) -> int:
    """How many stages a run of anneal executes, by its own last event."""
    run([*command, "--json"], folder, codes=(0, 1, 5))
    last = json.loads(last_output(folder).strip().splitlines()[-1])
    return last["event"]["executed"]
