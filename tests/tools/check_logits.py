#!/usr/bin/env python3
"""Compares logits that `anneal logits` wrote with those that transformers computes in f32 from the same folder.

    anneal convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2        # or any Hugging Face folder
    anneal logits --model smollm2 --ids 1,26,109 --out logits.safetensors
    python tests/tools/check_logits.py smollm2 logits.safetensors

With --adapter DIR both apply the same PEFT adapter. With --gguf FILE the weights in the folder are first compared, bit
for bit, with what the Python package `gguf` makes of that file, and the reference is what transformers' own GGUF reader
loads: from a folder whose rows of q and k are in the wrong order both programs would compute the same wrong logits.
Needs torch, transformers, safetensors (and peft, gguf).
Prints the largest difference relative to the largest logit of the row; exits with 1 if it is above --tolerance, or if
the two disagree on a token where the reference leaves no doubt.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM


def folder_tensors(folder: Path) -> dict:
    """All weights of a folder; bf16, which numpy lacks, as f32."""
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name).float().numpy() for name in file.keys()}
    return tensors


def hugging_face_name(name: str) -> str:
    modules = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj", "token_embd": "model.embed_tokens", "output_norm": "model.norm",
        "output": "lm_head",
    }
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{modules[parts[2]]}.{parts[3]}"
    return f"{modules[parts[0]]}.{parts[1]}"


def check_weights(folder: Path, gguf_path: Path) -> bool:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(gguf_path)
    heads = reader.fields["llama.attention.head_count"].contents()
    groups = reader.fields["llama.attention.head_count_kv"].contents()
    ours, equal = folder_tensors(folder), 0
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        theirs = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        count = {"attn_q": heads, "attn_k": groups}.get(tensor.name.split(".")[-2])
        if count is not None:
            # Converters interleave the halves of each head.
            pairs = theirs.reshape(count, theirs.shape[0] // count // 2, 2, *theirs.shape[1:])
            theirs = pairs.swapaxes(1, 2).reshape(theirs.shape)
        name = hugging_face_name(tensor.name)
        if name not in ours or ours[name].tobytes() != np.ascontiguousarray(theirs).tobytes():
            print(f"differs: {name}")
            return False
        equal += 1
    print(f"weights: {equal} tensors are equal bit for bit, {len(ours) - equal} left over")
    return equal == len(ours)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the Hugging Face folder")
    parser.add_argument("logits", type=Path, nargs="+", help="files that `anneal logits` wrote")
    parser.add_argument("--adapter", type=Path, help="a PEFT folder")
    parser.add_argument("--gguf", type=Path, help="the file that the folder was converted from")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="relative [default: 1e-4]")
    args = parser.parse_args()

    good = args.gguf is None or check_weights(args.model, args.gguf)
    place = {"pretrained_model_name_or_path": args.model}
    if args.gguf:
        place = {"pretrained_model_name_or_path": args.gguf.resolve().parent, "gguf_file": args.gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, attn_implementation="eager")
    if args.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, args.adapter)
    model.eval()
    for path in args.logits:
        file = load_file(path)
        ids, ours = file["ids"], file["logits"]
        with torch.no_grad():
            theirs = model(torch.from_numpy(ids)[None]).logits[0].float().numpy()
        if ours.shape != theirs.shape:
            print(f"{path}: shape {list(ours.shape)}, expected {list(theirs.shape)}")
            good = False
            continue
        error = np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max(axis=1)
        top = np.sort(theirs, axis=1)
        certain = top[:, -1] - top[:, -2] > 2 * args.tolerance * np.abs(theirs).max(axis=1)
        same = (ours.argmax(1) == theirs.argmax(1))[certain].all()
        fits = bool(error.max() <= args.tolerance and same)
        good &= fits
        print(f"{path}: {len(ids)} tokens, largest relative difference {error.max():.2e}, "
              f"most likely tokens {'agree' if same else 'DIFFER'}: {'ok' if fits else 'NOT WITHIN TOLERANCE'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
