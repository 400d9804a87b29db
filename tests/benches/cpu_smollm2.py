#!/usr/bin/env python3
"""anneal beside transformers + PEFT on the CPU: SmolLM2-135M in f32, in turn, on one machine in one run.

    cargo build --release
    python3 tests/benches/cpu_smollm2.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --data tatqa_dataset_dev.json \
        --python VENV/bin/python --out tests/benches/results/cpu-smollm2.json

VENV has torch, transformers and peft. Each round runs ours, then theirs, each in a process of its own that reports the
median of its steps; the figures are medians over the rounds, and the spread is printed. Memory is the largest resident
set of the process (the system's own count, mapped files included). Nothing is judged: look at the figures.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def measured(command: list) -> dict:
    """The JSON that a command prints, with its largest resident set in MiB and its wall time."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryFile() as out:
        started = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=out, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{command[0]} ended with {process.returncode}")
        out.seek(0)
        text = out.read().decode()
    # A library may print before; the JSON object is the last thing.
    result = json.loads(text[text.index("{"):])
    return result | {"resident_mib": usage.ru_maxrss / 1024, "wall_seconds": wall}


def hardware() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    return {"processor": name, "threads": len(os.sched_getaffinity(0)), "avx512": "avx512f" in flags}


def commit() -> str:
    git = lambda *words: subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anneal", type=Path, default=ROOT / "target/release/anneal")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="TAT-QA's dev file")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, transformers and peft")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps in each round")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = [args.anneal, "bench"]
    rounds = {"train": ([], []), "generate": ([], []), "load": [], "folder": [], "tokenize": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "smollm2"
        subprocess.run([args.anneal, "convert", args.gguf, folder], check=True, stdout=subprocess.DEVNULL)
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            for what, repeats in (("train", "--steps"), ("generate", "--repeats")):
                ours = [*bench, what, "--model", folder, repeats, args.steps, "--json"]
                theirs = [args.python, HERE / "peer_torch.py", what, folder, repeats, args.steps]
                rounds[what][0].append(measured(ours))
                rounds[what][1].append(measured(theirs))
            rounds["load"].append(measured([*bench, "load", "--model", args.gguf, "--json"]))
            rounds["folder"].append(measured([*bench, "load", "--model", folder, "--json"]))
            tokenize = ["tokenize", "--model", folder, "--data", args.data, "--repeats", args.steps, "--json"]
            rounds["tokenize"].append(measured([*bench, *tokenize]))
    rows = []

    def pair(name: str, what: str, key: str, unit: str) -> None:
        ours, theirs = ([row[key] for row in side] for side in rounds[what])
        ratios = [a / b for a, b in zip(ours, theirs)]
        rows.append({
            "figure": name, "unit": unit, "anneal": statistics.median(ours), "torch": statistics.median(theirs),
            "ratio": statistics.median(ratios), "anneal_all": ours, "torch_all": theirs,
        })

    def alone(name: str, what: str, key: str, unit: str) -> None:
        values = [row[key] for row in rounds[what]]
        rows.append({"figure": name, "unit": unit, "anneal": statistics.median(values), "anneal_all": values})

    pair("LoRA step, rank 16, 1 x 512 tokens", "train", "step_seconds", "s")
    pair("resident memory while training", "train", "resident_mib", "MiB")
    pair("prefill of 512 tokens", "generate", "prefill_seconds", "s")
    pair("greedy decoding after 512 tokens", "generate", "decode_tokens_per_second", "tokens/s")
    pair("resident memory while generating", "generate", "resident_mib", "MiB")
    alone("GGUF file to first logit", "load", "first_logit_seconds", "s")
    alone("the same, whole process", "load", "wall_seconds", "s")
    alone("Hugging Face folder to first logit", "folder", "first_logit_seconds", "s")
    alone("rendering and tokenizing 1,668 questions", "tokenize", "seconds", "s")
    record = {
        "bench": "cpu-smollm2", "date": time.strftime("%Y-%m-%d"), "commit": commit(), "hardware": hardware(),
        "versions": rounds["train"][1][0]["versions"], "rounds": args.rounds, "steps_a_round": args.steps,
        "command": "python3 tests/benches/cpu_smollm2.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf "
        f"--data tatqa_dataset_dev.json --rounds {args.rounds} --steps {args.steps}",
        "rows": rows,
    }
    for row in rows:
        spread = f"{min(row['anneal_all']):.3g} to {max(row['anneal_all']):.3g}"
        theirs = f"torch {row['torch']:10.3f}  ratio {row['ratio']:.3f}" if "torch" in row else ""
        print(f"{row['figure']:42} {row['anneal']:10.3f} {row['unit']:9} ({spread})  {theirs}")
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
