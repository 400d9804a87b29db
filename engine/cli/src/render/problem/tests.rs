//! What people see of a bad manifest.
use super::*;
use anneal_engine::diagnostic::{Diagnostics, Place, SourceText};
use std::sync::Arc;

fn source(text: &str) -> Arc<SourceText> {
    Arc::new(SourceText { name: "m.toml".to_owned(), text: text.to_owned(), order: 0 })
}

#[test]
fn a_problem_has_its_line_a_caret_and_a_hint() {
    let source = source("[stages.lora]\r\nrnak = 8 # rank\n");
    let problem = Diagnostic::error(&Place::new(&source, 15..19), "unknown key `rnak`")
        .label("not a key of `train-lora`")
        .hint("did you mean `rank`?".to_owned());
    insta::assert_snapshot!(text(&Error::Manifest(Diagnostics(vec![problem.clone(), problem.warning()])), false), @r"
    error: unknown key `rnak`
     --> m.toml:2:1
      |
    2 | rnak = 8 # rank
      | ^^^^ not a key of `train-lora`
      |
      = help: did you mean `rank`?

    warning: unknown key `rnak`
     --> m.toml:2:1
      |
    2 | rnak = 8 # rank
      | ^^^^ not a key of `train-lora`
      |
      = help: did you mean `rank`?

    2 problems in m.toml
    ");
}

#[test]
fn a_file_without_text_has_no_line() {
    let problem = Diagnostic::error(&Place::new(&source(""), 0..0), "this is a folder, not a manifest");
    insta::assert_snapshot!(diagnostic(&problem, false), @r"
    error: this is a folder, not a manifest
    --> m.toml
    ");
}

#[test]
fn a_failure_has_its_hint() {
    let error = Failure::user("cannot read x").hint("check the path");
    insta::assert_snapshot!(failure(&error, false), @r"
    error: cannot read x
    help: check the path
    ");
    assert!(failure(&error, true).contains("\u{1b}["));
}

#[test]
fn odd_texts_and_spans_are_drawn() {
    let long = format!("a = \"{}ä{}\"\nb = 1", "x".repeat(5000), "\u{1f600}".repeat(5000));
    for text in [long.as_str(), "\u{feff}\t\0\u{202e}ä = [\n1,\n2]\n", "\n\n\n", "ä", "\r\n\r"] {
        let source = source(text);
        for start in (0..=text.len()).step_by(1 + text.len() / 50) {
            for len in [0, 1, 2, 7, text.len()] {
                let problem = Diagnostic::error(&Place::new(&source, start..start + len), "x").label("y");
                let drawn = diagnostic(&problem, false);
                assert!(drawn.starts_with("error: x") && drawn.len() < 30_000, "{drawn}");
                assert!(!drawn.contains(['\0', '\u{202e}', '\r']));
            }
        }
    }
}
