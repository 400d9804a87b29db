//! Placeholders in a command's words: `{out}`, `{input:NAME}`, `{root}`, `{work}`, `{seed}`; `{{` and `}}` are braces.
//!
//! Unaware of what the words are for. The text with its placeholders enters the key, what they stand for does not.
use anneal_engine::{Failure, StageInput};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// What the placeholders stand for.
pub(super) struct Places<'a> {
    pub(super) out: &'a Path,
    pub(super) root: &'a Path,
    pub(super) work: &'a Path,
    pub(super) seed: u64,
    pub(super) inputs: &'a BTreeMap<String, StageInput>,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Out,
    Root,
    Work,
    Seed,
    Input(&'a str),
}

/// What is wrong with a text, and what to do.
type Wrong = (String, String);

fn parse(text: &str) -> Result<Vec<Piece<'_>>, Wrong> {
    let wrong = |what: String| {
        (format!("`{text}`: {what}"), "a brace that is no placeholder is written twice: `{{` or `}}`".to_owned())
    };
    if text.contains('\0') {
        return Err((
            format!("`{}` has a zero byte in it", text.escape_debug()),
            "programs cannot be given one".to_owned(),
        ));
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        pieces.push(Piece::Text(before));
        if from.starts_with("{{") || from.starts_with("}}") {
            pieces.push(Piece::Text(&from[..1]));
            rest = &from[2..];
            continue;
        }
        let inside = from.strip_prefix('{').ok_or_else(|| wrong("a `}` without a `{`".to_owned()))?;
        let (name, after) = inside.split_once('}').ok_or_else(|| wrong("a `{` without a `}`".to_owned()))?;
        pieces.push(match (name, name.strip_prefix("input:")) {
            ("out", _) => Piece::Out,
            ("root", _) => Piece::Root,
            ("work", _) => Piece::Work,
            ("seed", _) => Piece::Seed,
            (_, Some(input)) => Piece::Input(input),
            _ => {
                return Err((
                    format!("`{text}`: there is no placeholder `{{{name}}}`"),
                    "use {out}, {input:NAME}, {root}, {work} or {seed}; a brace is written twice: `{{` or `}}`"
                        .to_owned(),
                ));
            }
        });
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

/// What is wrong with a text for a stage with these inputs.
pub(super) fn check(text: &str, connected: &[&str]) -> Option<Wrong> {
    let pieces = match parse(text) {
        Ok(pieces) => pieces,
        Err(wrong) => return Some(wrong),
    };
    pieces.into_iter().find_map(|piece| match piece {
        Piece::Input(name) if !connected.contains(&name) => Some((
            format!("`{text}`: this stage has no input `{name}`"),
            match connected {
                [] => format!("add `inputs = {{ {name} = \"stage\" }}`"),
                _ => format!("its inputs are {}", connected.join(", ")),
            },
        )),
        _ => None,
    })
}

/// The text with what its placeholders stand for.
///
/// # Errors
/// A bug: `check` let something through.
pub(super) fn fill(text: &str, places: &Places<'_>) -> Result<OsString, Failure> {
    let mut filled = OsString::new();
    for piece in parse(text).map_err(|(message, _)| Failure::bug(message))? {
        match piece {
            Piece::Text(text) => filled.push(text),
            Piece::Out => filled.push(places.out),
            Piece::Root => filled.push(places.root),
            Piece::Work => filled.push(places.work),
            Piece::Seed => filled.push(places.seed.to_string()),
            Piece::Input(name) => {
                let input = places.inputs.get(name).ok_or_else(|| Failure::bug(format!("no input `{name}`")))?;
                filled.push(&input.dir);
            }
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_become_what_they_stand_for_and_braces_can_be_written() {
        let input = StageInput { artifact: "files".into(), dir: "/a b".into(), digest: String::new() };
        let inputs = BTreeMap::from([("raw-1".to_owned(), input)]);
        let places =
            Places { out: Path::new("/o"), root: Path::new("/r"), work: Path::new("/w"), seed: 7, inputs: &inputs };
        for (text, filled) in [
            ("", ""),
            ("plain", "plain"),
            ("--x={out}/y", "--x=/o/y"),
            ("{input:raw-1}/{seed}{seed}", "/a b/77"),
            ("{root}{work}", "/r/w"),
            ("{{print $1}}", "{print $1}"),
            ("{{{{}}}}", "{{}}"),
            ("{{out}}", "{out}"),
            ("{{{out}}}", "{/o}"),
            ("ä{out}ö", "ä/oö"),
        ] {
            assert_eq!(check(text, &["raw-1"]), None, "{text}");
            assert_eq!(fill(text, &places).unwrap(), filled, "{text}");
        }
    }

    #[test]
    fn what_is_no_placeholder_is_refused() {
        for text in [
            "{",
            "}",
            "{out",
            "out}",
            "{}",
            "{OUT}",
            "{input}",
            "{input:}",
            "{input:other}",
            "{out}}",
            "{print $1}",
            "\0",
        ] {
            assert!(check(text, &["raw"]).is_some(), "{text}");
        }
    }
}
