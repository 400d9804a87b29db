#!/usr/bin/env python3
"""Training steps of transformers (+ PEFT, + Liger) on one GPU, as `anneal bench train` measures this program.

    python tests/benches/peer_gpu.py CONFIG.json --batch-size 1 --sequence-length 1024
    python tests/benches/peer_gpu.py CONFIG.json --json PEER.json \\
        --variants 1x1024,1x1024:liger,8x2048:liger:checkpointing,2x2048:full:liger:checkpointing

A Llama-shaped model with random bf16 weights is built on the device from CONFIG.json; nothing is downloaded. All tokens
are random and labelled, there is no mask, so that scaled-dot-product attention takes its causal kernel (the slow "math"
kernel is forbidden: needing it is an error). A step is forward, backward, clipping to norm 1, fused AdamW and gradients
set to None. Its time is the wall clock between two synchronisations; the figure is the median. Peaks are the caching
allocator's while training, weights included, CUDA context excluded.

A variant is BATCHxTOKENS with any of these, each also an option for all variants:
    full           full fine-tuning: bf16 weights, gradients and AdamW states; else LoRA, r=16, on the seven linears
    liger          Liger's kernels, its fused linear cross-entropy included
    checkpointing  every layer is computed again in the backward pass
    bf16adapters   adapters in bf16; PEFT's default is f32
    autocast       under torch.autocast in bf16, as the Trainer's bf16=True; f32 adapters are then multiplied in bf16
    tf32           f32 products (f32 adapters) in TF32

Variants with Liger run last, as its patch is global. One that runs out of memory is the row `oom`, one that fails in
another way the row `error` with its text. The JSON file is written after each variant.
"""

import argparse
import contextlib
import gc
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
import traceback

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModelForCausalLM

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FLAGS = ["full", "liger", "checkpointing", "bf16adapters", "autocast", "tf32"]
FAST_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
GIB = 1024**3


def parse_variant(text: str, always: set[str]) -> dict:
    shape, *flags = text.strip().split(":")
    batch, tokens = (int(part) for part in shape.split("x"))
    unknown = set(flags) - set(FLAGS)
    if unknown:
        raise ValueError(f"variant {text}: unknown {', '.join(sorted(unknown))}; known are {', '.join(FLAGS)}")
    return {"batch": batch, "tokens": tokens, "flags": [flag for flag in FLAGS if flag in always | set(flags)]}


def build(args, flags: list[str]):
    if "liger" in flags:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(rope=True, rms_norm=True, swiglu=True, fused_linear_cross_entropy=True)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(args.config)
    if config.model_type != "llama":
        raise ValueError(f"model_type is {config.model_type}: this bench patches and measures llama only")
    config.use_cache = False
    with torch.device(args.device):  # random weights are drawn there, adapters too
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        if "checkpointing" in flags:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if "full" not in flags:
            from peft import LoraConfig, get_peft_model

            if "checkpointing" in flags:
                model.enable_input_require_grads()
            lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=MODULES, task_type="CAUSAL_LM")
            model = get_peft_model(model, lora, autocast_adapter_dtype="bf16adapters" not in flags)
    return model.train()


def steps_of(args, variant: dict, row: dict) -> None:
    """Fills `row` as it goes, so that what is known stays in it when a step fails."""
    cuda, flags = args.device.startswith("cuda"), variant["flags"]
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    torch.set_float32_matmul_precision("high" if "tf32" in flags else "highest")
    if cuda:
        row["left_over_gib"] = torch.cuda.memory_allocated() / GIB
    started = time.perf_counter()
    model = build(args, flags)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5 if "full" in flags else 1e-4, fused=True)
    synchronize()
    row["build_seconds"] = time.perf_counter() - started
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["trained_parameters"] = sum(p.numel() for p in trained)
    row["trained_dtypes"] = sorted({str(p.dtype) for p in trained})
    if cuda:
        row["built_gib"] = torch.cuda.memory_allocated() / GIB
        torch.cuda.reset_peak_memory_stats()

    def autocast():
        enabled = "autocast" in flags
        return torch.autocast(args.device.split(":")[0], torch.bfloat16) if enabled else contextlib.nullcontext()

    generator = torch.Generator().manual_seed(0)
    seconds, losses = row["all_step_seconds"], []
    with sdpa_kernel(FAST_ATTENTION) if cuda else contextlib.nullcontext():
        for step in range(args.warmup + args.steps):
            shape = (variant["batch"], variant["tokens"])
            ids = torch.randint(0, model.config.vocab_size, shape, generator=generator).to(args.device)
            synchronize()
            started = time.perf_counter()
            with autocast():
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            synchronize()
            if step >= args.warmup:
                seconds.append(time.perf_counter() - started)
            losses.append(loss.detach())
            del loss
    row["losses"] = [loss.item() for loss in losses]
    row["step_seconds"] = statistics.median(seconds)
    row["tokens_per_second"] = variant["batch"] * variant["tokens"] / row["step_seconds"]
    row["status"] = "ok"


