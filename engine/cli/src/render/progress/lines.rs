//! Events as lines for people, thinned: a run of a thousand steps is about twenty lines.
//!
//! Unaware of terminals.
use anneal_engine::event::{Stamped, Step};
use anneal_engine::{Event, FailureClass};
use std::collections::HashMap;
use std::fmt::Write;

/// Lines of training steps in a stage, about.
const STEP_LINES: u64 = 20;
/// Lines of other progress in a stage.
const PROGRESS_LINES: u64 = 4;

/// Makes lines; remembers what it already said.
#[derive(Debug)]
pub(crate) struct Lines {
    width: usize,
    steps: bool,
    /// How far each stage was at its last line, in parts of its whole.
    told: HashMap<String, u64>,
}

impl Lines {
    /// `width`: of the longest name; `steps`: also lines for steps and progress.
    pub(crate) fn new(width: usize, steps: bool) -> Self {
        Self { width, steps, told: HashMap::new() }
    }

    /// A stage's name, as wide as the longest.
    pub(crate) fn name(&self, stage: &str) -> String {
        format!("{:width$}", clean(stage), width = self.width)
    }

    /// The line, or lines, of an event that matters.
    pub(crate) fn line(&mut self, event: &Stamped) -> Option<String> {
        let stage = event.stage.as_deref().unwrap_or_default();
        let text = match &event.event {
            Event::StageStarted { reasons, .. } => {
                self.told.remove(stage);
                format!("begins: {}", because(reasons))
            }
            Event::StageWaiting { .. } => "waits: another process works on it".to_owned(),
            Event::Step(taken) => {
                self.pass(stage, taken.step, taken.total, STEP_LINES)?;
                format!("step {}/{}, {}", taken.step, taken.total, step(taken))
            }
            Event::Progress { done, total, unit } => {
                self.pass(stage, *done, *total, PROGRESS_LINES)?;
                format!("{done}/{total} {unit}")
            }
            Event::EvalLoss { step, loss, seconds } => {
                format!("step {step}, eval loss {loss:.4} ({})", duration(*seconds))
            }
            Event::Checkpoint { step, resumed: true } => format!("goes on after step {step}"),
            Event::Note { warning, message } => format!("{}: {message}", if *warning { "warning" } else { "note" }),
            Event::StageFinished { seconds, peak_mib, .. } => {
                let peak = peak_mib.map(|mib| format!(", peak {mib:.0} MiB")).unwrap_or_default();
                format!("done in {}{peak}", duration(*seconds))
            }
            // Not a failure: somebody asked for it, and the summary says how to go on.
            Event::StageFailed { failure, .. } if failure.class == FailureClass::Interrupted => {
                format!("stopped: {}", failure.message)
            }
            Event::StageFailed { failure, .. } => {
                let mut text = format!("failed, {}: {}", failure.class, failure.message);
                if let Some(hint) = &failure.hint {
                    // Writing to a string does not fail.
                    let _ = write!(text, "\nhelp: {hint}");
                }
                text
            }
            Event::StageSkipped { because } => format!("skipped: {because} failed"),
            // The summary tells these.
            Event::RunStarted { .. }
            | Event::RunFinished { .. }
            | Event::StageCached { .. }
            | Event::Checkpoint { resumed: false, .. } => return None,
        };
        let lines: Vec<String> =
            text.lines().map(|line| format!("{}  {}", self.name(stage), clean(line)).trim_end().to_owned()).collect();
        Some(lines.join("\n"))
    }

    /// Whether a stage came into a new part of its whole since its last line; the first and the last always count.
    fn pass(&mut self, stage: &str, done: u64, total: u64, parts: u64) -> Option<()> {
        let part = done.saturating_mul(parts) / total.max(1);
        let news = self.told.insert(stage.to_owned(), part) != Some(part) || done == total;
        (self.steps && news).then_some(())
    }
}

/// What is worth knowing of a step, but for its number.
pub(crate) fn step(step: &Step) -> String {
    let left = step.total.saturating_sub(step.step) as f64 * step.seconds;
    format!("loss {:.4}, {:.0} tokens/s, {} left", step.loss, step.tokens_per_second, duration(left))
}

/// The first reasons; `explain` has them all.
fn because(reasons: &[String]) -> String {
    match reasons {
        [] => "no result yet".to_owned(),
        [one] => one.clone(),
        [one, two] => format!("{one}; {two}"),
        [one, two, rest @ ..] => format!("{one}; {two}; and {} more", rest.len()),
    }
}

/// Seconds for people: as precise as it matters.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds.max(0.0) * 1000.0);
    }
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours} h {minutes:02} min") } else { format!("{minutes} min {seconds:02} s") }
}

/// A number of things.
pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Without what would move a terminal's cursor.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
