//! The scheduler with stages in this process: what runs, what is found, what is skipped, and what is told.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod fake;

use anneal_engine::event::{Event, Stamped};
use anneal_engine::run::{Outcome, RunSummary, run};
use anneal_engine::{Failure, FailureClass};
use fake::{Spec, log, options, pipeline, run_all, walk};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn outcome(summary: &RunSummary, name: &str) -> Outcome {
    summary.stages.iter().find(|stage| stage.name == name).unwrap().outcome.clone()
}

fn failure(summary: &RunSummary, name: &str) -> Failure {
    match outcome(summary, name) {
        Outcome::Failed(failure, _) => failure,
        other => panic!("{name} must fail: {other:?}"),
    }
}

fn reasons(events: &[Stamped], name: &str) -> Vec<String> {
    let started = events.iter().find_map(|event| match &event.event {
        Event::StageStarted { reasons, .. } if event.stage.as_deref() == Some(name) => Some(reasons.clone()),
        _ => None,
    });
    started.unwrap()
}

const CHAIN: [Spec<'_>; 3] =
    [("a", "fake", "one", "", &[]), ("b", "fake", "two", "", &["a"]), ("c", "fake", "three", "", &["b"])];

#[test]
fn a_second_run_executes_nothing_and_everything_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path(), &CHAIN);
    let (first, events) = run_all(&pipeline, &options(dir.path()));
    assert_eq!((first.executed, first.cached, first.failed, first.skipped), (3, 0, 0, 0));
    let (second, told) = run_all(&pipeline, &options(dir.path()));
    assert_eq!((second.executed, second.cached), (0, 3));
    // What is found is told, and leaves no folder behind.
    assert_eq!(told.iter().filter(|event| matches!(event.event, Event::StageCached { .. })).count(), 3);
    assert_eq!(second.folder, None);
    assert_eq!(std::fs::read_dir(dir.path().join("outputs/runs")).unwrap().count(), 1);
    let folder = first.folder.unwrap();
    assert_eq!(log(dir.path()), ["a:one", "b:two", "c:three"]);
    let written = std::fs::read_to_string(folder.join("events.jsonl")).unwrap();
    let read: Vec<Stamped> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, events);
    let manifest = std::fs::read_to_string(folder.join("manifest.toml")).unwrap();
    assert_eq!(manifest, "# --set a.text=1\n# a test\n");
    let resolved: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("resolved.json")).unwrap()).unwrap();
    assert_eq!(resolved["stages"]["b"]["inputs"]["a"], "a");
    let text = std::fs::read_to_string(dir.path().join("outputs/latest/test/c/result.txt")).unwrap();
    assert_eq!(text, "threetwoone");
    assert_eq!(walk(&dir.path().join("outputs")), 3);
}

#[test]
fn a_change_runs_what_depends_on_its_content_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    run_all(&pipeline(dir.path(), &CHAIN), &options(dir.path()));
    let mut specs = CHAIN;
    specs[1].2 = "zwei";
    let (summary, events) = run_all(&pipeline(dir.path(), &specs), &options(dir.path()));
    assert_eq!((summary.executed, summary.cached), (2, 1));
    assert_eq!(reasons(&events, "b"), [r#"params.text: "two" -> "zwei""#]);
    assert!(reasons(&events, "c")[0].starts_with("inputs.a: "), "{:?}", reasons(&events, "c"));
    // Back again: everything is still there.
    let (summary, _) = run_all(&pipeline(dir.path(), &CHAIN), &options(dir.path()));
    assert_eq!((summary.executed, summary.cached), (0, 3));
}

#[test]
fn equal_bytes_stop_the_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut specs = CHAIN;
    specs[0].3 = "same";
    run_all(&pipeline(dir.path(), &specs), &options(dir.path()));
    specs[0].2 = "uno";
    let (summary, _) = run_all(&pipeline(dir.path(), &specs), &options(dir.path()));
    assert_eq!((summary.executed, summary.cached), (1, 2));
}

