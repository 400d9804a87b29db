//! Which tensor of a GGUF file is which of a Hugging Face folder, and in what order its rows lie.
//!
//! Converters permute the rows of q and k: GGUF has the two numbers that a rotation joins side by side, Hugging Face has
//! them half a head apart. Unaware of how numbers are stored.
use super::Gguf;
use super::config::ROPE_FACTORS;
use super::header::Tensor;
use crate::llama::LlamaConfig;
use crate::llama::weights::tensor_shapes;
use anneal_engine::Failure;
use std::collections::BTreeSet;

/// A tensor to be written.
#[derive(Debug, Clone)]
pub(super) struct Planned<'a> {
    /// Its name in a Hugging Face folder.
    pub(super) name: String,
    /// Its shape there.
    pub(super) shape: Vec<usize>,
    /// Where its numbers are.
    pub(super) tensor: &'a Tensor,
    /// Rows of a head, if its rows are permuted head by head.
    pub(super) head: Option<usize>,
}

/// The tensors of the model, in checkpoint order, each found in the file with its shape; none of the file left over.
pub(super) fn plan<'a>(file: &'a Gguf, config: &LlamaConfig) -> Result<Vec<Planned<'a>>, Failure> {
    let mut used = BTreeSet::from([ROPE_FACTORS.to_owned()]);
    let mut plan = Vec::new();
    for (name, shape) in tensor_shapes(config) {
        let theirs = gguf_name(&name);
        let Some(tensor) = file.tensor(&theirs) else {
            let what = format!("there is no tensor `{theirs}` ({name}) among the {}", file.tensors.len());
            return Err(Failure::user(format!("{}: {what}", file.path().display()))
                .hint("the file's metadata promise a tensor that it lacks; it is incomplete or no plain Llama"));
        };
        if tensor.shape != shape {
            let what = format!("the tensor `{theirs}` has shape {:?}, the metadata ask for {shape:?}", tensor.shape);
            return Err(file.fault_at(&theirs, what));
        }
        let head = is_permuted(&name).then_some(config.head_dim);
        if head.is_some() && shape.len() == 1 && tensor.kind.block_len() > 1 {
            let what = format!("`{theirs}` is {}; a permuted bias cannot be read from blocks", tensor.kind.name());
            return Err(file.fault_at(&theirs, what));
        }
        used.insert(theirs);
        plan.push(Planned { name, shape, tensor, head });
    }
    match file.tensors.iter().find(|tensor| !used.contains(&tensor.name)) {
        None => Ok(plan),
        // To leave out what the model computes with would change it without a word.
        Some(extra) => Err(file.fault_at(&extra.name, format!("`{}` belongs to no Llama", extra.name))),
    }
}

/// Whether converters permute the rows of this tensor.
fn is_permuted(name: &str) -> bool {
    name.contains(".q_proj.") || name.contains(".k_proj.")
}

/// The name in a GGUF file of a Hugging Face tensor of a Llama.
fn gguf_name(name: &str) -> String {
    let (stem, end) = name.rsplit_once('.').unwrap_or((name, ""));
    let layer = stem.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let theirs = match layer {
        Some((number, module)) => format!("blk.{number}.{}", layer_module(module)),
        None => match stem {
            "model.embed_tokens" => "token_embd".to_owned(),
            "model.norm" => "output_norm".to_owned(),
            "lm_head" => "output".to_owned(),
            other => other.to_owned(),
        },
    };
    format!("{theirs}.{end}")
}

fn layer_module(module: &str) -> &str {
    match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => other,
    }
}

/// The row of a head in a GGUF file that is its row `row` in a Hugging Face folder.
pub(super) fn source_row(row: usize, head: usize) -> usize {
    let half = head / 2;
    if row < half { 2 * row } else { 2 * (row - half) + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_interleave() {
        let rows: Vec<usize> = (0..8).map(|row| source_row(row, 8)).collect();
        assert_eq!(rows, [0, 2, 4, 6, 1, 3, 5, 7]);
    }

    #[test]
    fn names_are_translated() {
        for (ours, theirs) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("model.layers.12.self_attn.k_proj.bias", "blk.12.attn_k.bias"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
        ] {
            assert_eq!(gguf_name(ours), theirs);
        }
    }
}
