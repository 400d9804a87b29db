#!/usr/bin/env python3
"""Adapters and model folders, both ways, against transformers and PEFT on the CPU in f32.

    python tests/tools/check_peft.py make tests/fixtures/peft       # the fixtures of stages/tests/peft.rs
    cargo build --release
    python tests/tools/check_peft.py check target/release/anneal    # everything, in a temporary folder

`check` shows: PEFT's adapters (rank and alpha patterns, rsLoRA, whole modules, head and embedding) give PEFT's logits in
anneal; adapters that anneal trained, fresh and going on from one of PEFT's, give anneal's logits in PEFT, as does the merged
folder; folders that transformers wrote in f32, bf16 and f16, in one file and in shards, come back with equal bytes in
every tensor and with their other files, and transformers loads them. Needs torch, transformers, safetensors and peft.
"""
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

TOLERANCE = 1e-5
IDS = [1, 26, 9, 44, 3, 3, 60, 17, 58, 2, 31]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "patterns": dict(
        r=4, lora_alpha=6, target_modules=LINEARS, use_rslora=True,
        rank_pattern={"model.layers.1.self_attn.q_proj": 2, "up_proj": 3, "layers.0.mlp.down_proj": 5},
        alpha_pattern={"self_attn.v_proj": 10, ".*_proj": 3}),
    "whole_modules": dict(
        r=3, lora_alpha=7, target_modules=["q_proj", "v_proj"], layers_to_transform=[1],
        modules_to_save=["lm_head", "norm"]),
    "head_and_embedding": dict(r=3, lora_alpha=6, target_modules=["k_proj", "lm_head", "embed_tokens"]),
}


def base(seed=7, **extra):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, initializer_range=0.3, bos_token_id=1,
        eos_token_id=2, attn_implementation="eager", **extra)
    return LlamaForCausalLM(config).float().eval()


def tune(model, options, seed):
    """An adapter as training would leave it: nothing in it is zero."""
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return tuned


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    base().save_pretrained(folder / "base")
    (folder / "base" / "generation_config.json").unlink(missing_ok=True)
    golden = {"ids": torch.tensor(IDS), "base": logits_of(base(), IDS)}
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        tuned = tune(base(), options, 100 + seed)
        tuned.save_pretrained(folder / name)
        # Read back: PEFT sorts patterns when it writes them, and the first that matches counts.
        golden[name] = logits_of(in_peft(folder / "base", folder / name), IDS)
        (folder / name / "README.md").unlink(missing_ok=True)
        config = folder / name / "adapter_config.json"
        keys = json.loads(config.read_text())
        # PEFT writes sets in whatever order they have.
        keys |= {key: sorted(keys[key]) for key in ["target_modules", "modules_to_save"] if keys[key]}
        config.write_text(json.dumps(keys, indent=2, sort_keys=True) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in golden.items()}, folder / "golden.safetensors")


class Check:
    def __init__(self, anneal, folder):
        self.anneal, self.folder, self.good = anneal, folder, True

    def run(self, *arguments):
        done = subprocess.run([self.anneal, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stdout, done.stderr, sep="\n")
            raise SystemExit(f"anneal {' '.join(map(str, arguments))} ended with {done.returncode}")

    def logits(self, model, adapter=None, ids=IDS):
        out = self.folder / "logits.safetensors"
        self.run("logits", "--model", model, "--ids", ",".join(map(str, ids)), "--out", out,
                 *(["--adapter", adapter] if adapter else []))
        return load_file(out)["logits"]

    def close(self, what, ours, theirs):
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        self.tell(what, error <= TOLERANCE, f"largest relative difference {error:.1e}")

    def tell(self, what, good, detail=""):
        print(f"{'ok   ' if good else 'WRONG'} {what}{': ' if detail else ''}{detail}")
        self.good &= good


def in_peft(model, adapter):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapter).eval()


def theirs_here(check):
    make(check.folder / "peft")
    golden = load_file(check.folder / "peft" / "golden.safetensors")
    check.close("base", check.logits("peft/base"), golden["base"])
    for name in ADAPTERS:
        check.close(f"PEFT's adapter {name}", check.logits("peft/base", f"peft/{name}"), golden[name])


MANIFEST = """
[experiment]
name = "peft"
[stages.data]
kind = "load"
dataset = { train = "train.json", eval = "eval.json" }
[stages.base]
kind = "load"
inputs = { dataset = "data" }
init = { vocab_size = 300, hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2, tie_word_embeddings = false, initializer_range = 0.2 }
[stages.tokens]
kind = "tokenize"
inputs = { model = "base", dataset = "data" }
[stages.fresh]
kind = "train-lora"
inputs = { model = "base", tokens = "tokens" }
rank = 4
rslora = true
target_modules = ["q_proj", "down_proj"]
learning_rate = 1e-2
max_steps = 3
[stages.merged]
kind = "consolidate"
inputs = { model = "base", adapter = "fresh" }
"""
GOING_ON = """
[stages.theirs]
kind = "load"
adapter = "theirs"
[stages.further]
kind = "train-lora"
inputs = { model = "base", tokens = "tokens", adapter = "theirs" }
learning_rate = 1e-2
max_steps = 3
"""