def measure(args, variant: dict) -> dict:
    name = ":".join([f"{variant['batch']}x{variant['tokens']}", *variant["flags"]])
    row = {"variant": name, **variant, "status": "error", "step_seconds": None, "tokens_per_second": None}
    row |= {"peak_allocated_gib": None, "peak_reserved_gib": None, "all_step_seconds": []}
    try:
        steps_of(args, variant, row)
    except Exception as error:  # a row, so that the other variants still run
        said = any(words in str(error).lower() for words in ["out of memory", "alloc_failed", "can't allocate memory"])
        row["status"] = "oom" if said or isinstance(error, torch.OutOfMemoryError) else "error"
        row["error"] = f"{type(error).__name__}: {error}"
        row["traceback"] = traceback.format_exc().splitlines()[-12:]
    # The exception, whose frames hold the model, is gone here.
    if args.device.startswith("cuda"):
        row["peak_allocated_gib"] = torch.cuda.max_memory_allocated() / GIB
        row["peak_reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    gc.collect()
    return row


def line(row: dict) -> str:
    peaks = [row["peak_allocated_gib"], row["peak_reserved_gib"]]
    memory = "" if None in peaks else f"  peak {peaks[0]:.1f} GiB allocated, {peaks[1]:.1f} reserved"
    if row["status"] != "ok":
        return f"{row['variant']:<40} {row['status']}{memory}  {row['error'].splitlines()[0][:160]}"
    figures = f"{row['tokens_per_second']:>9,.0f} tokens/s  {row['step_seconds'] * 1000:>8.1f} ms a step"
    return f"{row['variant']:<40} {figures}{memory}  loss {row['losses'][0]:.3f} to {row['losses'][-1]:.3f}"


def surroundings(args) -> dict:
    versions = {"python": sys.version.split()[0]}
    for package in ["torch", "transformers", "peft", "accelerate", "liger_kernel", "triton"]:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    found = {"versions": versions, "device": args.device, "date": time.strftime("%Y-%m-%d")}
    if args.device.startswith("cuda"):
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        found["gpu"] = torch.cuda.get_device_name()
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            versions["driver"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    with open(args.config) as file:
        found["config"] = json.load(file)
    allocator = {key: os.environ[key] for key in ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"] if key in os.environ}
    return found | {"command": " ".join(sys.argv), "environment": allocator, "steps": args.steps, "warmup": args.warmup}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config.json of model_type llama")
    parser.add_argument("--variants", help="several, with commas between; else one of the next two options")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    for flag in FLAGS[1:]:
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", help="a file for every measurement")
    args = parser.parse_args()
    always = {flag for flag in FLAGS[1:] if getattr(args, flag)} | ({"full"} if args.method == "full" else set())
    texts = args.variants or f"{args.batch_size}x{args.sequence_length}"
    try:
        variants = [parse_variant(text, always) for text in texts.split(",") if text.strip()]
    except ValueError as error:
        parser.error(str(error))
    result = surroundings(args) | {"rows": []}
    print(json.dumps(result["versions"]), flush=True)
    for variant in sorted(variants, key=lambda variant: "liger" in variant["flags"]):
        result["rows"].append(measure(args, variant))
        print(line(result["rows"][-1]), flush=True)
        if args.json:
            with open(args.json, "w") as file:
                json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
