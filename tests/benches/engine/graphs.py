"""The same graph for every engine: N stages, each copies one small file of its own.

Everything that must follow `anneal`'s manifests is in `command_stage`, `copies`, `sweep` and `weights` of this file;
unaware of what is measured.
"""

import json
import struct
from pathlib import Path


def sources(folder: Path, count: int) -> None:
    """The files that are copied: `src/0` ..., each with bytes of its own."""
    (folder / "src").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / "src" / str(number)).write_text(f"file {number}\n" * 8)


def command_stage(name: str, command: list, files: list = (), env: dict | None = None, more: str = "") -> str:
    """A stage of anneal that runs a command; it writes into `{out}` and finds copies of `files` at their paths."""
    lines = [f"[stages.{name}]", 'kind = "command"', f"command = {json.dumps(command)}"]
    if files:
        lines.append(f"files = {json.dumps(files)}")
    if env:
        lines.append("env = { " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in env.items()) + " }")
    return "\n".join(lines) + "\n" + more


def experiment(name: str) -> str:
    return f'[experiment]\nname = "{name}"\nseed = 1\n\n'


def copies(folder: Path, count: int) -> None:
    """`copies.toml`: every stage written out."""
    text = [experiment(f"copies-{count}")]
    for number in range(count):
        text.append(command_stage(f"copy{number}", ["cp", f"src/{number}", "{out}/copy"], [f"src/{number}"]))
    (folder / "copies.toml").write_text("\n".join(text))


def sweep(folder: Path, first: int, second: int) -> None:
    """`sweep.toml`: one copying stage, swept over two axes."""
    axes = {"copy.env.A": [str(a) for a in range(first)], "copy.env.B": [str(b) for b in range(second)]}
    text = experiment(f"sweep-{first * second}")
    text += command_stage("copy", ["cp", "src/0", "{out}/copy"], ["src/0"], {"A": "0", "B": "0"})
    text += "\n[sweep.grid]\n" + "".join(f"{json.dumps(key)} = {json.dumps(values)}\n" for key, values in axes.items())
    (folder / "sweep.toml").write_text(text)


def makefile(folder: Path, count: int) -> None:
    """A rule for every file."""
    (folder / "out").mkdir(exist_ok=True)
    targets = " ".join(f"out/{number}" for number in range(count))
    rules = "".join(f"out/{number}: src/{number}\n\tcp src/{number} out/{number}\n" for number in range(count))
    (folder / "Makefile").write_text(f"all: {targets}\n{rules}")


def dvc_yaml(folder: Path, count: int) -> None:
    """A stage for every file."""
    (folder / "out").mkdir(exist_ok=True)
    stage = "  copy{0}:\n    cmd: cp src/{0} out/{0}\n    deps: [src/{0}]\n    outs: [out/{0}]\n"
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stage.format(number) for number in range(count)))


def snakefile(folder: Path, count: int) -> None:
    """A rule for every file."""
    names = ", ".join(f'"out/{number}"' for number in range(count))
    rule = 'rule copy{0}:\n    input: "src/{0}"\n    output: "out/{0}"\n    shell: "cp {{input}} {{output}}"\n'
    rules = "".join(rule.format(number) for number in range(count))
    (folder / "Snakefile").write_text(f"rule all:\n    input: [{names}]\n{rules}")


def weights(folder: Path, gigabytes: float) -> Path:
    """A Llama folder of about this many 10^9 bytes in one file of noise, and `weights.toml` that loads it."""
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    hidden, inner, vocabulary, narrow = 4096, 14336, 32000, 1024
    layer = {
        "self_attn.q_proj": [hidden, hidden], "self_attn.k_proj": [narrow, hidden],
        "self_attn.v_proj": [narrow, hidden], "self_attn.o_proj": [hidden, hidden],
        "mlp.gate_proj": [inner, hidden], "mlp.up_proj": [inner, hidden],
        "mlp.down_proj": [hidden, inner], "input_layernorm": [hidden], "post_attention_layernorm": [hidden],
    }
    count = lambda shape: shape[0] * (shape[1] if len(shape) == 2 else 1)
    of_layer = 2 * sum(map(count, layer.values()))
    layers = max(1, round((gigabytes * 1e9 - 2 * hidden * vocabulary) / of_layer))
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden]}
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * count(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = model / "model.safetensors"
    if not path.exists() or path.stat().st_size != 8 + len(text) + at:
        with path.open("wb") as file, open("/dev/urandom", "rb") as noise:
            file.write(struct.pack("<Q", len(text)) + text)
            while at:
                at -= file.write(noise.read(min(at, 1 << 24)))
    (model / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": vocabulary,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "torch_dtype": "bfloat16",
    }))
    (folder / "weights.toml").write_text(experiment("weights") + '[stages.base]\nkind = "load"\nmodel = "model"\n')
    return path
