//! The stage `infer` as a manifest sees it: what changes no answer, drawing, texts to stop at, prompts that do not fit.
use crate::project::Project;
use serde_json::Value;
use std::collections::BTreeMap;

/// Runs the manifest up to the answers with these settings of them; their digest.
fn digest(project: &Project, settings: &[&str]) -> String {
    let sets = settings.iter().flat_map(|set| ["--set".to_owned(), format!("answers.{set}")]);
    let args: Vec<String> = ["tiny.toml", "--only", "answers"].map(str::to_owned).into_iter().chain(sets).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    project.run(&args);
    project.digests(&args)["answers"].clone()
}

/// The rows of the last run by sid.
fn rows(project: &Project) -> BTreeMap<u64, Value> {
    let text = std::fs::read_to_string(project.artifact("tiny", "answers").join("answers.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| (row["sid"].as_u64().unwrap(), row)).collect()
}

#[test]
fn batch_sharing_and_order_change_no_answer_greedy_or_drawn() {
    let project = Project::new();
    for drawn in [&["decoding=greedy"][..], &["decoding=sample", "temperature=0.8", "top_p=0.9"]] {
        let with = |more: &[&str]| digest(&project, &[drawn, &["sids=[0, 4, 1, 2]"], more].concat());
        let whole = with(&[]);
        let answers = rows(&project);
        assert_eq!(with(&["batch_size=1"]), whole);
        assert_eq!(with(&["batch_size=3", "prefix_sharing=false"]), whole);
        digest(&project, &[drawn, &["sids=[2, 4, 0]"]].concat());
        for (sid, row) in rows(&project) {
            assert_eq!(row, answers[&sid]);
        }
        assert_eq!(with(&["merge_adapter=true"]), whole, "in f32 the rounding is too small to show here");
    }
}

#[test]
fn a_seed_draws_the_same_again_and_another_seed_something_else() {
    let project = Project::new();
    let drawn = |more: &[&str]| digest(&project, &[&["decoding=sample", "sids=[0, 1]"], more].concat());
    let first = drawn(&[]);
    // The experiment's seed is 7.
    assert_eq!(drawn(&["seed=7"]), first);
    assert_ne!(drawn(&["seed=8"]), first);
    assert_ne!(digest(&project, &["sids=[0, 1]"]), first);
    assert_eq!(drawn(&["top_k=1"]), digest(&project, &["sids=[0, 1]"]), "one token to draw from is the greedy one");
    let refused = project.anneal(&["plan", "tiny.toml", "--set", "answers.temperature=0.5"]);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("has no effect: `decoding` is \"greedy\""), "{}", refused.stderr);
}

#[test]
fn answers_end_at_a_text_and_are_flagged_where_they_are_cut_off() {
    let project = Project::new();
    let sids = "sids=[0, 1, 2, 3, 4]";
    digest(&project, &[sids, "decoding=sample", "max_new_tokens=24"]);
    let whole = rows(&project);
    assert!(whole.values().any(|row| row["ended"] == false && row["new_tokens"] == 24), "{whole:?}");
    let text = |row: &Value| row["answer"].as_str().unwrap().to_owned();
    let plain = |letter: &char| letter.is_ascii_graphic() && !"\"\\".contains(*letter);
    let stop = whole.values().find_map(|row| text(row).chars().rev().find(plain)).unwrap();
    digest(&project, &[sids, "decoding=sample", "max_new_tokens=24", &format!("stop=[\"{stop}\", \"never said\"]")]);
    let stopped = rows(&project);
    for (sid, row) in &stopped {
        let before = text(&whole[sid]);
        assert_eq!(text(row), before.split(stop).next().unwrap());
        assert_eq!(row["ended"] == true, before.contains(stop) || whole[sid]["ended"] == true, "{row}");
    }
    assert!(stopped.values().any(|row| row["ended"] == true && row["new_tokens"].as_u64() <= Some(24)));
}

#[test]
fn a_prompt_without_room_for_an_answer_names_the_samples() {
    let project = Project::new();
    let short = "[stages.short]\nkind = \"load\"\ninputs = { dataset = \"data\" }\ninit = { vocab_size = 400, hidden_size = 32, \
                 intermediate_size = 64, num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 2, \
                 max_position_embeddings = 300 }\n\n[stages.tokens]";
    project.edit("[stages.tokens]", short);
    let answers = r#"inputs = { model = "base", adapter = "lora", tokens = "tokens" }"#;
    project.edit(answers, &answers.replace("\"base\"", "\"short\""));
    let outcome = project.anneal(&["run", "tiny.toml", "--only", "answers"]);
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    let told = outcome.stderr + &outcome.stdout;
    assert!(told.contains("leave no room for an answer: the model's window has 300 tokens, sample 0 has"), "{told}");
    assert!(told.contains("max_length"), "{told}");
}
