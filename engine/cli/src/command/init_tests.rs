//! Starter manifests: accepted by the engine, also with every comment taken in; refusals.
use super::*;

fn paths(eval: bool) -> Paths {
    let text = |path: &str| toml_text(Path::new(path));
    Paths { model: text("models/a \"b\""), train: text("data/t.jsonl"), eval: eval.then(|| text("data/e.jsonl")) }
}

fn check(text: &str) -> Result<(), String> {
    let registry = anneal_stages::registry();
    let checked = parse(&registry, text.to_owned(), Path::new("m.toml"), Path::new("/"), &LoadOptions::default());
    checked.map(|_| ()).map_err(|problems| format!("{problems:?}\n{text}"))
}

#[test]
fn every_form_is_accepted_and_so_is_every_default_in_it() {
    let registry = anneal_stages::registry();
    for (format, eval) in [(Format::TatQa, true), (Format::TatQa, false), (Format::Instruct, true)] {
        let text = manifest("e", format, &paths(eval), &registry);
        check(&text).expect("accepted");
        // A comment that holds a default says what would be if it were none.
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ").map(|rest| (rest, rest.split_once(" = "))) {
                Some((rest, Some((key, _)))) if !key.contains(' ') && !rest.contains("not set by default") => {
                    format!("{rest}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        assert!(
            uncommented.contains("\nrank = 16\n") && uncommented.contains("\nmax_length = 4096\n"),
            "{uncommented}"
        );
        check(&uncommented).expect("accepted with its defaults written out");
    }
}

#[test]
fn a_manifest_reads_like_this() {
    let text = manifest("qa", Format::Instruct, &paths(false), &anneal_stages::registry());
    let head: String = text.lines().take(24).map(|line| format!("{line}\n")).collect();
    insta::assert_snapshot!(head, @r##"
    # qa: fine-tunes a low-rank update of a model on a data file, and lets base and tuned model answer.
    # Written by `anneal init`. What is commented out stands at its default; take the `#` away to change it.
    #
    #   anneal plan FILE      what a run would do
    #   anneal run FILE       do it, and report

    [experiment]
    name = "qa"
    seed = 42
    # numerics = "cpu-f32"   # one of cpu-f32

    [stages.base]
    kind = "load"
    model = 'models/a "b"'

    [stages.data]
    kind = "load"
    dataset = { format = "instruct", train = "data/t.jsonl" }

    [stages.tokens]
    kind = "tokenize"
    inputs = { model = "base", dataset = "data" }
    system = ""
    # What the model is asked; TAT-QA only, an instruction row says it itself (one of `tat-qa`, `brief`).
    "##);
}

#[test]
fn formats_are_known_by_how_files_begin() {
    let dir = tempfile::tempdir().expect("a folder");
    let of = |content: &[u8]| {
        let file = dir.path().join("f");
        std::fs::write(&file, content).expect("written");
        Format::of(&file).ok()
    };
    assert_eq!(of(b"\xef\xbb\xbf\n [{\"table\": {}, \"questions\": []}]"), Some(Format::TatQa));
    assert_eq!(of(b"[{\"user_prompt\": \"q\", \"resp\": \"a\"}]"), Some(Format::Instruct));
    assert_eq!(of(b"\n{\"instruction\": 1}"), Some(Format::Instruct));
    assert_eq!((of(b"a,b\n"), of(b"")), (None, None));
    assert!(Format::of(&dir.path().join("absent")).is_err());
}

#[test]
fn names_are_made_fit_and_nothing_is_overwritten() {
    for (stem, name) in [("my data", "my-data"), ("-x", "x"), ("é", "experiment"), ("a.b", "a.b"), ("", "experiment")]
    {
        assert_eq!(experiment_name(stem), name);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("sub/m.toml");
    assert!(write_new(&out, "a").is_ok());
    assert!(
        matches!(write_new(&out, "b"), Err(Error::Failure(failure)) if failure.message.contains("is there already"))
    );
    assert_eq!(std::fs::read_to_string(&out).ok().as_deref(), Some("a"));
}
