#!/usr/bin/env python3
"""What anneal says and keeps when a GPU is unfit, taken or lost, on a machine that has none.

    tests/tools/gpu_trouble/check.py ANNEAL [--points 24]

ANNEAL is a build with the feature `cuda`. `driver.c`, compiled here (`CC`, default cc), stands in for NVIDIA's driver and
libraries: it computes nothing, and has one trouble at a time. Each must end in its exit code with a message that says what
it was, never in a panic. The GPU is lost, and memory is refused, at several points of training an adapter, of full
fine-tuning and of answering; a training that lost its GPU goes on from its last checkpoint to the files of one that did not
(kernels compute nothing here, so weights say little; with those that do, `gpu_check.sh resume` compares them).
Prints a line for each; the exit status is 1 if any failed.
"""

import argparse
import filecmp
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = ["libcuda.so.1", "libcublas.so.13", "libcublasLt.so.13"]
ECC, CONTAINED, ILLEGAL_ADDRESS = 214, 226, 700

# Stages of the quickstart that compute, and what makes them short; with checkpointing and dropout, which have allocations
# of their own.
TRAINING = {"max_steps": 6, "checkpoint_every": 2, "eval_examples": 2, "batch_size": 2}
STAGES = {
    "lora": TRAINING | {"checkpointing": "full", "dropout": 0.1},
    "fft": TRAINING | {"checkpointing": "selective", "memory_limit": "4 GiB"},
    "base_answers": {"max_new_tokens": 4},
}

# Trouble, what it takes beside, exit code, and what must be said.
UNFIT = [
    ("none", {}, 3, ["does not start", "no CUDA-capable device"]),
    ("old", {}, 3, ["the driver supports CUDA 12.8, but cuBLASLt is of CUDA 13.0", "update the driver"]),
    ("turing", {}, 3, ["Fake GPU has compute capability 7.5", "needs 8.0"]),
    ("pools", {}, 3, ["Fake GPU has no memory pools", "newer driver"]),
    ("kernels", {}, 3, ["do not load on Fake GPU", "ANNEAL_CUDA_ARCHS"]),
    ("taken", {}, 3, ["Fake GPU cannot be opened", "busy or unavailable"]),
    ("full", {}, 5, ["out of memory for workspace", "other processes have taken", "--retry oom"]),
    ("crowded", {"FAKE_FREE": 70 << 20}, 5, ["out of memory for ", "; other processes hold about 7.9", "--retry oom"]),
]


