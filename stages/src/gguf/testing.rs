//! Builds GGUF files for tests: any keys, any tensors, and a tiny Llama. Unaware of the reader.
use super::TensorType;

/// A file being built; every call adds to it.
#[derive(Debug, Default, Clone)]
pub(super) struct Builder {
    keys: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text_bytes(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn array<T>(code: u32, items: &[T], bytes: impl Fn(&T) -> Vec<u8>) -> Vec<u8> {
    let mut all = [&code.to_le_bytes()[..], &(items.len() as u64).to_le_bytes()].concat();
    items.iter().for_each(|item| all.extend(bytes(item)));
    all
}

impl Builder {
    /// Sets a key, replacing what it was.
    pub(super) fn raw(mut self, key: &str, code: u32, bytes: Vec<u8>) -> Self {
        self.keys.retain(|(name, ..)| name != key);
        self.keys.push((key.into(), code, bytes));
        self
    }
    pub(super) fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(name, ..)| name != key);
        self.tensors.retain(|(name, ..)| name != key);
        self
    }
    pub(super) fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, value.to_le_bytes().into())
    }
    pub(super) fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, value.to_le_bytes().into())
    }
    pub(super) fn flag(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, vec![value.into()])
    }
    pub(super) fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, text_bytes(value))
    }
    pub(super) fn texts<T: AsRef<str>>(self, key: &str, values: &[T]) -> Self {
        self.raw(key, 9, array(8, values, |value| text_bytes(value.as_ref())))
    }
    pub(super) fn i32s(self, key: &str, values: &[i32]) -> Self {
        self.raw(key, 9, array(5, values, |value| value.to_le_bytes().into()))
    }
    pub(super) fn f32s(self, key: &str, values: &[f32]) -> Self {
        self.raw(key, 9, array(6, values, |value| value.to_le_bytes().into()))
    }
    /// Adds a tensor of stored bytes, shape as in PyTorch; replaces one of that name.
    pub(super) fn tensor(mut self, name: &str, shape: &[usize], code: u32, bytes: Vec<u8>) -> Self {
        self.tensors.retain(|(known, ..)| known != name);
        self.tensors.push((name.into(), shape.iter().rev().map(|size| *size as u64).collect(), code, bytes));
        self
    }
    pub(super) fn floats(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.tensor(name, shape, 0, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, code, value) in &self.keys {
            bytes.extend([&text_bytes(key), &code.to_le_bytes()[..], value].concat());
        }
        let mut offset = 0_u64;
        for (name, dimensions, code, data) in &self.tensors {
            bytes.extend(text_bytes(name));
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(code.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset = (offset + data.len() as u64).next_multiple_of(32);
        }
        for (.., data) in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(data);
        }
        bytes
    }
}

/// Values that tell every number of every tensor apart, in Hugging Face's order.
pub(super) fn value(name: &str, index: usize) -> f32 {
    let seed = name.bytes().fold(7_u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    ((seed % 1000) as f32 + index as f32) / 1024.0
}

pub(super) const HIDDEN: usize = 8;
pub(super) const HEAD: usize = 4;
pub(super) const INNER: usize = 6;
pub(super) const TOKENS: [&str; 8] = ["<unk>", "<s>", "</s>", "a", "b", "▁", "ab", "▁ab"];

/// A Llama of one layer with two heads, one of keys, and a SentencePiece vocabulary of eight.
pub(super) fn tiny() -> Builder {
    let mut builder = Builder::default()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 64)
        .u32("llama.embedding_length", HIDDEN as u32)
        .u32("llama.feed_forward_length", INNER as u32)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &TOKENS)
        .f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -0.5, -0.7])
        .i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 1, 1]);
    for (ours, theirs, shape) in tiny_tensors() {
        let numbers: usize = shape.iter().product();
        let mut values: Vec<f32> = (0..numbers).map(|index| value(ours, index)).collect();
        if theirs.contains("attn_q") || theirs.contains("attn_k") {
            values = permuted(&values, HIDDEN);
        }
        builder = builder.floats(theirs, &shape, &values);
    }
    builder
}

/// What converters do to the rows of q and k, written the other way round than the reader has it.
fn permuted(values: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for (row, numbers) in values.chunks(width).enumerate() {
        let (head, in_head) = (row / HEAD, row % HEAD);
        let (part, pair) = (in_head / (HEAD / 2), in_head % (HEAD / 2));
        let to = (head * HEAD + pair * 2 + part) * width;
        out[to..to + width].copy_from_slice(numbers);
    }
    out
}

/// Names in both worlds and shapes.
pub(super) fn tiny_tensors() -> Vec<(&'static str, &'static str, Vec<usize>)> {
    vec![
        ("model.embed_tokens.weight", "token_embd.weight", vec![TOKENS.len(), HIDDEN]),
        ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", vec![HIDDEN]),
        ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", vec![HIDDEN, HIDDEN]),
        ("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", vec![HEAD, HIDDEN]),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", vec![HEAD, HIDDEN]),
        ("model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", vec![HIDDEN, HIDDEN]),
        ("model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", vec![INNER, HIDDEN]),
        ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", vec![INNER, HIDDEN]),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", vec![HIDDEN, INNER]),
        ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", vec![HIDDEN]),
        ("model.norm.weight", "output_norm.weight", vec![HIDDEN]),
    ]
}

/// Bytes that look random, blocks of `kind`; halves at `halves` of each block are made small and finite.
pub(super) fn noise(kind: TensorType, blocks: usize, halves: &[usize]) -> Vec<u8> {
    let size = kind.block_bytes() as usize;
    let mut state = 1_u32;
    let mut bytes: Vec<u8> = (0..blocks * size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    for block in bytes.chunks_mut(size) {
        halves.iter().for_each(|at| block[at + 1] &= 0xbb);
    }
    bytes
}
