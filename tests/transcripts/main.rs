//! What people see, word for word: every `.md` file beside this one holds commands and their output, which double as
//! examples. `TRYCMD=overwrite cargo test -p anneal-tests --test transcripts` writes what the program says now.

#[test]
fn transcripts() {
    let cases = trycmd::TestCases::new();
    cases.register_bin("anneal", std::path::Path::new(env!("CARGO_BIN_EXE_anneal-under-test")));
    // Colours and the width of help texts must not depend on where the tests run.
    cases.env("NO_COLOR", "1").env("COLUMNS", "110");
    cases.case("transcripts/*.md").run();
}
