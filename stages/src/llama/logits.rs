//! Logits of a sequence of token ids, written so that any other program can be compared with this one.
//!
//! Needs no tokenizer. Unaware of stages and of texts.
use super::adapter::Adapter;
use super::batch::Batch;
use super::{LlamaConfig, Model, WeightFiles, WeightSource};
use crate::failure::OrFail;
use crate::gguf::Gguf;
use crate::tensor_file::{self, FloatType, OutTensor};
use anneal_engine::Failure;
use anneal_ops::{Backend, BackendVisitor, act_to_vec, with_backend};
use safetensors::Dtype;
use std::path::Path;

/// What is computed, and where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// A Hugging Face folder or a GGUF file; its tokenizer is not looked at.
    pub model: &'a Path,
    /// A PEFT folder, applied unmerged.
    pub adapter: Option<&'a Path>,
    /// The token ids of one sequence, from position 0.
    pub ids: &'a [u32],
    /// Numerics class, such as `cpu-f32`.
    pub numerics: &'a str,
    /// The file to write: `logits`, f32 `[tokens, vocabulary]`, and `ids`, i64 `[tokens]`.
    pub out: &'a Path,
}

/// Computes the logits and writes the file; returns their shape, [tokens, vocabulary].
///
/// # Errors
/// No ids, an id outside the vocabulary, more ids than positions; what reading the model or the adapter finds wrong; the
/// file cannot be written.
pub fn write_logits(request: Request<'_>) -> Result<[usize; 2], Failure> {
    if request.model.is_file() {
        let file = Gguf::open(request.model)?;
        let weights = file.direct()?;
        return write(request, weights.config(), &weights);
    }
    let config = LlamaConfig::read(&request.model.join("config.json"))?;
    write(request, &config, &WeightFiles::open(request.model)?)
}

fn write(request: Request<'_>, config: &LlamaConfig, weights: &dyn WeightSource) -> Result<[usize; 2], Failure> {
    check(request.ids, config)?;
    let adapter = request.adapter.map(|dir| Adapter::read(dir, config)).transpose()?;
    let work = Work { request, config, weights, adapter: adapter.as_ref() };
    let logits = with_backend(request.numerics, work).or_fail()??;
    let shape = [request.ids.len(), config.vocab_size];
    let ids = request.ids.iter().flat_map(|id| i64::from(*id).to_le_bytes()).collect();
    let tensors = [
        ("logits".to_owned(), OutTensor::floats(&logits, &shape, FloatType::F32)),
        ("ids".to_owned(), OutTensor::raw(Dtype::I64, &shape[..1], ids)),
    ];
    tensor_file::write(request.out, &tensors)?;
    Ok(shape)
}

fn check(ids: &[u32], config: &LlamaConfig) -> Result<(), Failure> {
    if ids.is_empty() {
        return Err(Failure::user("there is no token id").hint("give at least one, as in --ids 1,26,109"));
    }
    if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= config.vocab_size) {
        return Err(Failure::user(format!("token id {id} (number {at}) is outside the model's vocabulary"))
            .hint(format!("its ids are 0 to {}", config.vocab_size - 1)));
    }
    if ids.len() > config.max_position_embeddings {
        let (found, most) = (ids.len(), config.max_position_embeddings);
        return Err(
            Failure::user(format!("{found} token ids, but the model's positions end at {most}")).hint("give fewer ids")
        );
    }
    Ok(())
}

struct Work<'a> {
    request: Request<'a>,
    config: &'a LlamaConfig,
    weights: &'a dyn WeightSource,
    adapter: Option<&'a Adapter>,
}

impl BackendVisitor for Work<'_> {
    type Out = Result<Vec<f32>, Failure>;

    fn visit<B: Backend>(self, device: B) -> Self::Out {
        let mut model = Model::read(device, self.config, self.weights, false)?;
        if let Some(adapter) = self.adapter {
            model.attach(adapter)?;
        }
        let batch = Batch::pack([(self.request.ids, &[][..])])?;
        Ok(act_to_vec(&model.logits(&batch).or_fail()?))
    }
}
