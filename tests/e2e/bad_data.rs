//! Data sets that cannot be used, and questions that are not there.
use crate::project::{Cases, Project};

/// What a run of the tiny manifest tells.
fn told(project: &Project, args: &[&str]) -> String {
    let outcome = project.anneal(&[&["run", "tiny.toml", "--jobs", "1"], args].concat());
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    let told = outcome.told();
    told.lines().filter(|line| !line.contains("skipped: ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_data_set_that_cannot_be_read() {
    let mut cases = Cases::default();
    let project = Project::new();
    project.run(&["tiny.toml"]);
    let eval = project.read("eval.json");
    let mistakes: [(&str, Vec<u8>); 8] = [
        ("truncated json", eval.as_bytes()[..700].to_vec()),
        ("json of another shape", b"{\"data\": []}".to_vec()),
        ("an empty file", Vec::new()),
        ("an empty data set", b"[]".to_vec()),
        (
            "a context without questions",
            b"[{\"table\": {\"uid\": \"t\", \"table\": []}, \"paragraphs\": [], \"questions\": []}]".to_vec(),
        ),
        ("a question without an answer", eval.replacen("\"14\"", "\" \"", 2).into_bytes()),
        ("a uid used twice", eval.replace("yard-q2", "yard-q1").into_bytes()),
        ("not text", vec![0xff, 0xfe, 0x00, 0x41]),
    ];
    for (name, bytes) in mistakes {
        project.write("eval.json", bytes);
        cases.add(name, told(&project, &[]));
    }
    project.write("eval.json", eval);
    assert_eq!(project.run(&["tiny.toml"]), (0, 9), "the good results are still there");
    insta::assert_snapshot!(cases);
}

#[test]
fn a_data_set_that_is_not_there() {
    let mut cases = Cases::default();
    let project = Project::new();
    for (name, set) in [
        ("no such file", "data.dataset.eval=nope.json"),
        ("a folder", "data.dataset.eval=."),
        ("a device", "data.dataset.eval=/dev/null"),
    ] {
        cases.add(name, told(&project, &["--set", set]));
    }
    insta::assert_snapshot!(cases);
}

#[test]
fn a_split_that_is_not_there() {
    let mut cases = Cases::default();
    let project = Project::new();
    project.run(&["tiny.toml", "--only", "base"]);
    project.copy_artifact("base", "model");
    project.edit("inputs = { dataset = \"data\" }\ninit", "#");
    project.edit("[stages.base]\nkind = \"load\"\n", "[stages.base]\nkind = \"load\"\nmodel = \"model\"\n");
    project.edit("train = \"train.json\", ", "");
    cases.add("nothing to train on", told(&project, &["--only", "lora"]));
    cases.add("nothing to answer", told(&project, &["--only", "answers", "--set", "answers.split=train"]));
    project.edit(
        "inputs = { model = \"base\", adapter = \"lora\", tokens = \"tokens\" }",
        "inputs = { model = \"base\", tokens = \"tokens\" }",
    );
    cases.add("nothing to score", told(&project, &["--only", "score", "--set", "score.split=train"]));
    let project = Project::new();
    project.edit("train = \"train.json\", ", "");
    cases.add("nothing to train a tokenizer on", told(&project, &["--only", "base"]));
    insta::assert_snapshot!(cases);
}

#[test]
fn questions_that_are_not_there_or_do_not_fit() {
    let mut cases = Cases::default();
    let project = Project::new();
    project.run(&["tiny.toml"]);
    cases.add("unknown sids", told(&project, &["--set", "answers.sids=[0, 5, 99]"]));
    cases.add("too long", told(&project, &["--set", "tokens.max_length=300"]));
    cases.add("no such module", told(&project, &["--set", "lora.target_modules=[\"q_proj\", \"w_proj\"]"]));
    assert_eq!(project.run(&["tiny.toml"]), (0, 9));
    insta::assert_snapshot!(cases);
}
