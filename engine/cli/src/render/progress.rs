//! How a run goes: bars for what runs and lines for what happened on a terminal, lines only elsewhere.
//!
//! Written to standard error, as well as it goes. Unaware of what events mean for the run.
mod lines;
#[cfg(test)]
mod tests;

pub(crate) use lines::{count, duration};

use crate::output;
use anneal_engine::Event;
use anneal_engine::event::Stamped;
use anneal_engine::graph::Pipeline;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lines::Lines;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

/// A running stage's bar and what it says of the stage's progress.
struct Bar {
    bar: ProgressBar,
    progress: String,
}

/// Shows events as they come.
pub(crate) struct Progress {
    lines: RefCell<Lines>,
    /// Bars of running stages; `None`: no terminal.
    bars: Option<(MultiProgress, RefCell<HashMap<String, Bar>>)>,
}

impl Progress {
    pub(crate) fn new(pipeline: &Pipeline, terminal: bool) -> Self {
        let width = pipeline.stages.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
        let bars = terminal.then(|| (MultiProgress::new(), RefCell::default()));
        // A bar shows steps; as lines they would only push it down.
        Self { lines: RefCell::new(Lines::new(width, !terminal)), bars }
    }

    pub(crate) fn show(&self, event: &Stamped) {
        let line = self.lines.borrow_mut().line(event);
        let Some((all, bars)) = &self.bars else {
            line.iter().for_each(|line| output::say(line));
            return;
        };
        // The bars step aside for a line.
        line.iter().for_each(|line| drop(all.println(line)));
        let Some(stage) = &event.stage else { return };
        let mut bars = bars.borrow_mut();
        match &event.event {
            Event::StageStarted { .. } => {
                let bar = all.add(ProgressBar::new_spinner());
                bar.set_style(style("{spinner} {prefix}  {elapsed}  {msg}"));
                bar.set_prefix(self.lines.borrow().name(stage));
                bar.enable_steady_tick(Duration::from_millis(120));
                bars.insert(stage.clone(), Bar { bar, progress: String::new() });
            }
            Event::StageFinished { .. } | Event::StageFailed { .. } => {
                if let Some(Bar { bar, .. }) = bars.remove(stage) {
                    bar.finish_and_clear();
                }
            }
            Event::Step(step) => self.advance(bars.get_mut(stage), stage, step.step, step.total, lines::step(step)),
            Event::Progress { done, total, unit } => {
                self.advance(bars.get_mut(stage), stage, *done, *total, unit.clone());
            }
            Event::Device(_) => {
                if let Some(Bar { bar, progress }) = bars.get(stage) {
                    bar.set_message(self.lines.borrow().beside_device(stage, progress));
                }
            }
            _ => {}
        }
    }

    fn advance(&self, bar: Option<&mut Bar>, stage: &str, done: u64, total: u64, now: String) {
        let Some(Bar { bar, progress }) = bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(style("{spinner} {prefix}  {bar:24} {pos}/{len}  {wide_msg}"));
        }
        bar.set_position(done);
        bar.set_message(self.lines.borrow().beside_device(stage, &now));
        *progress = now;
    }

    /// Clears the bars.
    pub(crate) fn finish(self) {
        if let Some((all, _)) = self.bars {
            let _ = all.clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are literals; a wrong one would only look plain.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
