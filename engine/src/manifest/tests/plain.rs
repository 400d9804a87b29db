//! The reader of plain TOML against the full parser: whatever it accepts, that accepts too, and reads the same.
use crate::diagnostic::SourceText;
use crate::manifest::{plain, tree};
use proptest::prelude::*;
use std::sync::Arc;

/// Whether the text is plain; if so, both readers agree about it.
fn agree(text: &str) -> bool {
    let source = Arc::new(SourceText { name: "m.toml".to_owned(), text: text.to_owned(), order: 0 });
    let Some(plain) = plain::read(&source) else { return false };
    let mut problems = Vec::new();
    let full = tree::parse_fully(&source, &mut problems);
    assert_eq!(problems, [], "accepted, but no TOML:\n{text}");
    assert_eq!(plain, full, "read differently:\n{text}");
    true
}

#[test]
fn manifests_as_people_and_programs_write_them_are_plain() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            // One with a text of several lines is not plain.
            count += usize::from(agree(&std::fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(count >= 5, "{count}");
    for text in [
        "",
        "# only a comment",
        "a = 1",
        "a = 1 # one\n\n[b]\nc = [ 1, -20, 3.25, -0.5e-4, 2e5, ] # list\n\n  [ b . \"d e\" ]\nf = { g = \"h\", i = [\n# ä\n[], {}\n] }\n",
        "[a.b.c]\nd = true\n[a.b.e]\nf = false\n[a.g]\n[h]\n",
        "[sweep.grid]\n\"lora.rank\" = [1, 2]\n",
        "a = \"\"\nb = -0\nc = 999999999999999999",
    ] {
        assert!(agree(text), "{text}");
    }
}

#[test]
fn what_is_not_plain_is_left_alone() {
    let many: String = (0..65).map(|i| format!("k{i} = 1\n")).collect();
    for text in [
        "a = 1\na = 2",
        "[a]\n[a]",
        "[a.b]\n[a]",
        "[a]\nb = 1\n[a.b]",
        "a = { b = 1 }\n[a.c]",
        "[[a]]",
        "a.b = 1",
        "a = 'literal'",
        "a = \"\"\"long\"\"\"",
        "a = \"\\n\"",
        "a = 1_000",
        "a = 0x10",
        "a = 01",
        "a = +1",
        "a = 1.",
        "a = nan",
        "a = 1979-05-27",
        "a = truex",
        "a = 9223372036854775807",
        "a = 1 b = 2",
        "a = { b = 1, }",
        "a = { b = 1,\n c = 2 }",
        "a = { b = 1, b = 2 }",
        "a = [1 2]",
        "a = [,]",
        "a = ",
        "a",
        "= 1",
        "[]",
        "[a.]",
        "[a] b = 1",
        "a = 1\r\n",
        "a = \"\u{1}\"",
        "\u{feff}a = 1",
        "# \u{7f}",
        &many,
        &format!("a = {}{}", "[".repeat(17), "]".repeat(17)),
    ] {
        assert!(!agree(text), "{text}");
    }
}

const PIECES: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    "=",
    "\"",
    ".",
    ",",
    "\n",
    "#",
    " ",
    "\t",
    "a",
    "b",
    "\"c d\"",
    "\"\"",
    "ä",
    "-",
    "1",
    "0",
    "12",
    "2.5",
    "e",
    "e-",
    "1e2",
    "true",
    "false",
    "[a]\n",
    "[a.b]\n",
    "[b]\n",
    "[a.b.c]\n",
    "a = 1\n",
    "b = \"x\"\n",
    "c = [1, 2]\n",
    "d = { a = 1 }\n",
    "\n[c]\n",
    "a = ",
    "[[",
    "'",
    "\\",
    "\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
    #[test]
    fn pieces_in_any_order_are_read_alike(picks in proptest::collection::vec(0..PIECES.len(), 0..14)) {
        let text: String = picks.into_iter().map(|pick| PIECES[pick]).collect();
        agree(&text);
    }

    #[test]
    fn lines_in_any_order_are_read_alike(
        picks in proptest::collection::vec(("[ab\"]{1,2}", 0..14usize), 0..10),
    ) {
        let line = |(name, how): &(String, usize)| match how {
            0..4 => format!("{name} = 1\n"),
            4 => format!("{name} = \"t\" # c\n"),
            5 => format!("{name} = {{ {name} = [1, \"2\"] , b = true }}\n"),
            6..9 => format!("[{name}]\n"),
            9..12 => format!("[a.{name}]\n"),
            12 => format!("[a.{name}.b]\n"),
            _ => "\n".to_owned(),
        };
        let text: String = picks.iter().map(line).collect();
        agree(&text);
    }
}
