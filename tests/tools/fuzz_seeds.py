#!/usr/bin/env python3
"""Writes seeds for the fuzz targets of `tests/fuzz`: small whole files, from which a fuzzer finds damaged ones faster.

    python3 tests/tools/fuzz_seeds.py seeds
    cd tests && RUSTC_BOOTSTRAP=1 cargo fuzz run gguf corpus/gguf ../seeds/gguf -- -max_total_time=60

The first folder after the target's name takes what the fuzzer finds, the second is only read. `gguf`: a tiny Llama in
every storage type and with both kinds of tokenizer. `safetensors`: an adapter, a model and a file of odd dtypes, as the
target's header says. `manifest`: the repository's own manifests. Needs nothing but Python 3.
"""

import json
import struct
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Code, numbers a block, bytes a block.
TYPES = {"f32": (0, 1, 4), "f16": (1, 1, 2), "bf16": (30, 1, 2), "q8_0": (8, 32, 34), "q4_0": (2, 32, 18),
         "q4_1": (3, 32, 20), "q5_0": (6, 32, 22), "q5_1": (7, 32, 24), "q4_k": (12, 256, 144),
         "q5_k": (13, 256, 176), "q6_k": (14, 256, 210)}
PIECES = ["<unk>", "<s>", "</s>", "a", "b", "▁", "ab", "▁ab"]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, value) -> bytes:
    """A metadata entry; a list takes its items' type."""
    def typed(value):
        if isinstance(value, bool):
            return 7, struct.pack("<B", value)
        if isinstance(value, int):
            return 4, struct.pack("<I", value)
        if isinstance(value, float):
            return 6, struct.pack("<f", value)
        if isinstance(value, str):
            return 8, text(value)
        items = [typed(item) for item in value]
        return 9, struct.pack("<IQ", items[0][0], len(items)) + b"".join(item for _, item in items)

    code, data = typed(value)
    return text(key) + struct.pack("<I", code) + data


def gguf(kind: str, byte_level: str = "", factors: bool = False) -> bytes:
    """A Llama of one layer. `byte_level` names a splitting rule; without it the vocabulary is SentencePiece's."""
    hidden, inner = (8, 256) if TYPES[kind][1] == 256 else (max(TYPES[kind][1], 8),) * 2
    head = hidden // 2
    meta = {
        "general.architecture": "llama", "llama.block_count": 1, "llama.context_length": 64,
        "llama.embedding_length": hidden, "llama.feed_forward_length": inner, "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 5e8, "tokenizer.ggml.tokens": PIECES,
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1], "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}</s>{% endfor %}",
    }
    if byte_level:
        meta |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": byte_level, "tokenizer.ggml.merges": ["a b"]}
    else:
        meta |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -0.5, -0.7]}
    vectors = {"output_norm": hidden, "blk.0.attn_norm": hidden, "blk.0.ffn_norm": hidden}
    matrices = {"token_embd": (len(PIECES), hidden), "blk.0.attn_q": (hidden, hidden), "blk.0.attn_k": (head, hidden),
                "blk.0.attn_v": (head, hidden), "blk.0.attn_output": (hidden, hidden), "blk.0.ffn_gate": (inner, hidden),
                "blk.0.ffn_up": (inner, hidden), "blk.0.ffn_down": (hidden, inner)}
    tensors = [(f"{name}.weight", (numbers,), 0, b"\0\0\x80\x3f" * numbers) for name, numbers in vectors.items()]
    for name, shape in matrices.items():
        # Fuzzing wants short files: of large blocks only where a row is long enough.
        code, length, size = TYPES[kind] if shape[1] % TYPES[kind][1] == 0 else TYPES["f32"]
        tensors.append((f"{name}.weight", shape, code, b"\1" * (shape[0] * shape[1] // length * size)))
    if factors:
        # Head of four: the second wavelength is beyond every limit of Llama 3's rule.
        tensors.append(("rope_freqs.weight", (head // 2,), 0, struct.pack("<f", 1.0) + struct.pack("<f", 32.0) * (head // 2 - 1)))
    table, data = b"", b""
    for name, shape, type_code, numbers in tensors:
        sizes = b"".join(struct.pack("<Q", size) for size in reversed(shape))
        table += text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", type_code, len(data))
        data += numbers + b"\0" * (-len(numbers) % 32)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta))
    start += b"".join(pair(key, value) for key, value in meta.items()) + table
    return start + b"\0" * (-len(start) % 32) + data


def safetensors(tensors: dict) -> bytes:
    """Tensors as name: (dtype, bytes a number, shape)."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, size, shape) in tensors.items():
        numbers = size
        for width in shape:
            numbers *= width
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + numbers]}
        data += b"\1" * numbers
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + data


def adapter(config: dict, tensors: dict) -> bytes:
    """An adapter's configuration, the byte that parts it from the file, and the file."""
    tensors = {f"base_model.model.{name}": ("F32", 4, shape) for name, shape in tensors.items()}
    return json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config).encode() + b"\xff" + safetensors(tensors)


def seeds() -> dict:
    """Files by target and name."""
    found = {"gguf": {kind: gguf(kind) for kind in TYPES}, "safetensors": {}, "manifest": {}}
    found["gguf"] |= {"smollm": gguf("f32", "smollm"), "llama-bpe": gguf("f32", "llama-bpe"), "factors": gguf("f16", factors=True)}
    q = "model.layers.0.self_attn.q_proj"
    found["safetensors"] = {
        "adapter": adapter({}, {f"{q}.lora_A.weight": [2, 8], f"{q}.lora_B.weight": [8, 2]}),
        "patterns": adapter({"rank_pattern": {"q_proj": 3}, "alpha_pattern": {".*": 1.5}, "use_rslora": True},
                            {f"{q}.lora_A.weight": [3, 8], f"{q}.lora_B.weight": [8, 3]}),
        "ends": adapter({"modules_to_save": ["norm"]},
                        {"lm_head.lora_A.weight": [2, 8], "lm_head.lora_B.weight": [11, 2],
                         "model.embed_tokens.lora_embedding_A": [2, 11],
                         "model.embed_tokens.lora_embedding_B": [8, 2], "model.norm.weight": [8]}),
        "model": safetensors({"model.embed_tokens.weight": ("BF16", 2, [11, 8]), "model.norm.weight": ("F16", 2, [8])}),
        "dtypes": safetensors({"a": ("F64", 8, [2, 3]), "b": ("I64", 8, []), "c": ("BOOL", 1, [0, 5]), "d": ("U8", 1, [7])}),
    }
    for path in sorted((REPOSITORY / "manifests").glob("*.toml")):
        found["manifest"][path.stem] = path.read_bytes()
    return found


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    for target, files in seeds().items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        print(f"{folder}: {len(files)} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
