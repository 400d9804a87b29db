//! Stage `command`: any program as a stage. What it reads is declared, what it writes becomes the artifact.
//!
//! The program works in a folder that is thrown away, with copies of the declared files at their relative paths and a
//! small, known environment, so that a forgotten declaration shows at the first run and not on another machine. Unaware
//! of what programs do, and of how the engine ends them with the run.
mod child;
mod environment;
mod files;
mod inputs;
mod listen;
mod metrics;
mod outputs;
mod template;
#[cfg(test)]
mod tests;
mod verdict;

use crate::artifact::FILES;
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, Param, ParamSet, Port, Source, Stage, StageContext};
use rustix::fs::{Access, access};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use template::Places;

anneal_engine::params! {
    /// Parameters of `command`.
    pub struct CommandParams {
        /// The program and its arguments; no shell reads them. `{out}`, `{input:NAME}`, `{root}`, `{work}` and `{seed}`
        /// stand for the folder to write into, an input's folder, the project root, the folder it works in and the
        /// seed; `{{` and `}}` are braces.
        command: Vec<String>;
        /// Files or folders of the project that it reads; their content enters the key, and the program finds copies of
        /// them at the same relative paths.
        files: Vec<PathBuf> = [];
        /// Variables set for it; placeholders as in `command`.
        env: BTreeMap<String, String> = {};
        /// What becomes the artifact: files, and folders with a `/` at the end; by default all that was written to
        /// `{out}`.
        outputs: Option<Vec<String>>;
    }
}

/// The stage kind `command`.
#[derive(Debug)]
pub struct RunCommand;

impl Stage for RunCommand {
    fn kind(&self) -> &'static str {
        "command"
    }
    fn summary(&self) -> &'static str {
        "runs any program; what it writes becomes the artifact"
    }
    /// 1: first.
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        CommandParams::params()
    }
    fn inputs(&self) -> &'static [Port] {
        &[]
    }
    fn open_inputs(&self) -> bool {
        true
    }
    fn output(&self, _: &Value) -> &'static str {
        FILES
    }
    // A worker would take longer to start than many a program takes in all.
    fn isolated(&self) -> bool {
        false
    }

    fn check(&self, params: &Value, connected: &[&str]) -> Vec<Problem> {
        read(params).map(|params| params.check(connected)).unwrap_or_default()
    }

    fn sources_below(&self, root: &Path, params: &Value) -> Result<Vec<Source>, Vec<Problem>> {
        read(params).map_or_else(|| Ok(Vec::new()), |params| params.sources(root))
    }

    fn examine(
        &self,
        root: &Path,
        params: &Value,
        connected: &[&str],
        files: bool,
    ) -> Result<Vec<Source>, Vec<Problem>> {
        let Some(params) = read(params) else { return Ok(Vec::new()) };
        let found = params.check(connected);
        match (found.is_empty(), files) {
            (false, _) => Err(found),
            (true, false) => Ok(Vec::new()),
            (true, true) => params.sources(root),
        }
    }

    fn sources_depend_on(&self) -> Option<&'static [&'static str]> {
        // Of the command its program, which may have to be among the files.
        Some(&["command", "files"])
    }

    fn follows_from_sources(&self, params: &Value, sources: &[Source]) -> bool {
        // In a folder, files may come and go.
        let plain = |path: &PathBuf| sources.iter().any(|source| source.path == *path);
        read(params).is_some_and(|params| params.files.iter().all(plain))
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: CommandParams = context.params()?;
        let work = context.launch.scratch.join("work");
        std::fs::create_dir_all(&work).map_err(|e| Failure::io("create", &work, &e))?;
        files::lay(&work, context.sources)?;
        let places = Places {
            out: context.out,
            root: context.launch.root,
            work: &work,
            seed: context.seed,
            inputs: context.inputs,
        };
        let before = inputs::stamps(context.inputs)?;
        let words: Vec<_> =
            params.command.iter().map(|text| template::fill(text, &places)).collect::<Result<_, _>>()?;
        let [program, arguments @ ..] = words.as_slice() else {
            return Err(Failure::bug(format!("stage `{}` has no program", context.name)));
        };
        let path = environment::path(&params.env, &places)?;
        let mut command = Command::new(located(program, &work, path.as_deref()));
        command.arg0(program).args(arguments).current_dir(&work).stdin(Stdio::null());
        environment::set(&mut command, &params.env, &places, context.launch.scratch)?;

        let ended =
            child::run(&mut command, context, child::GRACE).map_err(|e| verdict::not_started(program, &command, &e))?;
        verdict::judge(context, program, &ended)?;
        inputs::unchanged(context, &before)?;
        let left = outputs::take(context, params.outputs.as_deref())?;
        if !left.is_empty() {
            context.note(format!("left behind, not among its outputs: {}", left.join(", ")));
        }
        for complaint in &ended.complaints {
            context.warn(complaint.clone());
        }
        for (name, value) in &ended.metrics {
            context.metric(name, *value);
        }
        Ok(())
    }
}

impl CommandParams {
    /// What is wrong with them.
    fn check(&self, connected: &[&str]) -> Vec<Problem> {
        let mut found = Vec::new();
        match self.command.first().map(String::as_str) {
            None => found.push(problem("command", "`command` is empty", "name a program and its arguments")),
            Some("") => {
                found.push(problem("command", "the program's name is empty", "name a program in PATH or `files`"))
            }
            Some(_) => {}
        }
        for text in &self.command {
            found.extend(template::check(text, connected).map(|(message, hint)| problem("command", &message, &hint)));
        }
        found.extend(environment::check(&self.env, connected));
        found.extend(outputs::check(self.outputs.as_deref().unwrap_or_default()));
        found
    }

    /// The files that they name.
    fn sources(&self, root: &Path) -> Result<Vec<Source>, Vec<Problem>> {
        let sources = files::list(root, &self.files)?;
        let program = self.command.first().map(String::as_str).unwrap_or_default();
        match files::undeclared(program, &sources) {
            Some(problem) => Err(vec![problem]),
            None => Ok(sources),
        }
    }
}

/// The parameters as a struct. The manifest's checks let nothing else through; should it come, `run` says so.
fn read(params: &Value) -> Option<CommandParams> {
    CommandParams::deserialize(params).ok()
}

/// A program with a path of its own starts in the work folder, one without is looked for in PATH: here, because the
/// system's own search cannot be used together with its fast way to start a process. The slow way copies the tables of
/// all of this process's memory, which costs milliseconds in a large run.
fn located(program: &OsStr, work: &Path, path: Option<&OsStr>) -> PathBuf {
    let name = Path::new(program);
    if name.is_relative() && name.components().count() > 1 || program.as_encoded_bytes().starts_with(b"./") {
        return work.join(name);
    }
    let executable = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    let found = std::env::split_paths(path.unwrap_or_default()).map(|folder| folder.join(name)).find(executable);
    found.filter(|file| file.is_absolute()).unwrap_or_else(|| name.to_owned())
}

/// A problem of a parameter's value.
fn problem(at: &str, message: &str, hint: &str) -> Problem {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    Problem { at: vec![at.to_owned()], message: message.to_owned(), hint, missing_file: false }
}
