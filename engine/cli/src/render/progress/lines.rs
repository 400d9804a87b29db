//! Events as lines for people, thinned: a run of a thousand steps is about twenty lines.
//!
//! Unaware of terminals.
use anneal_engine::event::{Device, Stamped, Step};
use anneal_engine::{Event, FailureClass};
use std::collections::{BTreeMap, HashMap};
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
    /// What each stage's device last said.
    devices: HashMap<String, String>,
}

impl Lines {
    /// `width`: of the longest name; `steps`: also lines for steps and progress.
    pub(crate) fn new(width: usize, steps: bool) -> Self {
        Self { width, steps, told: HashMap::new(), devices: HashMap::new() }
    }

    /// A stage's name, as wide as the longest.
    pub(crate) fn name(&self, stage: &str) -> String {
        format!("{:width$}", clean(stage), width = self.width)
    }

    /// What is worth knowing of a stage's progress, with what its device last said.
    pub(crate) fn beside_device(&self, stage: &str, text: &str) -> String {
        let parts = [text, self.devices.get(stage).map_or("", String::as_str)];
        parts.iter().copied().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// The line, or lines, of an event that matters.
    pub(crate) fn line(&mut self, event: &Stamped) -> Option<String> {
        let stage = event.stage.as_deref().unwrap_or_default();
        let text = match &event.event {
            Event::StageStarted { reasons, .. } => {
                self.told.remove(stage);
                self.devices.remove(stage);
                format!("begins: {}", because(reasons))
            }
            Event::StageWaiting { .. } => "waits: another process works on it".to_owned(),
            Event::Step(taken) => {
                self.pass(stage, taken.step, taken.total, STEP_LINES)?;
                format!("step {}/{}, {}", taken.step, taken.total, self.beside_device(stage, &step(taken)))
            }
            Event::Progress { done, total, unit } => {
                self.pass(stage, *done, *total, PROGRESS_LINES)?;
                self.beside_device(stage, &format!("{done}/{total} {unit}"))
            }
            Event::EvalLoss { step, loss, seconds } => {
                format!("step {step}, eval loss {loss:.4} ({})", duration(*seconds))
            }
            Event::Checkpoint { step, resumed: true } => format!("goes on after step {step}"),
            Event::Note { warning, message } => format!("{}: {message}", if *warning { "warning" } else { "note" }),
            Event::StageFinished { seconds, peak_mib, metrics, .. } => {
                let peak = peak_mib.map(|mib| format!(", peak {mib:.0} MiB")).unwrap_or_default();
                format!("done in {}{peak}{}", duration(*seconds), on_gpu(metrics))
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
            // Told with the next line of progress; a line a second would bury everything else.
            Event::Device(now) => {
                self.devices.insert(stage.to_owned(), device(now));
                return None;
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

/// What a device does: `GPU 31.2/79.6 GiB, 98 %, 612 W`, as far as it tells.
fn device(now: &Device) -> String {
    let gib = |mib: f64| mib / 1024.0;
    let memory = match (now.used_mib, now.total_mib) {
        (Some(used), Some(total)) => Some(format!("{:.1}/{:.1} GiB", gib(used), gib(total))),
        (Some(used), None) => Some(format!("{:.1} GiB", gib(used))),
        (None, _) => None,
    };
    let told = [
        memory,
        now.utilisation_percent.map(|percent| format!("{percent:.0} %")),
        now.power_watts.map(|watts| format!("{watts:.0} W")),
    ];
    let told: Vec<String> = told.into_iter().flatten().collect();
    if told.is_empty() { String::new() } else { format!("GPU {}", told.join(", ")) }
}

/// What a finished stage measured of its GPU: `, GPU peak 9876 MiB, mean 95 %, 612 W`.
fn on_gpu(metrics: &BTreeMap<String, f64>) -> String {
    let value = |name: &str| metrics.get(name).copied();
    let told = [
        value("gpu_peak_mib").map(|mib| format!("peak {mib:.0} MiB")),
        value("gpu_mean_utilisation").map(|percent| format!("mean {percent:.0} %")),
        value("gpu_mean_power_watts").map(|watts| format!("{watts:.0} W")),
    ];
    let told: Vec<String> = told.into_iter().flatten().collect();
    if told.is_empty() { String::new() } else { format!(", GPU {}", told.join(", ")) }
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