#[test]
fn equal_keys_execute_once() {
    let dir = tempfile::tempdir().unwrap();
    let specs: [Spec<'_>; 4] = [
        ("a", "fake", "t", "sleep:50", &[]),
        ("b", "fake", "t", "sleep:50", &[]),
        ("c", "fake", "u", "", &["a", "b"]),
        ("d", "fake", "u", "", &["b", "a"]),
    ];
    let (summary, _) = run_all(&pipeline(dir.path(), &specs), &options(dir.path()));
    assert_eq!((summary.executed, summary.cached, log(dir.path()).len()), (2, 2, 2));
    let specs: [Spec<'_>; 2] = [("a", "fake", "t", "fail", &[]), ("b", "fake", "t", "fail", &[])];
    let (summary, _) = run_all(&pipeline(dir.path(), &specs), &options(dir.path()));
    assert_eq!(summary.failed, 2);
    assert_eq!(log(dir.path()).len(), 3);
}

#[test]
fn a_failure_skips_its_dependents_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let specs: [Spec<'_>; 5] = [
        ("bad", "fake", "x", "fail", &[]),
        ("after", "fake", "y", "", &["bad"]),
        ("later", "fake", "y", "", &["after", "good"]),
        ("good", "fake", "z", "sleep:30", &[]),
        ("fine", "fake", "z", "", &["good"]),
    ];
    let pipeline = pipeline(dir.path(), &specs);
    let (summary, events) = run_all(&pipeline, &options(dir.path()));
    assert_eq!((summary.executed, summary.failed, summary.skipped), (2, 1, 2));
    assert_eq!(failure(&summary, "bad"), Failure::user("asked to fail").hint("do not ask"));
    assert_eq!(outcome(&summary, "later"), Outcome::Skipped { because: "bad".to_owned() });
    assert_eq!(events.iter().filter(|e| matches!(e.event, Event::StageSkipped { .. })).count(), 2);
    // Tried again, since the user may have mended it; with `keep_going` off, nothing begins after it.
    let stopping = anneal_engine::run::Options { keep_going: false, jobs: Some(1), ..options(dir.path()) };
    std::fs::remove_dir_all(dir.path().join("outputs")).unwrap();
    let (summary, _) = run_all(&pipeline, &stopping);
    assert_eq!((summary.executed, summary.failed, summary.skipped), (0, 1, 4));
}

#[test]
fn a_panic_is_a_bug_and_stays_inside_its_stage() {
    let dir = tempfile::tempdir().unwrap();
    let specs: [Spec<'_>; 2] = [("bad", "fake", "x", "panic", &[]), ("good", "fake", "y", "", &[])];
    let (summary, _) = run_all(&pipeline(dir.path(), &specs), &options(dir.path()));
    assert_eq!(summary.executed, 1);
    assert_eq!(failure(&summary, "bad"), Failure::bug("stage `bad` panicked: asked to panic"));
}

#[test]
fn a_nan_is_not_run_again_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path(), &[("a", "fake", "x", "nan", &[])]);
    for _ in 0..2 {
        let (summary, _) = run_all(&pipeline, &options(dir.path()));
        assert_eq!(failure(&summary, "a").class, FailureClass::Nan);
    }
    let (summary, _) = run_all(&pipeline, &options(dir.path()));
    let failure = failure(&summary, "a");
    insta::assert_snapshot!(failure.message, @"loss is NaN at step 3 (from an earlier run; not tried again)");
    insta::assert_snapshot!(failure.hint.unwrap(), @"change a parameter, or try again with --retry nan or --force a");
    assert_eq!(log(dir.path()).len(), 1);
    let forced = anneal_engine::run::Options { force: vec!["a".to_owned()], ..options(dir.path()) };
    run_all(&pipeline, &forced);
    assert_eq!(log(dir.path()).len(), 2);
}

#[test]
fn only_runs_what_is_named_and_what_it_needs_and_force_executes_again() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path(), &CHAIN);
    let only = anneal_engine::run::Options { only: vec!["b".to_owned()], ..options(dir.path()) };
    let (summary, _) = run_all(&pipeline, &only);
    assert_eq!((summary.executed, outcome(&summary, "c")), (2, Outcome::NotStarted));
    let forced = anneal_engine::run::Options { force: vec!["b".to_owned()], ..options(dir.path()) };
    let (summary, events) = run_all(&pipeline, &forced);
    assert_eq!((summary.executed, summary.cached), (2, 1));
    assert_eq!(reasons(&events, "b"), ["asked for with --force"]);
    let unknown = anneal_engine::run::Options { only: vec!["d".to_owned()], ..options(dir.path()) };
    let failure = run(&pipeline, &unknown, &|_| {}).unwrap_err();
    insta::assert_snapshot!(failure, @"test.toml has no stage `d`");
    insta::assert_snapshot!(failure.hint.unwrap(), @"its stages are a, b, c");
}

#[test]
fn a_damaged_result_is_made_again_and_the_reason_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path(), &CHAIN);
    run_all(&pipeline, &options(dir.path()));
    std::fs::remove_file(dir.path().join("outputs/latest/test/b/result.txt")).unwrap();
    let (summary, events) = run_all(&pipeline, &options(dir.path()));
    assert_eq!((summary.executed, summary.cached), (1, 2));
    assert!(reasons(&events, "b")[0].contains("result.txt is not there any more"));
    walk(&dir.path().join("outputs"));
}

#[test]
fn a_source_is_watched_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let specs: [Spec<'_>; 2] = [("a", "fake", "", "file:data file", &[]), ("b", "fake", "", "", &["a"])];
    let pipeline = pipeline(dir.path(), &specs);
    let (summary, _) = run_all(&pipeline, &options(dir.path()));
    let failure = failure(&summary, "a");
    assert!(failure.message.contains("data file"), "{failure}");
    for (text, executed) in [("one", 2), ("one", 0), ("two", 1), ("one", 0)] {
        std::fs::write(dir.path().join("data file"), text).unwrap();
        let (summary, _) = run_all(&pipeline, &options(dir.path()));
        assert_eq!(summary.executed, if executed == 1 { 2 } else { executed }, "{text}");
    }
}

