//! `anneal logits`: the logits of a sequence of token ids as a safetensors file, for comparison with other programs.
//!
//! Unaware of how they are computed.
use super::Context;
use crate::args::Logits;
use crate::exit::{Error, Exit};
use crate::output;
use anneal_engine::Failure;
use anneal_stages::llama::logits::{Request, write_logits};
use std::path::Path;

pub(super) fn run(args: &Logits, context: &Context) -> Result<Exit, Error> {
    let ids = match (&args.ids, &args.ids_file) {
        (Some(ids), _) => parse(ids, "--ids")?,
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).map_err(|e| Failure::io("read", file, &e))?;
            parse(&text, &file.display().to_string())?
        }
        // The grammar asks for one of the two.
        (None, None) => return Err(Error::Usage(Failure::user("give --ids or --ids-file"))),
    };
    let numerics = super::numerics(args.device, context)?;
    let adapter = args.adapter.as_deref();
    let request = Request { model: &args.model, adapter, ids: &ids, numerics, out: &args.out };
    let [tokens, vocabulary] = write_logits(request)?;
    output::say(&format!("wrote {}: logits [{tokens}, {vocabulary}]", shown(&args.out)));
    Ok(Exit::Ok)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Ids parted by commas or white space; brackets, as of a JSON list, may stand around them.
fn parse(text: &str, place: &str) -> Result<Vec<u32>, Failure> {
    let inner = text.trim();
    let inner = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inner);
    let words = inner.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    words
        .map(|word| {
            word.parse().map_err(|_| {
                Failure::user(format!("{place}: {:?} is no token id", word.chars().take(40).collect::<String>()))
                    .hint("ids are whole numbers parted by commas or white space, as in 1,26,109")
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_in_every_usual_form() {
        for text in ["1,26,109", " 1 26\n109\n", "[1, 26, 109]\n", "1,\n26,\n109,"] {
            assert_eq!(parse(text, "f").ok(), Some(vec![1, 26, 109]), "{text}");
        }
        assert_eq!(parse("[]", "f").ok(), Some(vec![]));
        for text in ["1,-2", "1.5", "[1", "a", "4294967296"] {
            let failure = parse(text, "f.txt").expect_err("no ids");
            assert!(failure.message.starts_with("f.txt: "), "{failure}");
        }
    }
}
