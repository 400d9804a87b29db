//! What a run would do and the first cause of it, and that a run then does just that: fake stages in this process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod fake;

use anneal_engine::FailureClass;
use anneal_engine::cause::{Outlook, Wish, forecast};
use anneal_engine::graph::Pipeline;
use anneal_engine::host::Host;
use anneal_engine::options::{Keep, StageOptions};
use anneal_engine::store::{Latest, Store};
use fake::{Spec, log, options, pipeline, run_all, walk};
use std::path::Path;
use std::sync::Arc;

const CHAIN: [Spec<'_>; 3] =
    [("a", "fake", "one", "", &[]), ("b", "fake", "two", "", &["a"]), ("c", "fake", "three", "", &["b"])];

/// What would be done, a line for each stage.
fn plan_with(dir: &Path, pipeline: &Pipeline, wish: &Wish) -> String {
    let store = Store::open(&dir.join("outputs")).unwrap();
    let forecast = forecast(pipeline, &store, &Host::default(), wish);
    let mut text = String::new();
    for (node, outlook) in pipeline.stages.iter().zip(&forecast.outlooks) {
        let told = match outlook.as_ref().unwrap() {
            Outlook::Cached => "cached".to_owned(),
            Outlook::Run(_) => "run".to_owned(),
            Outlook::After(waits, _) => {
                format!(
                    "after {}",
                    waits.iter().map(|id| pipeline.node(*id).name.as_str()).collect::<Vec<_>>().join(" ")
                )
            }
            Outlook::Failed(failure, again) => format!("failed: {failure}; {}", again.as_deref().unwrap_or_default()),
            Outlook::Stuck(from) => format!("stuck: {}", pipeline.node(*from).name),
            Outlook::Blocked(failure) => format!("blocked: {failure}"),
        };
        text += &format!("{}  {told}", node.name);
        if let Some(cause) = outlook.as_ref().and_then(Outlook::cause) {
            text += &format!(": {}", cause.text(pipeline));
            cause.also.iter().for_each(|change| text += &format!("; also {change}"));
        }
        text.push('\n');
    }
    text.replace(&dir.display().to_string(), "[DIR]")
}

fn plan(dir: &Path, specs: &[Spec<'_>]) -> String {
    let pipeline = pipeline(dir, specs);
    plan_with(dir, &pipeline, &Wish::all(&pipeline))
}

fn run(dir: &Path, specs: &[Spec<'_>]) {
    run_all(&pipeline(dir, specs), &options(dir));
}

#[test]
fn a_change_is_told_of_all_that_comes_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    insta::assert_snapshot!(plan(dir, &CHAIN), @r"
    a  run: never ran here
    b  after a: never ran here
    c  after b: never ran here
    ");
    run(dir, &CHAIN);
    insta::assert_snapshot!(plan(dir, &CHAIN), @r"
    a  cached
    b  cached
    c  cached
    ");
    assert_eq!(walk(&dir.join("outputs")), CHAIN.len(), "a plan leaves a store as it was");
    let mut specs = CHAIN;
    specs[0].2 = "eins";
    specs[2].2 = "drei";
    insta::assert_snapshot!(plan(dir, &specs), @r#"
    a  run: params.text: "one" -> "eins"
    b  after a: upstream `a`: params.text: "one" -> "eins"
    c  after b: upstream `a`: params.text: "one" -> "eins"; also params.text: "three" -> "drei"
    "#);
    // The first of them ran; the others begin at the same leaf.
    let only =
        run_all(&pipeline(dir, &specs), &anneal_engine::run::Options { only: vec!["a".to_owned()], ..options(dir) });
    assert_eq!(only.0.executed, 1);
    insta::assert_snapshot!(plan(dir, &specs), @r#"
    a  cached
    b  run: upstream `a`: params.text: "one" -> "eins"
    c  after b: upstream `a`: params.text: "one" -> "eins"; also params.text: "three" -> "drei"
    "#);
    run(dir, &specs);
    // Back to what the store still has.
    insta::assert_snapshot!(plan(dir, &CHAIN), @r"
    a  cached
    b  cached
    c  cached
    ");
}

#[test]
fn an_input_that_comes_from_another_stage_is_told_from_one_that_changed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let before: [Spec<'_>; 4] = [
        ("a", "fake", "one", "", &[]),
        ("b", "fake", "two", "", &[]),
        ("c", "fake", "three", "", &["a"]),
        ("d", "fake", "four", "", &["c"]),
    ];
    run(dir, &before);
    let mut specs = before;
    specs[2].4 = &["b"];
    insta::assert_snapshot!(plan(dir, &specs), @r"
    a  cached
    b  cached
    c  run: inputs.a: `a` -> `b` (another stage)
    d  after c: upstream `c`: inputs.a: `a` -> `b` (another stage)
    ");
    // To one that has no result yet.
    specs[1].2 = "zwei";
    insta::assert_snapshot!(plan(dir, &specs), @r#"
    a  cached
    b  run: params.text: "two" -> "zwei"
    c  after b: inputs.a: `a` -> `b` (another stage)
    d  after c: upstream `c`: inputs.a: `a` -> `b` (another stage)
    "#);
    // One more input, and one less.
    specs = before;
    specs[2].4 = &["a", "b"];
    insta::assert_snapshot!(plan(dir, &specs), @r"
    a  cached
    b  cached
    c  run: inputs.b: (not connected) -> `b`
    d  after c: upstream `c`: inputs.b: (not connected) -> `b`
    ");
    specs[2].4 = &[];
    insta::assert_snapshot!(plan(dir, &specs), @r"
    a  cached
    b  cached
    c  run: inputs.a: `a` -> (not connected)
    d  after c: upstream `c`: inputs.a: `a` -> (not connected)
    ");
    // A new name for a stage runs nothing after it; a new name and a change is told by what it was.
    let renamed: [Spec<'_>; 2] = [("other", "fake", "one", "", &[]), ("c", "fake", "three", "", &["other"])];
    insta::assert_snapshot!(plan(dir, &renamed), @r"
    other  cached
    c  cached
    ");
    let renamed: [Spec<'_>; 2] = [("other", "fake", "eins", "", &[]), ("c", "fake", "three", "", &["other"])];
    insta::assert_snapshot!(plan(dir, &renamed), @r"
    other  run: never ran here
    c  after other: inputs.a: `a` -> `other` (another stage)
    ");
}

#[test]
fn what_is_damaged_gone_or_forced_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(dir, &CHAIN);
    let pipeline = pipeline(dir, &CHAIN);
    let id = |name| pipeline.find(name).unwrap();
    let wish = Wish { forced: [id("b")].into(), ..Wish::all(&pipeline) };
    insta::assert_snapshot!(plan_with(dir, &pipeline, &wish), @r"
    a  cached
    b  run: asked for with --force
    c  after b: upstream `b`: asked for with --force
    ");
    let store = Store::open(&dir.join("outputs")).unwrap();
    let key = Latest::of(&store, "test").key("b").unwrap();
    let record = store.look_up(&key).unwrap();
    let file = store.tree(&record.output).join("result.txt");
    std::fs::remove_file(&file).unwrap();
    let told = plan_with(dir, &pipeline, &Wish::all(&pipeline)).replace(&record.output.to_string(), "[OUTPUT]");
    insta::assert_snapshot!(told, @r"
    a  cached
    b  run: its result is damaged: [DIR]/outputs/objects-v1/trees/[OUTPUT]/result.txt is not there any more (No such file or directory (os error 2))
    c  after b: upstream `b`: its result is damaged: [DIR]/outputs/objects-v1/trees/[OUTPUT]/result.txt is not there any more (No such file or directory (os error 2))
    ");
    std::fs::remove_file(dir.join(format!("outputs/objects-v1/records/{key}.json"))).unwrap();
    insta::assert_snapshot!(plan(dir, &CHAIN), @r"
    a  cached
    b  run: its record is gone from the store
    c  after b: upstream `b`: its record is gone from the store
    ");
}

#[test]
fn failures_are_told_and_what_would_make_them_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut specs = CHAIN;
    specs[1].3 = "nan";
    run(dir, &specs);
    insta::assert_snapshot!(plan(dir, &specs), @r"
    a  cached
    b  failed: loss is NaN at step 3; change a parameter, or try again with --retry nan or --force b
    c  stuck: b
    ");
    let pipeline = pipeline(dir, &specs);
    let retry = Wish { retry: vec![FailureClass::Nan], ..Wish::all(&pipeline) };
    insta::assert_snapshot!(plan_with(dir, &pipeline, &retry), @r"
    a  cached
    b  run: its last attempt failed (not a number): loss is NaN at step 3
    c  after b: never ran here
    ");
    specs[1].3 = "fail";
    run(dir, &specs);
    insta::assert_snapshot!(plan(dir, &specs), @r"
    a  cached
    b  run: its last attempt failed (error): asked to fail
    c  after b: never ran here
    ");
    specs[0].3 = "file:missing";
    insta::assert_snapshot!(plan(dir, &specs), @r"
    a  blocked: cannot read [DIR]/missing: No such file or directory (os error 2)
    b  stuck: a
    c  stuck: a
    ");
}

/// The chain with only the records of these stages kept.
fn bare(dir: &Path, specs: &[Spec<'_>], names: &[&str]) -> Pipeline {
    let mut pipeline = pipeline(dir, specs);
    for node in pipeline.stages.iter_mut().filter(|node| names.contains(&node.name.as_str())) {
        node.options = Arc::new(StageOptions { keep: Keep::Metrics, ..StageOptions::default() });
    }
    pipeline
}

#[test]
fn files_that_were_removed_are_made_again_for_who_needs_them_and_the_plan_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let before = bare(dir, &CHAIN, &["a", "b"]);
    run_all(&before, &options(dir));
    insta::assert_snapshot!(plan_with(dir, &before, &Wish::all(&before)), @r"
    a  cached
    b  cached
    c  cached
    ");
    let mut specs = CHAIN;
    specs[2].2 = "drei";
    let after = bare(dir, &specs, &["a", "b"]);
    insta::assert_snapshot!(plan_with(dir, &after, &Wish::all(&after)), @r#"
    a  run: its files were removed (keep = "metrics"), and `b` needs them
    b  run: its files were removed (keep = "metrics"), and `c` needs them
    c  run: params.text: "three" -> "drei"
    "#);
    let (summary, _) = run_all(&after, &options(dir));
    assert_eq!(summary.executed, 3, "as the plan said");
    assert_eq!(log(dir).len(), 6);
    // Now all of `b` is to be kept.
    let kept = bare(dir, &specs, &["a"]);
    insta::assert_snapshot!(plan_with(dir, &kept, &Wish::all(&kept)), @r#"
    a  run: its files were removed (keep = "metrics"), and `b` needs them
    b  run: its files were removed, and now `keep` asks for them
    c  after b: upstream `b`: its files were removed, and now `keep` asks for them
    "#);
    let (summary, _) = run_all(&kept, &options(dir));
    assert_eq!(summary.executed, 2, "as the plan said");
}
