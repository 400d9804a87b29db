//! `anneal convert`: a model in GGUF form becomes a Hugging Face folder, without a manifest.
//!
//! Unaware of formats.
use crate::args::Convert;
use crate::exit::{Error, Exit};
use crate::output;
use anneal_stages::gguf;
use serde_json::json;

pub(super) fn run(args: &Convert) -> Result<Exit, Error> {
    let mut bytes = 0;
    let summary = gguf::convert(&args.file, &args.dir, &mut |done, _| {
        bytes = done;
        Ok(())
    })?;
    let dtype = summary.dtype.torch_name();
    if summary.vocabulary.is_none() {
        output::say("warning: the file has no tokenizer, so the folder has none");
    }
    if args.json {
        output::print_json(&json!({
            "parameters": summary.parameters,
            "dtype": dtype,
            "bytes": bytes,
            "tokens": summary.vocabulary,
        }))?;
    } else {
        let tokens = summary.vocabulary.map_or(String::new(), |tokens| format!(", {tokens} tokens"));
        let size = bytes as f64 / 1e6;
        output::print(&format!(
            "{}: {} parameters as {dtype} ({size:.0} MB){tokens}\n",
            args.dir.display(),
            summary.parameters
        ))?;
    }
    Ok(Exit::Ok)
}
