//! Manifests that nobody would write: no panic, and every problem points into the text.
use super::fake::{MANIFEST, load_text, registry};
use crate::diagnostic::Diagnostics;
use crate::manifest::{LoadOptions, load};
use proptest::prelude::*;
use std::path::Path;

fn assert_spans(problems: &Diagnostics) {
    assert!(!problems.0.is_empty(), "refused without a reason");
    for problem in &problems.0 {
        let (text, span) = (&problem.place.source.text, problem.span());
        assert!(text.get(span.clone()).is_some(), "{span:?} of {} bytes: {problem}", text.len());
        assert!(problem.line >= 1 && problem.column >= 1);
        assert!(problem.line <= text.split('\n').count());
    }
}

fn try_text(text: &str, sets: &[&str]) {
    if let Err(problems) = load_text(text, sets) {
        assert_spans(&problems);
    }
}

/// Pieces that make near misses likely.
const PIECES: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    "=",
    "\"",
    "'",
    ".",
    ",",
    "\n",
    "\r\n",
    "#",
    "\u{feff}",
    "ä",
    "\u{1f600}",
    "\0",
    "[[",
    "]]",
    "\"\"\"",
    "kind = ",
    "inputs",
    "[stages.lora]",
    "stages.lora.rank = 3",
    "rank",
    "-9223372036854775809",
    "0xffffffffffffffff",
    "1e999",
    "nan",
    "1979-05-27",
    "true",
    "\\u12",
    "[sweep]",
    "experiment",
    "{ a = { b = [ 1,",
    "lora",
    "base",
    " ",
    "\t",
];

fn mutated() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..40usize, prop::sample::select(PIECES));
    prop::collection::vec(edit, 1..8).prop_map(|edits| {
        let mut chars: Vec<char> = MANIFEST.chars().collect();
        for (at, cut, piece) in edits {
            let start = at.index(chars.len() + 1);
            let end = (start + cut % 7 * (cut % 3)).min(chars.len());
            chars.splice(start..end, piece.chars());
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn mutated_manifests_never_panic(text in mutated()) {
        try_text(&text, &[]);
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,60}", set in "\\PC{0,30}") {
        try_text(&text, &[&set]);
    }

    #[test]
    fn overrides_never_panic(key in "[a-z.\"' =\\[{#\n]{0,20}", value in "\\PC{0,20}") {
        try_text(MANIFEST, &[&format!("{key}={value}"), &format!("lora.{key}={value}"), &format!("lora.rank={value}")]);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("m.toml"), bytes).unwrap();
        let options = LoadOptions { cwd: folder.path().to_owned(), ..LoadOptions::default() };
        if let Err(problems) = load(&registry(), Path::new("m.toml"), &options) {
            assert_spans(&problems);
        }
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for open in ["[", "{a=", "{a.b.c.d=", "[{a="] {
        try_text(&format!("x = {}", open.repeat(5000)), &[]);
        let set = format!("lora.rank={}", open.repeat(5000));
        try_text(MANIFEST, &[&set]);
    }
    let dotted = vec!["a"; 5000].join(".");
    try_text(&format!("{dotted} = 1\n[{dotted}]\n"), &[]);
    let dotted = vec!["a"; 79].join(".");
    let mut nested = format!("[{dotted}]\n{dotted} = ");
    for _ in 0..70 {
        nested += &format!("{{ {dotted} = ");
    }
    nested += "1";
    nested += &"}".repeat(70);
    assert!(load_text(&nested, &[]).is_err());
    try_text(&nested, &[]);
}

#[test]
fn long_chains_do_not_exhaust_the_stack() {
    let chain = |last: usize| {
        let mut text = "[experiment]\nname = 'x'\n".to_owned();
        for i in 0..20_000 {
            let from = if i == 0 { last } else { i - 1 };
            text += &format!("[stages.s{i}]\nkind = 'pass'\ninputs.in = 's{from}'\n");
        }
        text
    };
    let problems = load_text(&chain(19_999), &[]).unwrap_err();
    assert!(problems.0.len() == 1 && problems.0[0].message.starts_with("these stages need each other: s0 -> s1 -> "));
}
