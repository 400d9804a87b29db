//! Killed, stopped and damaged training runs: the next run goes on, and the adapter is that of a run without trouble,
//! bit for bit.
use crate::project::Project;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::OnceLock;

/// Long enough to be met in the middle, on any machine.
const STEPS: u64 = 40;
const MANIFEST: [&str; 5] = ["tiny.toml", "--only", "lora", "--set", "lora.max_steps=40"];

/// The digest of the adapter of a run without trouble, in a project of its own.
fn undisturbed() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| {
        let project = Project::new();
        project.run(&MANIFEST);
        adapter(&project, &[])
    })
}

/// The digest of the adapter that this project has.
fn adapter(project: &Project, args: &[&str]) -> String {
    project.digests(&[&MANIFEST[..1], &MANIFEST[3..], args].concat())["lora"].clone()
}

/// A run under way, whose events are read as they come.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    events: Vec<Value>,
}

impl Running {
    fn start(project: &Project, args: &[&str]) -> Self {
        let mut command = project.command(&[&["run", "--json"], &MANIFEST[..], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, events: Vec::new() }
    }

    /// Reads events until one of this type has reached this step.
    fn until(&mut self, kind: &str, step: u64) {
        for line in &mut self.lines {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let reached = event["stage"] == "lora" && is(&event, kind) && event["event"]["step"].as_u64() >= Some(step);
            self.events.push(event);
            if reached {
                return;
            }
        }
        panic!("the run ended before {kind} {step}: {:?}", self.events.last());
    }

    /// The process that trains.
    fn worker(&self) -> u32 {
        let started = self.events.iter().find(|event| event["stage"] == "lora" && is(event, "stage-started"));
        started.unwrap()["event"]["pid"].as_u64().unwrap() as u32
    }

    /// Reads the rest; returns the exit code and all events.
    fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let rest = self.lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        self.events.extend(rest);
        (self.child.wait().unwrap().code(), self.events)
    }
}

fn is(event: &Value, kind: &str) -> bool {
    event["event"]["type"] == kind
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// The training steps of a run.
fn steps(events: &[Value]) -> Vec<u64> {
    events.iter().filter(|e| is(e, "step")).map(|e| e["event"]["step"].as_u64().unwrap()).collect()
}

/// The step that a run went on from.
fn resumed(events: &[Value]) -> Option<u64> {
    let found = events.iter().find(|e| is(e, "checkpoint") && e["event"]["resumed"] == true);
    found.and_then(|event| event["event"]["step"].as_u64())
}

#[test]
fn a_killed_worker_resumes_at_its_checkpoint() {
    let project = Project::new();
    let mut run = Running::start(&project, &["--set", "lora.checkpoint_every=5"]);
    run.until("checkpoint", 10);
    run.until("step", 12);
    send(run.worker(), Signal::KILL);
    let (code, events) = run.end();
    assert_eq!(code, Some(1), "{:?}", events.last());
    let failed = events.iter().find(|event| is(event, "stage-failed")).unwrap();
    assert_eq!(failed["event"]["failure"]["class"], "signal");

    let (code, events) = Running::start(&project, &["--set", "lora.checkpoint_every=5"]).end();
    assert_eq!(code, Some(0));
    let from = resumed(&events).unwrap();
    assert!(from >= 10 && from.is_multiple_of(5), "{from}");
    assert_eq!(steps(&events), (from + 1..=STEPS).collect::<Vec<_>>());
    assert_eq!(adapter(&project, &["--set", "lora.checkpoint_every=5"]), undisturbed());
}

#[test]
fn a_killed_driver_leaves_a_worker_whose_result_is_used() {
    let project = Project::new();
    let mut run = Running::start(&project, &[]);
    run.until("step", 10);
    send(run.child.id(), Signal::KILL);
    // Its worker still holds the stream of events: only the driver's end is waited for.
    run.child.wait().unwrap();
    let (code, events) = Running::start(&project, &[]).end();
    assert_eq!(code, Some(0));
    assert!(events.iter().any(|event| is(event, "stage-waiting")), "the orphan is waited for");
    assert_eq!((steps(&events), resumed(&events)), (Vec::new(), None), "and not repeated");
    assert_eq!(adapter(&project, &[]), undisturbed());
}

#[test]
fn killed_together_they_resume_too() {
    let project = Project::new();
    let mut run = Running::start(&project, &["--set", "lora.checkpoint_every=7"]);
    run.until("checkpoint", 7);
    run.until("step", 9);
    send(run.child.id(), Signal::KILL);
    send(run.worker(), Signal::KILL);
    run.end();
    let (code, events) = Running::start(&project, &["--set", "lora.checkpoint_every=7"]).end();
    assert_eq!((code, resumed(&events).map(|step| step % 7)), (Some(0), Some(0)));
    assert_eq!(adapter(&project, &["--set", "lora.checkpoint_every=7"]), undisturbed());
}

#[test]
fn ctrl_c_between_checkpoints_goes_on_at_the_very_step() {
    for signal in [Signal::INT, Signal::TERM] {
        let project = Project::new();
        let mut run = Running::start(&project, &[]);
        run.until("step", 7);
        send(run.child.id(), signal);
        let (code, events) = run.end();
        assert_eq!(code, Some(4), "the code of `interrupted`");
        assert!(is(events.last().unwrap(), "run-finished") && events.last().unwrap()["event"]["interrupted"] == true);
        let before = steps(&events);

        let (code, events) = Running::start(&project, &[]).end();
        assert_eq!(code, Some(0));
        assert_eq!(resumed(&events), before.last().copied());
        let all: Vec<u64> = before.into_iter().chain(steps(&events)).collect();
        assert_eq!(all, (1..=STEPS).collect::<Vec<_>>(), "every step once");
        assert_eq!(adapter(&project, &[]), undisturbed());
    }
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_loses_nothing() {
    let project = Project::new();
    let mut run = Running::start(&project, &["--set", "lora.checkpoint_every=5"]);
    run.until("checkpoint", 5);
    send(run.child.id(), Signal::INT);
    std::thread::sleep(std::time::Duration::from_millis(2));
    send(run.child.id(), Signal::INT);
    assert_eq!(run.end().0, Some(4));
    let (code, events) = Running::start(&project, &["--set", "lora.checkpoint_every=5"]).end();
    assert_eq!(code, Some(0));
    assert!(resumed(&events).is_some());
    assert_eq!(adapter(&project, &["--set", "lora.checkpoint_every=5"]), undisturbed());
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let project = Project::new();
    let mut run = Running::start(&project, &[]);
    run.until("step", 7);
    send(run.child.id(), Signal::INT);
    run.end();
    let mut damaged = 0;
    for key in std::fs::read_dir(project.path("outputs/objects-v1/checkpoints")).unwrap() {
        for step in std::fs::read_dir(key.unwrap().path()).unwrap() {
            let state = step.unwrap().path().join("state.safetensors");
            let bytes = std::fs::read(&state).unwrap();
            std::fs::write(&state, &bytes[..bytes.len() - 100]).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    let (code, events) = Running::start(&project, &[]).end();
    assert_eq!((code, resumed(&events)), (Some(0), None));
    let warned =
        |e: &Value| is(e, "note") && e["event"]["message"].as_str().unwrap().contains("checkpoint was passed over");
    assert!(events.iter().any(warned), "it is told");
    assert_eq!(adapter(&project, &[]), undisturbed());
}
