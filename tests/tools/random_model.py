#!/usr/bin/env python3
"""Writes a Llama folder of random bf16 weights: the shape of a large model where its weights are not to be had.

    tests/tools/random_model.py CONFIG.json FOLDER [--files DIR] [--shards 8] [--device cuda]

CONFIG.json is a Hugging Face config.json. Linear weights, embeddings and the head are normal with deviation 0.02, norms
are 1. --files names a folder whose tokenizer files are copied beside them. Needs torch and safetensors, and
the model's bytes as free memory.
"""

import argparse
import json
import shutil
import threading
from pathlib import Path

import torch
from safetensors.torch import save_file

TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]


def shapes(config: dict):
    """Name, shape and layer of every tensor; embeddings lie before the first layer, head and last norm behind the last."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, narrow = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    linear = {
        "self_attn.q_proj": (query, hidden), "self_attn.k_proj": (narrow, hidden), "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, query), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden), 0
    for layer in range(layers):
        for name, shape in linear.items():
            yield f"model.layers.{layer}.{name}.weight", shape, layer
    yield "model.norm.weight", (hidden,), layers - 1
    if not config.get("tie_word_embeddings", False):
        yield "lm_head.weight", (config["vocab_size"], hidden), layers - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    config = json.loads(args.config.read_text())
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    layers = config["num_hidden_layers"]
    shards: list[dict] = [{} for _ in range(min(args.shards, layers))]
    for name, shape, layer in shapes(config):
        if len(shape) == 1:
            values = torch.ones(shape, dtype=torch.bfloat16)
        else:
            values = (torch.randn(shape, device=args.device, dtype=torch.bfloat16) * 0.02).cpu()
        shards[layer * len(shards) // layers][name] = values
    index, threads = {}, []
    for number, tensors in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        index |= dict.fromkeys(tensors, file)
        threads.append(threading.Thread(target=save_file, args=(tensors, args.folder / file, {"format": "pt"})))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = json.dumps({"metadata": {}, "weight_map": index})
    (args.folder / "model.safetensors.index.json").write_text(text)
    shutil.copy(args.config, args.folder / "config.json")
    for name in TOKENIZER:
        if args.files and (args.files / name).exists():
            shutil.copy(args.files / name, args.folder / name)


if __name__ == "__main__":
    main()