#[test]
fn a_stopped_run_keeps_what_is_done_and_resumes_inside_its_stage() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path(), &[("a", "fake", "x", "steps:30", &[]), ("b", "fake", "y", "", &["a"])]);
    let first = options(dir.path());
    let summary = run(&pipeline, &first, &|event| {
        if matches!(&event.event, Event::Step(step) if step.step == 5) {
            first.stop.request();
        }
    })
    .unwrap();
    assert!(summary.interrupted);
    assert_eq!(outcome(&summary, "a"), Outcome::Interrupted);
    assert_eq!(outcome(&summary, "b"), Outcome::NotStarted);
    assert_eq!((summary.failed, summary.skipped), (0, 1));
    let (summary, events) = run_all(&pipeline, &options(dir.path()));
    assert_eq!(summary.executed, 2);
    let resumed = events.iter().find_map(|e| match e.event {
        Event::Checkpoint { step, resumed: true } => Some(step),
        _ => None,
    });
    assert!(resumed.is_some_and(|step| step >= 5));
    let key = summary.stages[0].key.unwrap();
    assert!(!dir.path().join(format!("outputs/objects-v1/checkpoints/{key}")).exists());
    // The steps of both runs make one curve.
    let steps = anneal_engine::recording::steps(&dir.path().join("outputs"), &[key]);
    assert_eq!(steps[&key].iter().map(|step| step.step).collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
}

#[test]
fn an_outputs_folder_that_cannot_be_is_an_error_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("outputs"), "a file").unwrap();
    let failure = run(&pipeline(dir.path(), &CHAIN), &options(dir.path()), &|_| {}).unwrap_err();
    assert!(failure.message.contains("outputs"), "{failure}");
}

/// Stages of a random graph: the inputs of each are among those before it.
fn graphs() -> impl Strategy<Value = Vec<(u8, Vec<usize>)>> {
    proptest::collection::vec((0u8..4, proptest::collection::vec(any::<proptest::sample::Index>(), 0..=3)), 1..12)
        .prop_map(|stages| {
            let inputs = |at: usize, picks: Vec<proptest::sample::Index>| {
                picks.iter().filter(|_| at > 0).map(|pick| pick.index(at)).collect()
            };
            stages.into_iter().enumerate().map(|(at, (text, picks))| (text, inputs(at, picks))).collect()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_graph_runs_each_stage_after_its_inputs_and_each_key_once(graph in graphs(), jobs in 1usize..4) {
        let dir = tempfile::tempdir().unwrap();
        // Listed backwards, so that the order of the manifest is no help.
        let names: Vec<String> = (0..graph.len()).map(|i| format!("s{i}")).collect();
        let texts: Vec<String> = graph.iter().map(|(text, _)| text.to_string()).collect();
        let inputs: Vec<Vec<&str>> =
            graph.iter().map(|(_, from)| from.iter().map(|i| names[*i].as_str()).collect()).collect();
        let specs: Vec<Spec<'_>> =
            (0..graph.len()).rev().map(|i| (names[i].as_str(), "fake", texts[i].as_str(), "", &inputs[i][..])).collect();
        let pipeline = pipeline(dir.path(), &specs);
        let options = anneal_engine::run::Options { jobs: Some(jobs), ..options(dir.path()) };
        let (summary, events) = run_all(&pipeline, &options);
        prop_assert_eq!(summary.executed + summary.cached, graph.len());
        let keys: std::collections::BTreeSet<_> = summary.stages.iter().map(|stage| stage.key.unwrap()).collect();
        prop_assert_eq!(summary.executed, keys.len());
        prop_assert_eq!(log(dir.path()).len(), keys.len());
        let mut done: BTreeMap<&str, usize> = BTreeMap::new();
        let mut running = 0usize;
        for event in &events {
            let name = event.stage.as_deref().unwrap_or_default();
            match event.event {
                Event::StageStarted { .. } | Event::StageCached { .. } => {
                    let at: usize = name[1..].parse().unwrap();
                    prop_assert!(graph[at].1.iter().all(|from| done.contains_key(names[*from].as_str())));
                    running += usize::from(matches!(event.event, Event::StageStarted { .. }));
                    // Beside those that compute, as many may be making their results durable.
                    let most = if jobs > 1 { 2 * jobs } else { 1 };
                    prop_assert!(running <= most);
                    if matches!(event.event, Event::StageCached { .. }) {
                        *done.entry(name).or_default() += 1;
                    }
                }
                Event::StageFinished { .. } => {
                    running -= 1;
                    *done.entry(name).or_default() += 1;
                }
                _ => {}
            }
        }
        prop_assert!(done.len() == graph.len() && done.values().all(|times| *times == 1));
        let (again, _) = run_all(&pipeline, &options);
        prop_assert_eq!((again.executed, again.cached), (0, graph.len()));
        walk(&dir.path().join("outputs"));
    }
}
