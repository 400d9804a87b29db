//! Models, adapters and data sets that lie somewhere: checked as far as that is cheap, then linked by content.
//!
//! Unaware of the store: it names files and digests, the engine links them.
use super::DatasetFormat;
use crate::data::{instruct, tatqa};
use crate::failure::OrFail;
use crate::llama::{AdapterConfig, LlamaConfig, WeightFiles, WeightSource, adapter, weights};
use crate::tensor_file::TensorFile;
use crate::text::Tokenizer;
use anneal_engine::{Failure, StageContext};
use std::path::{Path, PathBuf};

/// Links a Hugging Face folder after checking configuration, weights and tokenizer against one another.
pub(super) fn model(context: &StageContext<'_>) -> Result<(), Failure> {
    let dir = folder(context, "model/config.json")?;
    let config = LlamaConfig::read(&dir.join("config.json"))?;
    WeightFiles::open(&dir)?.check(&config)?;
    if dir.join("tokenizer.json").exists() {
        Tokenizer::read(&dir)?.check_vocabulary(&config)?;
    }
    let parameters: usize =
        weights::tensor_shapes(&config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    context.metric("parameters", parameters as f64);
    link(context, "model/");
    Ok(())
}

/// Links a PEFT folder after reading its configuration and the header of its weights; whether it fits a base shows where
/// it is attached to one.
pub(super) fn adapter(context: &StageContext<'_>) -> Result<(), Failure> {
    let dir = folder(context, &format!("adapter/{}", adapter::CONFIG))?;
    AdapterConfig::read(&dir)?;
    TensorFile::open(&dir.join(adapter::WEIGHTS))?;
    link(context, "adapter/");
    Ok(())
}

/// Links the files of a data set after reading them whole, so that a malformed one stops here.
pub(super) fn dataset(context: &StageContext<'_>, format: DatasetFormat) -> Result<(), Failure> {
    for (source, digest) in context.sources_of("dataset/") {
        let split = source.name.trim_start_matches("dataset/");
        let (what, questions, extension) = match format {
            DatasetFormat::TatQa => {
                let contexts = tatqa::read(&source.path).or_fail()?;
                let questions = contexts.iter().map(|c| c.questions.len()).sum();
                (format!("{} contexts, {questions} questions", contexts.len()), questions, "json")
            }
            DatasetFormat::Instruct => {
                let rows = instruct::read(&source.path).or_fail()?;
                let answers: usize = rows.iter().map(|row| row.pairs.len()).sum();
                (format!("{} rows, {answers} answers", rows.len()), rows.len(), "jsonl")
            }
        };
        context.note(format!("{split}: {what}"));
        context.metric(&format!("{split}_questions"), questions as f64);
        // What reads the artifact knows the format by the name.
        context.reference(&format!("{split}.{extension}"), source, digest);
    }
    Ok(())
}

fn folder(context: &StageContext<'_>, first: &str) -> Result<PathBuf, Failure> {
    let source = context.sources_of(first).next();
    let parent = source.and_then(|(source, _)| source.path.parent().map(Path::to_path_buf));
    parent.ok_or_else(|| Failure::bug(format!("`load` runs without its source {first}")))
}

fn link(context: &StageContext<'_>, prefix: &str) {
    for (source, digest) in context.sources_of(prefix) {
        context.reference(source.name.trim_start_matches(prefix), source, digest);
    }
}