class Check:
    """A scratch folder with the driver in it, and runs of anneal on that."""

    def __init__(self, anneal: Path, scratch: Path):
        self.anneal, self.scratch, self.failed = anneal, scratch, False
        self.launches: dict[str, int] = {}
        first = scratch / LIBRARIES[0]
        compiler = os.environ.get("CC", "cc")
        source = Path(__file__).with_name("driver.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-fvisibility=hidden", "-o", first, source], check=True)
        for name in LIBRARIES[1:]:
            (scratch / name).symlink_to(first.name)

    def run(self, stage: str, outputs: str, *arguments: str, trouble: str = "", **more: object) -> subprocess.CompletedProcess:
        """A stage of the quickstart, made short."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("FAKE_", "ANNEAL_", "CUDA_"))}
        env |= {"LD_LIBRARY_PATH": str(self.scratch), "FAKE_GPU": trouble} | {key: str(value) for key, value in more.items()}
        command = [self.anneal, "run", "manifests/quickstart.toml", "--device", "cuda", "--only", stage]
        for name, value in STAGES[stage].items():
            command += ["--set", f"{stage}.{name}={value}"]
        command += ["--outputs", self.scratch / outputs, *arguments]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)

    def expect(self, name: str, ended: subprocess.CompletedProcess, code: int, words: list[str], also: bool = True) -> None:
        """Prints how a run went beside what was wanted of it."""
        said = ended.stdout + ended.stderr
        lacking = [word for word in words if word not in said]
        good = also and ended.returncode == code and not lacking and "panicked" not in said
        self.failed |= not good
        print(f"{'ok  ' if good else 'FAIL'}  {name}: exit code {ended.returncode}")
        if not good:
            print(f"  wanted: exit code {code}, and in what it says {lacking or 'all there'}\n{said}")

    def artifact(self, stage: str, outputs: str) -> Path:
        return (self.scratch / outputs / "latest" / "quickstart" / stage).resolve()


def same(one: Path, other: Path) -> bool:
    """Whether two folders have the same files with the same bytes."""
    names = [sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file()) for root in (one, other)]
    return bool(names[0]) and names[0] == names[1] and filecmp.cmpfiles(one, other, names[0], shallow=False)[0] == names[0]


def checkpoints(ended: subprocess.CompletedProcess, resumed: bool) -> list[int]:
    """Steps at which a run with `--json` took up a checkpoint, or wrote one."""
    events = [json.loads(line).get("event", {}) for line in ended.stdout.splitlines() if line.startswith("{")]
    return [event["step"] for event in events if event.get("type") == "checkpoint" and event.get("resumed") == resumed]


def lost(check: Check, stage: str, launches: int, error: int, code: int, words: list[str]) -> list[int]:
    """Loses the GPU behind so many launches, and runs again with it; at which steps that took up a checkpoint."""
    outputs = f"{stage}-lost-{error}-{launches}"
    ended = check.run(stage, outputs, "--json", trouble="lost", FAKE_AFTER=launches, FAKE_CODE=error)
    check.expect(f"{stage}, GPU lost after {launches} launches ({error})", ended, code, words)
    again = check.run(stage, outputs, "--json")
    wrote, took = checkpoints(ended, False)[-1:], checkpoints(again, True)
    equal = same(check.artifact(stage, "whole"), check.artifact(stage, outputs))
    # One that was being written when the GPU was lost may be there though nobody said so.
    went_on = took == wrote or (len(took) == 1 and took > wrote)
    check.expect(f"  and again, from step {took or 'none'}, to the same files", again, 0, [], also=went_on and equal)
    return took


def everything(check: Check, points: int) -> int:
    """Every trouble; the GPU lost, and memory refused, at so many points of each stage."""
    allocations = {}
    for stage in STAGES:
        count = check.scratch / f"{stage}.count"
        check.expect(f"{stage}, a GPU without trouble", check.run(stage, "whole", FAKE_COUNT=count), 0, [])
        check.launches[stage], allocations[stage] = map(int, count.read_text().split())
    for trouble, more, code, words in UNFIT:
        check.expect(trouble, check.run("lora", trouble, trouble=trouble, **more), code, words)
    for stage in STAGES:
        words, took = ["the GPU failed or was lost", "run the same command again"], []
        for point in range(points):
            at = check.launches[stage] * (2 * point + 1) // (2 * points)
            took += lost(check, stage, at, ECC, 3, words)
        # Late in a training some were there to take up: else nothing was seen of going on.
        if "max_steps" in STAGES[stage] and not took:
            check.failed = True
            print(f"FAIL  {stage}: no run went on from a checkpoint")
        for point in range(points):
            at = allocations[stage] * (2 * point + 1) // (2 * points)
            ended = check.run(stage, f"{stage}-starved-{at}", trouble="starved", FAKE_AFTER=at)
            check.expect(f"{stage}, no memory after {at} allocations", ended, 5, ["out of memory for "])
    late = check.launches["lora"] * 7 // 8
    lost(check, "lora", late, CONTAINED, 3, ["the GPU failed or was lost", "the driver's code is 226"])
    lost(check, "lora", late, ILLEGAL_ADDRESS, 70, ["illegal memory access"])
    return int(check.failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("anneal", type=Path)
    parser.add_argument("--points", type=int, default=24)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anneal-gpu-trouble.") as folder:
        return everything(Check(args.anneal.resolve(), Path(folder)), args.points)


if __name__ == "__main__":
    sys.exit(main())
