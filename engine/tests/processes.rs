//! Workers, drivers and crashes: this program is test runner, driver and worker in one, told apart by its first
//! argument, so that processes can be killed for real.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod fake;

use anneal_engine::failpoint::area;
use anneal_engine::run::{Options, Outcome, RunSummary, run};
use anneal_engine::stop::Stop;
use anneal_engine::{Failure, FailureClass};
use fake::{Spec, log, options, pipeline, registry, run_all, walk};
use libtest_mimic::{Arguments, Trial};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("worker") => {
            let code = anneal_engine::worker::serve(Path::new(&args[2]), &registry(), std::io::stdout());
            std::process::exit(i32::from(code));
        }
        Some("driver") => driver(Path::new(&args[2]), &args[3]),
        _ => {}
    }
    let tests: [(&str, fn()); 10] = [
        ("a_worker_publishes_measures_and_logs", a_worker_publishes_measures_and_logs),
        ("ends_are_classified_by_evidence", ends_are_classified_by_evidence),
        ("a_killed_worker_resumes", a_killed_worker_resumes),
        ("an_orphan_finishes_for_the_next_driver", an_orphan_finishes_for_the_next_driver),
        ("two_drivers_execute_each_key_once", two_drivers_execute_each_key_once),
        ("ctrl_c_stops_and_the_next_run_resumes", ctrl_c_stops_and_the_next_run_resumes),
        ("a_second_ctrl_c_ends_at_once", a_second_ctrl_c_ends_at_once),
        ("a_crash_at_any_step_leaves_nothing_half", a_crash_at_any_step_leaves_nothing_half),
        ("a_crash_while_mending_leaves_nothing_half", a_crash_while_mending_leaves_nothing_half),
        ("a_full_or_closed_disk_is_told_and_survived", a_full_or_closed_disk_is_told_and_survived),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

/// The pipelines that a driver process can run.
fn specs(name: &str) -> Vec<Spec<'static>> {
    match name {
        "chain" => vec![("a", "fake", "one", "", &[]), ("b", "fake", "two", "", &["a"])],
        "workers" => vec![("a", "fake-worker", "one", "", &[]), ("b", "fake-worker", "two", "", &["a"])],
        "slow" => vec![("a", "fake-worker", "one", "sleep:700", &[]), ("b", "fake", "two", "", &["a"])],
        "steps" => vec![("a", "fake-worker", "one", "steps:60", &[]), ("b", "fake", "two", "", &["a"])],
        "wide" => vec![
            ("a", "fake-worker", "1", "sleep:40", &[]),
            ("b", "fake", "2", "sleep:40", &[]),
            ("c", "fake-worker", "3", "sleep:40", &["a"]),
            ("d", "fake", "4", "sleep:40", &["a", "b"]),
            ("e", "fake", "5", "", &["c", "d"]),
            ("f", "fake-worker", "6", "", &["d"]),
        ],
        other => panic!("no pipeline {other}"),
    }
}

/// Runs a pipeline; exits with 0, 1 (a stage failed) or 130 (interrupted).
fn driver(dir: &Path, name: &str) -> ! {
    let options = Options { stop: Stop::on_signals().unwrap(), ..options(dir) };
    let code = match run(&pipeline(dir, &specs(name)), &options, &|_| {}) {
        Ok(summary) if summary.interrupted => 130,
        Ok(summary) if summary.executed + summary.cached == summary.stages.len() => 0,
        Ok(_) | Err(_) => 1,
    };
    std::process::exit(code)
}

