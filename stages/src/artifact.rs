//! The artifact types that stages hand to one another, and the files each is made of.
//!
//! | type | files |
//! |---|---|
//! | `model` | a Hugging Face folder: `config.json`, weights, tokenizer and template files |
//! | `checkpoint` | the same in f32 as training left it, and `trainer_log.jsonl` |
//! | `adapter` | a PEFT folder, and `trainer_log.jsonl` if it was trained here |
//! | `dataset` | `train.json` and `eval.json` as TAT-QA has them, or `train.jsonl` and `eval.jsonl` of instruction rows |
//! | `tokens` | token ids, labels and examples of each split (`data::token_set`) |
//! | `answers` | `answers.jsonl`, one object a question |
//! | `scores` | `scores.json`, `per_question.jsonl`, `predictions.json` |
//! | `files` | whatever a program of stage `command` wrote |
//!
//! Unaware of how any of them is computed.
use crate::train::checkpoint::LogRow;
use anneal_engine::Failure;
use std::io::Write;
use std::path::Path;

/// A Hugging Face model folder.
pub const MODEL: &str = "model";
/// A model as training left it.
pub const CHECKPOINT: &str = "checkpoint";
/// A PEFT adapter folder.
pub const ADAPTER: &str = "adapter";
/// Questions with their contexts.
pub const DATASET: &str = "dataset";
/// Token ids and labels.
pub const TOKENS: &str = "tokens";
/// Generated answers.
pub const ANSWERS: &str = "answers";
/// Scores of answers.
pub const SCORES: &str = "scores";
/// Whatever a program wrote.
pub const FILES: &str = "files";

/// Files of a model folder besides `config.json` and the weights; carried along wherever the model goes.
pub const COMPANIONS: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "added_tokens.json",
    "tokenizer.model",
];

/// Copies a model's companions from one folder to another.
///
/// # Errors
/// A file cannot be copied.
pub(crate) fn copy_companions(from: &Path, to: &Path) -> Result<(), Failure> {
    for name in COMPANIONS {
        let source = from.join(name);
        if source.exists() {
            // Not fs::copy: artifacts are read-only, and a copy would inherit that before it is complete.
            let bytes = std::fs::read(&source).map_err(|e| Failure::io("read", &source, &e))?;
            let target = to.join(name);
            std::fs::write(&target, bytes).map_err(|e| Failure::io("write", &target, &e))?;
        }
    }
    Ok(())
}

/// Writes one JSON object a line.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_lines<T: serde::Serialize>(path: &Path, rows: impl IntoIterator<Item = T>) -> Result<(), Failure> {
    let io = |e: &std::io::Error| Failure::io("write", path, e);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(|e| io(&e))?);
    for row in rows {
        let line = serde_json::to_string(&row).map_err(|e| Failure::bug(format!("{}: {e}", path.display())))?;
        writeln!(file, "{line}").map_err(|e| io(&e))?;
    }
    file.flush().map_err(|e| io(&e))
}

/// Reads one JSON object a line.
///
/// # Errors
/// The file cannot be read, or a line does not fit (with its number).
pub(crate) fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    text.lines()
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|e| Failure::user(format!("{}:{}: {e}", path.display(), number + 1)))
        })
        .collect()
}

/// Writes a trainer's log beside its result.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_log(dir: &Path, log: &[LogRow]) -> Result<(), Failure> {
    write_lines(&dir.join("trainer_log.jsonl"), log)
}
