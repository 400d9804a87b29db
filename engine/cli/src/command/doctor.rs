//! `anneal doctor`: whether this machine, the outputs folder and the data files are as a run needs them, and the next
//! step for whatever is not.
//!
//! Looks and tells; changes nothing but a probe that it removes again. Unaware of stages.
mod data;
mod machine;
mod outputs;

use super::Context;
use crate::args::Doctor;
use crate::exit::{Error, Exit};
use crate::output;
use anneal_engine::manifest::project_root;
use serde::Serialize;
use serde_json::json;
use std::path::Path;

/// How a finding is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Fine,
    /// Something that some runs need is not there.
    Missing,
    /// Runs will fail or be wrong.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    topic: &'static str,
    level: Level,
    text: String,
    /// The next step, where there is one to take.
    next: Option<String>,
}

impl Finding {
    fn fine(topic: &'static str, text: impl Into<String>) -> Self {
        Self { topic, level: Level::Fine, text: text.into(), next: None }
    }
    fn missing(topic: &'static str, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { topic, level: Level::Missing, text: text.into(), next: Some(next.into()) }
    }
    fn problem(topic: &'static str, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { topic, level: Level::Problem, text: text.into(), next: Some(next.into()) }
    }
}

pub(super) fn run(args: &Doctor, context: &Context) -> Result<Exit, Error> {
    // The root that a manifest in this folder would have.
    let root = project_root(Path::new("manifest.toml"));
    let outputs = args.outputs.outputs.clone().unwrap_or_else(|| root.join("outputs"));
    let mut findings = machine::look(context.registry.numerics(), &root);
    findings.extend(outputs::look(&outputs));
    findings.extend(data::look(&root, args.data.as_deref()));
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Fine);
    if args.json {
        output::print_json(&json!({ "level": worst, "findings": findings }))?;
    } else {
        output::print(&text(&findings))?;
    }
    Ok(if worst == Level::Problem { Exit::Input } else { Exit::Ok })
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.topic.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { topic, level, text: what, next } in findings {
        let mark = match level {
            Level::Fine => "fine",
            Level::Missing => "missing",
            Level::Problem => "PROBLEM",
        };
        text += &format!("{mark:<7}  {topic:<width$}  {what}\n");
        if let Some(next) = next {
            text += &format!("{:7}  {:width$}  next: {next}\n", "", "");
        }
    }
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, missing) = (count(Level::Problem), count(Level::Missing));
    let closing = match (problems, missing) {
        (0, 0) => "all is well".to_owned(),
        (0, missing) => format!("no problem; {missing} missing, which only some runs need"),
        (problems, missing) => format!("problems: {problems}, missing: {missing}"),
    };
    text + &format!("\n{closing}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_read_like_this() {
        let findings = [
            Finding::fine("cores", "2"),
            Finding::missing("data", "dev.json is not in data/big", "get it"),
            Finding::problem("outputs", "cannot write", "make room"),
        ];
        insta::assert_snapshot!(text(&findings), @r"
        fine     cores    2
        missing  data     dev.json is not in data/big
                          next: get it
        PROBLEM  outputs  cannot write
                          next: make room

        problems: 1, missing: 1
        ");
        insta::assert_snapshot!(text(&findings[..1]), @r"
        fine     cores  2

        all is well
        ");
    }
}
