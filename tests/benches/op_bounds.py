#!/usr/bin/env python3
"""Each op of a training step beside its own bound: the time that its FLOPs or its bytes take at the card's ceiling.

    anneal bench train --model llama-3-8b --device cuda --batch-size 8 --sequence-length 2048 --checkpointing selective \
        --json > bench.json
    python3 tests/benches/op_bounds.py bench.json --gemm 800 --copy 4.3

`--gemm` is what the card reaches in large bf16 products (TFLOP/s), `--copy` in copying memory (TB/s, read + write); measure
both on the card of the bench. FLOPs are those of the mathematics, once for each time that the bench ran the op; bytes are
each input once and each output once. Ops are timed with the device waited for around each, about 10 us a call, which is
part of the time and not of the bound. Prints a Markdown table, the longest op first.
"""

import argparse
import json

# Linear modules of a layer: which widths they map.
MODULES = [("hidden", "hidden"), ("hidden", "kv"), ("hidden", "kv"), ("hidden", "hidden"), ("hidden", "inner"),
           ("hidden", "inner"), ("inner", "hidden")]
SHAPES = {  # hidden, key/value width, inner, layers, vocabulary
    "llama-3-8b": (4096, 1024, 14336, 32, 128256),
    "llama-2-7b": (4096, 4096, 11008, 32, 32000),
}


def bounds(bench: dict, shape: tuple, gemm: float, copy: float) -> dict:
    """Seconds by op for one run of it in every layer, and the calls that this is."""
    hidden, kv, inner, layers, vocabulary = shape
    tokens, labelled = bench["tokens_per_step"], bench["labelled_tokens_per_step"]
    width = {"hidden": hidden, "kv": kv, "inner": inner}
    full = bench["method"] == "full"
    rank = 0 if full else int(bench["method"].rsplit(" ", 1)[1])
    weights = layers * sum(width[a] * width[b] for a, b in MODULES)
    low = layers * rank * sum(width[a] + width[b] for a, b in MODULES)
    trained = bench["trainable_parameters"]
    flops = lambda count: count / (gemm * 1e12)
    # bf16 elements of memory traffic.
    moved = lambda elements, each=2: elements * each / (copy * 1e12)
    # A causal score matrix is half full; forward has two products of its size, backward five.
    attention = layers * bench["sequence_length"] * tokens * hidden
    head = 2 * labelled * hidden * vocabulary
    f32_states = bench["optimizer_states"] == "f32"
    # Parameter (or master), gradient and moments in and out, and a master's bf16 copy out.
    update = trained * ((30 if f32_states else 16) if full else 32)
    return {
        "linear.forward": (flops(2 * tokens * (weights + low)), 4 * layers),
        "linear.backward": (flops(2 * tokens * (2 * weights if full else weights + 2 * low)), 4 * layers),
        "attention.forward": (flops(2 * attention), layers),
        "attention.backward": (flops(5 * attention), layers),
        "cross_entropy.forward": (flops(head * (3 if full else 2)), 1),
        "swiglu.forward": (moved(layers * 3 * tokens * inner), layers),
        "swiglu.backward": (moved(layers * 5 * tokens * inner), layers),
        "rms_norm.forward": (moved(2 * tokens * hidden * (2 * layers + 1)), 2 * layers + 1),
        "rms_norm.backward": (moved(4 * tokens * hidden * (2 * layers + 1)), 2 * layers + 1),
        "rope.forward": (moved(layers * 2 * tokens * (hidden + kv)), 2 * layers),
        "rope.backward": (moved(layers * 2 * tokens * (hidden + kv)), 2 * layers),
        "adamw": (moved(update, 1), None),
        "grad_norm": (moved(trained, 2 if full else 4), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", help="what `anneal bench train --json` printed")
    parser.add_argument("--gemm", type=float, required=True, help="TFLOP/s of large bf16 products")
    parser.add_argument("--copy", type=float, required=True, help="TB/s of a copy, read + write")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    args = parser.parse_args()
    with open(args.bench) as file:
        bench = json.load(file)
    bench = bench.get("measured", bench)
    known = bounds(bench, SHAPES[args.shape], args.gemm, args.copy)
    print("| op | ms a step | bound, ms | ratio |\n|---|---|---|---|")
    for op in bench["ops"]:
        name, took = op["op"], op["ms_per_step"]
        if name not in known:
            print(f"| {name} | {took:.2f} | | |")
            continue
        seconds, calls = known[name]
        bound = 1e3 * seconds * (op["calls_per_step"] / calls if calls else 1)
        print(f"| {name} | {took:.2f} | {bound:.2f} | {took / bound:.2f} |")


if __name__ == "__main__":
    main()
