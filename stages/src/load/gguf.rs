//! A model in GGUF form: turned once into a Hugging Face folder, which is the artifact.
//!
//! Unlike a folder it cannot be linked: every later stage would read blocks and permute rows again. Unaware of the format.
use crate::gguf::Gguf;
use anneal_engine::event::Event;
use anneal_engine::{Failure, FailureClass, StageContext};

/// Name of the file among the stage's sources; part of the key.
pub(super) const SOURCE: &str = "gguf";

/// Writes the folder.
pub(super) fn model(context: &StageContext<'_>) -> Result<(), Failure> {
    let source = context.sources_of(SOURCE).next();
    let (source, _) = source.ok_or_else(|| Failure::bug("`load` runs without its GGUF file"))?;
    let file = Gguf::open(&source.path)?;
    let summary = file.write_folder(context.out, &mut |done, total| {
        (context.emit)(Event::Progress { done, total, unit: "bytes".into() });
        if (context.stop)() {
            return Err(Failure::new(FailureClass::Interrupted, "stopped while a model was converted")
                .hint("run the same command again; the conversion starts anew"));
        }
        Ok(())
    })?;
    let dtype = summary.dtype.torch_name();
    context.metric("parameters", summary.parameters as f64);
    context.note(format!("{} parameters, stored as {dtype}: nothing of the file is lost", summary.parameters));
    if summary.vocabulary.is_none() {
        context.warn("the file has no tokenizer: stages that make or read text will refuse this model");
    }
    Ok(())
}