fn start(dir: &Path, name: &str, failpoint: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["driver".as_ref(), dir.as_os_str(), name.as_ref()])
        .env("ANNEAL_FAILPOINT", failpoint)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn drive(dir: &Path, name: &str, failpoint: &str) -> ExitStatus {
    start(dir, name, failpoint).wait().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

fn wait_until(what: &str, mut test: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !test() {
        assert!(begin.elapsed() < Duration::from_secs(30), "timeout: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn failed(summary: &RunSummary) -> Failure {
    match &summary.stages[0].outcome {
        Outcome::Failed(failure, _) => failure.clone(),
        other => panic!("it must fail: {other:?}"),
    }
}

fn a_worker_publishes_measures_and_logs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let pipeline =
        pipeline(dir, &[("a", "fake-worker", "x", "print", &[]), ("b", "fake-worker", "", "spike:96", &["a"])]);
    let (summary, _) = run_all(&pipeline, &options(dir));
    assert_eq!(summary.executed, 2, "{summary:?}");
    let record = summary.stages[1].record.clone().unwrap();
    assert_ne!(record.pid, std::process::id());
    assert_eq!(record.metrics["em"], 0.0);
    assert!(record.peak_mib.is_some_and(|mib| mib > 1.0));
    let said = std::fs::read_to_string(summary.folder.unwrap().join("a.log")).unwrap();
    assert!(said.contains("not an event"), "{said}");
    assert_eq!(run_all(&pipeline, &options(dir)).0.cached, 2);
    assert_eq!(std::fs::read_dir(dir.join("outputs/objects-v1/tmp")).unwrap().count(), 0);
}

fn ends_are_classified_by_evidence() {
    for (act, class, words, runs) in [
        ("fail", FailureClass::User, "asked to fail", 2),
        ("nan", FailureClass::Nan, "loss is NaN", 1),
        ("panic", FailureClass::Bug, "asked to panic", 2),
        ("abort", FailureClass::Signal, "signal 6", 2),
        ("kill", FailureClass::Signal, "signal 9", 2),
        ("alloc", FailureClass::Oom, "memory allocation of", 1),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let pipeline = pipeline(dir.path(), &[("a", "fake-worker", "x", act, &[])]);
        for _ in 0..2 {
            let failure = failed(&run_all(&pipeline, &options(dir.path())).0);
            assert_eq!(failure.class, class, "{act}: {failure:?}");
            assert!(failure.message.contains(words), "{act}: {failure}");
        }
        assert_eq!(log(dir.path()).len(), runs, "{act}");
        walk(&dir.path().join("outputs"));
    }
}

fn a_killed_worker_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path(), &specs("steps"));
    let pid = std::cell::Cell::new(0);
    let summary = run(&pipeline, &options(dir.path()), &|event| match &event.event {
        anneal_engine::Event::StageStarted { pid: started, .. } => pid.set(*started as i32),
        anneal_engine::Event::Step(step) if step.step == 10 => {
            let _ = kill_process(Pid::from_raw(pid.get()).unwrap(), Signal::KILL);
        }
        _ => {}
    })
    .unwrap();
    assert_eq!(failed(&summary).class, FailureClass::Signal);
    let (summary, events) = run_all(&pipeline, &options(dir.path()));
    assert_eq!(summary.executed, 2);
    let steps = events.iter().filter(|e| matches!(e.event, anneal_engine::Event::Step(_))).count();
    assert!(steps <= 51, "{steps} steps after ten were done");
}

fn an_orphan_finishes_for_the_next_driver() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = start(dir.path(), "slow", "");
    wait_until("the worker begins", || !log(dir.path()).is_empty());
    signal(&first, Signal::KILL);
    first.wait().unwrap();
    let (summary, events) = run_all(&pipeline(dir.path(), &specs("slow")), &options(dir.path()));
    assert_eq!((summary.executed, summary.cached), (1, 1));
    assert!(events.iter().any(|e| matches!(e.event, anneal_engine::Event::StageWaiting { .. })));
    assert_eq!(log(dir.path()), ["a:one", "b:two"]);
    walk(&dir.path().join("outputs"));
}

fn two_drivers_execute_each_key_once() {
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let drivers: Vec<Child> = (0..4).map(|_| start(dir.path(), "wide", "")).collect();
        for mut driver in drivers {
            assert_eq!(driver.wait().unwrap().code(), Some(0));
        }
        assert_eq!(log(dir.path()), ["a:1", "b:2", "c:3", "d:4", "e:5", "f:6"]);
        assert_eq!(walk(&dir.path().join("outputs")), 6);
    }
}

