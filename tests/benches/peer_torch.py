#!/usr/bin/env python3
"""One measurement of transformers + PEFT on the CPU in f32, as `anneal bench` measures this program; prints JSON.

    python tests/benches/peer_torch.py train FOLDER --steps 3
    python tests/benches/peer_torch.py generate FOLDER --repeats 3

Everything that is cheap to give the peer is given to it: scaled-dot-product attention, logits of the last position only
in prefill, a decoding loop without generate()'s bookkeeping, gradients set to None.
"""

import argparse
import json
import statistics
import time

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model_of(folder: str):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


def train(args) -> dict:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, lora_alpha=32, target_modules=MODULES, task_type="CAUSAL_LM")
    model = get_peft_model(model_of(args.folder), config).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    seconds, losses = [], []
    for step in range(args.warmup + args.steps):
        ids = torch.randint(0, model.config.vocab_size, (1, args.tokens), generator=torch.Generator().manual_seed(step))
        started = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step >= args.warmup:
            seconds.append(time.perf_counter() - started)
    return {"step_seconds": statistics.median(seconds), "all_step_seconds": seconds, "losses": losses}


@torch.inference_mode()
def generate(args) -> dict:
    model = model_of(args.folder).eval()
    prefills, rates = [], []
    for repeat in range(args.warmup + args.steps):
        generator = torch.Generator().manual_seed(repeat)
        ids = torch.randint(0, model.config.vocab_size, (1, args.tokens), generator=generator)
        cache = DynamicCache(config=model.config)
        started = time.perf_counter()
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        prefill = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(args.new_tokens):
            out = model(input_ids=token, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
        decode = time.perf_counter() - started
        if repeat >= args.warmup:
            prefills.append(prefill)
            rates.append(args.new_tokens / decode)
    return {
        "prefill_seconds": statistics.median(prefills),
        "all_prefill_seconds": prefills,
        "decode_tokens_per_second": statistics.median(rates),
        "all_decode_tokens_per_second": rates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "generate"])
    parser.add_argument("folder")
    parser.add_argument("--steps", "--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measured = {"train": train, "generate": generate}[args.what](args)
    measured["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
