//! A new model: any Llama shape with random weights, and a byte-level BPE tokenizer trained on a data set.
//!
//! Everything follows from the parameters, the seed and the data set. Unaware of training.
use crate::data::bpe;
use crate::data::dataset::Rows;
use crate::data::prompt::{PromptTemplate, ResponseForm};
use crate::data::token_set::Split;
use crate::failure::OrFail;
use crate::llama::LlamaConfig;
use crate::llama::init::initial_values;
use crate::llama::save::{MAX_SHARD, write_model};
use crate::tensor_file::FloatType;
use crate::text::Tokenizer;
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, StageContext};
use serde_json::{Value, json};

anneal_engine::params! {
    /// The shape of a new model; names and meanings as in transformers' LlamaConfig.
    pub struct InitParams {
        /// Entries of the tokenizer trained with it, special tokens included.
        vocab_size: usize = 4096, in 300..=1000000, unit "tokens", memory "embedding (and head, if untied): vocab_size x hidden_size";
        /// Width of the residual stream.
        hidden_size: usize = 128, in 2..=65536, memory "every weight grows with it";
        /// Width inside the MLP.
        intermediate_size: usize = 384, in 1..=262144, memory "three weights of hidden_size x intermediate_size a layer";
        /// Number of layers.
        num_hidden_layers: usize = 4, in 1..=1024, unit "layers", memory "weights and activations grow linearly with it";
        /// Query heads.
        num_attention_heads: usize = 4, in 1..=1024, unit "heads";
        /// Key and value heads; divides the query heads.
        num_key_value_heads: usize = 2, in 1..=1024, unit "heads", memory "the key-value cache grows linearly with it";
        /// Longest sequence.
        max_position_embeddings: usize = 4096, in 8..=1048576, unit "tokens";
        /// Base of the rotary frequencies.
        rope_theta: f64 = 10000.0, in 1.0..=1e12;
        /// The head shares the embedding's weight.
        tie_word_embeddings: bool = true, memory "false adds a second vocab_size x hidden_size";
        /// Standard deviation of the initial weights.
        initializer_range: f64 = 0.02, in 0.000001..=10.0;
        /// Prompts that the tokenizer is trained on.
        template: PromptTemplate = "tat-qa";
        /// Form of the answers that the tokenizer is trained on.
        response: ResponseForm = "tat-qa";
    }
}

/// Heads that do not divide the width, before anything runs.
pub(super) fn check(params: &Value) -> Vec<Problem> {
    let Some(init) = params.get("init").filter(|init| init.is_object()) else { return Vec::new() };
    let size = |key: &str| init.get(key).and_then(Value::as_u64).unwrap_or(1).max(1);
    let problem = |key: &str, message: String| Problem {
        at: vec!["init".into(), key.into()],
        message,
        hint: None,
        missing_file: false,
    };
    let (hidden, heads, kv) = (size("hidden_size"), size("num_attention_heads"), size("num_key_value_heads"));
    let mut problems = Vec::new();
    if !hidden.is_multiple_of(2 * heads) {
        let message = format!("{heads} heads do not cut hidden_size {hidden} into heads of an even width");
        problems.push(problem("num_attention_heads", message));
    }
    if !heads.is_multiple_of(kv) {
        let message = format!("{kv} does not divide num_attention_heads = {heads}");
        problems.push(problem("num_key_value_heads", message));
    }
    problems
}

/// Writes tokenizer, configuration and weights.
pub(super) fn model(context: &StageContext<'_>, init: &InitParams) -> Result<(), Failure> {
    let dataset = &context.require("dataset")?.dir;
    let rows = Rows::read(dataset, Split::Train).or_fail()?.ok_or_else(|| {
        Failure::user("the data set has no `train` split to train a tokenizer on")
            .hint("give the data set a file for `train`")
    })?;
    let texts: Vec<String> = match rows {
        Rows::TatQa(contexts) => contexts
            .iter()
            .flat_map(|c| c.questions.iter().map(move |q| (c, q)))
            .flat_map(|(c, q)| [init.template.render(c, q, c.paragraphs.len()), init.response.render(q)])
            .collect(),
        Rows::Instruct(rows) => {
            let turns = rows.iter().flat_map(|row| row.turns(""));
            turns.map(|turn| turn.content.to_owned()).collect()
        }
    };
    let trained = bpe::train(texts.iter().map(String::as_str), init.vocab_size).or_fail()?;
    bpe::write(&trained, context.out).or_fail()?;
    let tokenizer = Tokenizer::read(context.out)?;
    let vocab_size = tokenizer.vocab_size();
    if vocab_size < init.vocab_size {
        context.note(format!("the data set gives {vocab_size} tokens, fewer than vocab_size = {}", init.vocab_size));
    }
    let id = |token: &str| tokenizer.id_of(token);
    let raw = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "bos_token_id": id(bpe::PAD),
        "eos_token_id": id(bpe::END),
        "head_dim": init.hidden_size / init.num_attention_heads,
        "hidden_act": "silu",
        "hidden_size": init.hidden_size,
        "initializer_range": init.initializer_range,
        "intermediate_size": init.intermediate_size,
        "max_position_embeddings": init.max_position_embeddings,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": init.num_attention_heads,
        "num_hidden_layers": init.num_hidden_layers,
        "num_key_value_heads": init.num_key_value_heads,
        "pad_token_id": id(bpe::PAD),
        "rms_norm_eps": 1e-5,
        "rope_theta": init.rope_theta,
        "tie_word_embeddings": init.tie_word_embeddings,
        "torch_dtype": "float32",
        "vocab_size": vocab_size,
    });
    let Value::Object(raw) = raw else { return Err(Failure::bug("a configuration is an object")) };
    let config =
        LlamaConfig::from_json(raw).map_err(|problems| Failure::user(format!("init: {}", problems.join("; "))))?;
    let mut parameters = 0;
    write_model(context.out, &config, FloatType::F32, MAX_SHARD, |name, shape| {
        let values = initial_values(&config, context.seed, name, shape);
        parameters += values.len();
        Ok(values)
    })?;
    context.metric("parameters", parameters as f64);
    context.note(format!("{parameters} parameters, {vocab_size} tokens"));
    Ok(())
}