fn ctrl_c_stops_and_the_next_run_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = start(dir.path(), "steps", "");
    wait_until("the worker begins", || !log(dir.path()).is_empty());
    std::thread::sleep(Duration::from_millis(100));
    let begin = Instant::now();
    signal(&first, Signal::INT);
    assert_eq!(first.wait().unwrap().code(), Some(130));
    assert!(begin.elapsed() < Duration::from_millis(400), "{:?}", begin.elapsed());
    let (summary, events) = run_all(&pipeline(dir.path(), &specs("steps")), &options(dir.path()));
    assert_eq!(summary.executed, 2);
    let resumed = |e: &anneal_engine::Event| matches!(e, anneal_engine::Event::Checkpoint { resumed: true, .. });
    assert!(events.iter().any(|e| resumed(&e.event)));
}

fn a_second_ctrl_c_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // It sleeps through the first wish.
    let long: [Spec<'_>; 1] = [("a", "fake-worker", "x", "sleep:60000", &[])];
    let options = options(dir.path());
    let stop = options.stop.clone();
    let begin = Instant::now();
    let summary = run(&pipeline(dir.path(), &long), &options, &|event| {
        if matches!(event.event, anneal_engine::Event::StageStarted { .. }) {
            let stop = stop.clone();
            std::thread::spawn(move || {
                stop.request();
                std::thread::sleep(Duration::from_millis(100));
                stop.request();
            });
        }
    })
    .unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(summary.stages[0].outcome, Outcome::Interrupted);
    wait_until("the worker is gone and its lease free", || {
        anneal_engine::store::Store::open(&dir.path().join("outputs")).unwrap().sweep() > 0
            || std::fs::read_dir(dir.path().join("outputs/objects-v1/tmp")).unwrap().count() == 0
    });
}

/// The points of the commit protocol that any result passes; those for files outside and for damaged trees aside.
fn protocol() -> Vec<&'static str> {
    let mut points = area("commit");
    points.retain(|point| !["reference-link", "tree-exchange"].contains(point));
    assert!(points.len() > 10, "{points:?}");
    points
}

/// For every point of the protocol and both ways to execute: die there, look, run again.
fn a_crash_at_any_step_leaves_nothing_half() {
    for name in ["chain", "workers"] {
        for point in protocol() {
            let dir = tempfile::tempdir().unwrap();
            let outputs = dir.path().join("outputs");
            let status = drive(dir.path(), name, &format!("{point}=kill"));
            assert!(!status.success() || name == "workers", "{point} was never passed");
            let before = walk(&outputs);
            assert!(drive(dir.path(), name, "").success(), "{name} {point}");
            assert_eq!(walk(&outputs), 2, "{name} {point}");
            assert_eq!(std::fs::read_dir(outputs.join("objects-v1/tmp")).unwrap().count(), 0, "{name} {point}");
            // What had its record before the crash did not run again.
            assert!(log(dir.path()).len() <= 4 - before, "{name} {point} {:?}", log(dir.path()));
        }
    }
}

fn a_crash_while_mending_leaves_nothing_half() {
    for point in [protocol(), vec!["tree-exchange"]].concat() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = dir.path().join("outputs");
        assert!(drive(dir.path(), "chain", "").success());
        std::fs::remove_file(outputs.join("latest/test/a/result.txt")).unwrap();
        drive(dir.path(), "chain", &format!("{point}=kill"));
        assert!(drive(dir.path(), "chain", "").success(), "{point}");
        assert_eq!(walk(&outputs), 2, "{point}");
    }
}

fn a_full_or_closed_disk_is_told_and_survived() {
    for error in ["enospc", "eacces"] {
        for name in ["chain", "workers"] {
            // After the record is in place, trouble no longer fails the stage.
            let fails =
                |point: &&str| !["indexed", "failure-forget"].contains(point) && !point.starts_with("checkpoints");
            for point in protocol().into_iter().filter(fails) {
                let dir = tempfile::tempdir().unwrap();
                let outputs = dir.path().join("outputs");
                let status = drive(dir.path(), name, &format!("{point}={error}"));
                assert_eq!(status.code(), Some(1), "{name} {point} {error}");
                walk(&outputs);
                assert!(drive(dir.path(), name, "").success(), "{name} {point} {error}");
                assert_eq!(walk(&outputs), 2);
            }
        }
    }
}