def ours_there(check, tiny):
    for name in ["train.json", "eval.json"]:
        shutil.copy(tiny / name, check.folder)
    (check.folder / "m.toml").write_text(MANIFEST)
    check.run("run", "m.toml")
    at = lambda stage: next(path for path in (check.folder / "outputs").rglob(stage) if (path / "adapter_config.json").exists() or (path / "config.json").exists())
    model, fresh = at("base"), at("fresh")
    ids = [1, 200, 33, 4, 250, 17, 99]
    theirs = logits_of(in_peft(model, fresh), ids)
    check.close("our adapter in PEFT", check.logits(model, fresh, ids), theirs)
    moved = (theirs - logits_of(AutoModelForCausalLM.from_pretrained(model), ids)).abs().max().item()
    check.tell("it changes something", moved > 1e-3, f"{moved:.1e}")
    merged = AutoModelForCausalLM.from_pretrained(at("merged"), dtype=torch.float32)
    check.close("our merged folder in transformers", logits_of(merged, ids), theirs)
    options = dict(ADAPTERS["patterns"], layers_to_transform=[1])
    tune(AutoModelForCausalLM.from_pretrained(model), options, 9).save_pretrained(check.folder / "theirs")
    (check.folder / "m.toml").write_text(MANIFEST + GOING_ON)
    check.run("run", "m.toml")
    further = at("further")
    tuned = in_peft(model, further)
    check.close("PEFT's adapter trained on here, in PEFT", check.logits(model, further, ids), logits_of(tuned, ids))
    of = lambda folder: {key: json.loads((folder / "adapter_config.json").read_text())[key] for key in ["rank_pattern", "alpha_pattern", "use_rslora", "r", "lora_alpha"]}
    check.tell("its patterns are kept", of(further) == of(check.folder / "theirs"))
    with safe_open(further / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    saved = check.folder / "again"
    tuned.save_pretrained(saved)
    with safe_open(saved / "adapter_model.safetensors", "pt") as file:
        check.tell("PEFT finds the same modules in it", set(file.keys()) == names)


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def folders(check):
    for dtype in [torch.float32, torch.bfloat16, torch.float16]:
        for shard in ["1GB", "8KB"]:
            for tied in [False, True]:
                folder = check.folder / "folder"
                shutil.rmtree(folder, ignore_errors=True)
                base(3, tie_word_embeddings=tied).to(dtype).save_pretrained(folder, max_shard_size=shard)
                for name in ["tokenizer.json", "tokenizer_config.json"]:
                    source = next((check.folder / "outputs").rglob(f"base/{name}"))
                    (folder / name).write_bytes(source.read_bytes())
                # 61 rows of embeddings are too few for that tokenizer; only its bytes matter here.
                (folder / "tokenizer.json").unlink()
                (check.folder / "f.toml").write_text(
                    '[experiment]\nname = "f"\n[stages.there]\nkind = "load"\nmodel = "folder"\n[stages.back]\n'
                    'kind = "consolidate"\ninputs = { model = "there" }\nmax_shard_bytes = 8000\n')
                check.run("run", "f.toml")
                back = next(path for path in (check.folder / "outputs").rglob("back") if (path / "config.json").exists())
                one, two = tensors(folder), tensors(back)
                equal = one.keys() == two.keys() and all(
                    one[n].dtype == two[n].dtype and one[n].view(torch.uint8).equal(two[n].view(torch.uint8)) for n in one)
                files = all((back / n).read_bytes() == (folder / n).read_bytes()
                            for n in ["generation_config.json", "tokenizer_config.json"])
                again = AutoModelForCausalLM.from_pretrained(back)
                same = logits_of(again, IDS).equal(logits_of(AutoModelForCausalLM.from_pretrained(folder), IDS))
                check.tell(f"folder {dtype}, shards of {shard}, tied {tied}", equal and files and same,
                           f"{len(list(back.glob('*.safetensors')))} files")


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "check"):
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if sys.argv[1] == "make":
        return make(Path(sys.argv[2]))
    anneal = Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(anneal, Path(folder))
        theirs_here(check)
        ours_there(check, Path(__file__).resolve().parent.parent / "fixtures" / "tiny")
        folders(check)
    print("all is well" if check.good else "something is WRONG")
    return 0 if check.good else 1


if __name__ == "__main__":
    sys.exit(main())
