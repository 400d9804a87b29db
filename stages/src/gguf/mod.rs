//! Models in GGUF form: read, checked, and written as a Hugging Face folder.
//!
//! `source` reads bytes, `header` and `metadata` the container, `tensor_type` and `dequantize` the numbers; `config`,
//! `special`, `names` and `tokenizer` know what a Llama looks like in it; `weights` writes. A file may come from
//! anywhere: whatever it says is compared with its length before memory is asked for, and what is wrong is named with
//! file and byte. Unaware of stages and of the store.
mod config;
mod dequantize;
mod direct;
mod header;
mod metadata;
mod names;
mod source;
mod special;
mod tensor_type;
#[cfg(test)]
mod testing;
mod tokenizer;
mod weights;

pub use direct::Direct;
pub use header::Tensor;
pub use tensor_type::TensorType;
pub use weights::Progress;

use crate::llama::save::{MAX_SHARD, write_config};
use crate::llama::weights::tensor_shapes;
use crate::tensor_file::FloatType;
use crate::text::Tokenizer;
use anneal_engine::Failure;
use metadata::Metadata;
use serde_json::{Map, Value};
use source::Source;
use special::SpecialIds;
use std::collections::HashMap;
use std::path::Path;

/// Whether a path is named like a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// A GGUF file whose header was read and checked.
#[derive(Debug)]
pub struct Gguf {
    source: Source,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

/// What was written of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Numbers in all tensors together.
    pub parameters: usize,
    /// How they are stored.
    pub dtype: FloatType,
    /// Entries of the tokenizer, if the file has one.
    pub vocabulary: Option<usize>,
}

impl Gguf {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The file cannot be read, is no GGUF file, is truncated, or has tensors of a type that is not read (named); each
    /// with the byte at fault.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Self::new(Source::open(path)?)
    }

    /// The same for bytes in memory; `name` stands for the file in errors.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(name: &Path, bytes: Vec<u8>) -> Result<Self, Failure> {
        Self::new(Source::memory(name, bytes))
    }

    fn new(source: Source) -> Result<Self, Failure> {
        let (metadata, tensors) = header::read(&source)?;
        let by_name = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        Ok(Self { source, metadata, tensors, by_name })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Its tensors, in the file's order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// A tensor by its name in the file.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|index| &self.tensors[*index])
    }

    /// A tensor's numbers in the file's own row order, checked to have this shape.
    ///
    /// # Errors
    /// There is no such tensor, it has another shape, or the file cannot be read.
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Failure> {
        let tensor = self.tensor(name);
        let tensor = tensor.ok_or_else(|| self.lacks(name))?;
        if tensor.shape != shape {
            return Err(self.fault_at(name, format!("`{name}` has shape {:?}, expected {shape:?}", tensor.shape)));
        }
        let mut bytes = vec![0; tensor.bytes as usize];
        self.read_at(tensor.offset, &mut bytes)?;
        let mut numbers = vec![0.0; shape.iter().product()];
        dequantize::dequantize(tensor.kind, &bytes, &mut numbers);
        Ok(numbers)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        self.source.read_at(offset, buffer)
    }

    fn lacks(&self, tensor: &str) -> Failure {
        Failure::user(format!("{}: there is no tensor `{tensor}`", self.path().display()))
            .hint("the file holds no whole Llama; take another conversion of the model, or its Hugging Face folder")
    }

    /// Something wrong with a tensor, at its entry in the table.
    fn fault_at(&self, tensor: &str, what: impl std::fmt::Display) -> Failure {
        self.source.fault(self.tensor(tensor).map_or(0, |tensor| tensor.described_at), what)
    }

    /// Rows of the embedding.
    fn vocabulary_rows(&self) -> Result<usize, Failure> {
        match self.tensor("token_embd.weight").map(|tensor| tensor.shape.as_slice()) {
            Some([rows, _]) => Ok(*rows),
            Some(shape) => Err(self.fault_at("token_embd.weight", format!("the embedding has shape {shape:?}"))),
            None => Err(self.lacks("token_embd.weight")),
        }
    }

    /// Writes the model as a Hugging Face folder into `dir`, which exists: configuration, tokenizer, chat template,
    /// weights.
    ///
    /// # Errors
    /// The file is no Llama that this engine knows, or its tokenizer is none; a file cannot be written.
    pub fn write_folder(&self, dir: &Path, progress: Progress<'_>) -> Result<Summary, Failure> {
        self.write_shards(dir, MAX_SHARD as u64, progress)
    }

    fn write_shards(&self, dir: &Path, max_shard: u64, progress: Progress<'_>) -> Result<Summary, Failure> {
        // What can be refused is refused before the weights are written.
        let files = tokenizer::files(&self.metadata)?;
        let special = SpecialIds::read(&self.metadata, files.as_ref().map(|files| files.count))?;
        let config = config::config(self, &special)?;
        let plan = names::plan(self, &config)?;
        let dtype = weights::dtype(self, &plan)?;
        write_config(dir, &config, dtype)?;
        let generation: Map<String, Value> = special.json().into_iter().collect();
        write_json(&dir.join("generation_config.json"), &Value::Object(generation))?;
        let vocabulary = match files {
            None => None,
            Some(files) => {
                write_json(&dir.join("tokenizer.json"), &files.tokenizer)?;
                write_json(&dir.join("tokenizer_config.json"), &files.config)?;
                let tokenizer = Tokenizer::read(dir)?;
                tokenizer.check_vocabulary(&config)?;
                Some(tokenizer.vocab_size())
            }
        };
        weights::write(self, &plan, dtype, max_shard, dir, progress)?;
        let parameters = tensor_shapes(&config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        Ok(Summary { parameters, dtype, vocabulary })
    }

    /// Checks all that [`Gguf::write_folder`] checks before it writes: configuration, tensors, tokenizer.
    ///
    /// # Errors
    /// The same.
    pub fn check(&self) -> Result<(), Failure> {
        let files = tokenizer::files(&self.metadata)?;
        let special = SpecialIds::read(&self.metadata, files.as_ref().map(|files| files.count))?;
        let config = config::config(self, &special)?;
        weights::dtype(self, &names::plan(self, &config)?).map(|_| ())
    }
}

/// Converts a GGUF file into the Hugging Face folder `dir`, which must be absent or empty: it appears complete or not
/// at all.
///
/// # Errors
/// `dir` holds something; the file is refused, as [`Gguf::write_folder`] says; a file cannot be written.
pub fn convert(path: &Path, dir: &Path, progress: Progress<'_>) -> Result<Summary, Failure> {
    let file = Gguf::open(path)?;
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) || dir.is_file() {
        return Err(Failure::user(format!("{} is there already", dir.display()))
            .hint("name a folder that does not exist yet, or an empty one"));
    }
    let name = dir.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Failure::user(format!("{} is no name for a new folder", dir.display())))?;
    // Beside the folder, so that the last step is a rename on one file system.
    let partial = dir.with_file_name(format!(".{name}.partial-{}", std::process::id()));
    let io = |action: &'static str, at: &Path| {
        let at = at.to_owned();
        move |e: std::io::Error| Failure::io(action, &at, &e)
    };
    std::fs::create_dir_all(&partial).map_err(io("create", &partial))?;
    let written = file
        .write_folder(&partial, progress)
        .and_then(|summary| std::fs::rename(&partial, dir).map_err(io("create", dir)).map(|()| summary));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_dir_all(&partial);
    }
    written
}

fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    std::fs::write(path, text).map_err(|e| Failure::io("write", path, &e))
}

#[cfg(test)]
mod real_tests;
#[cfg(test)]
mod tests;
