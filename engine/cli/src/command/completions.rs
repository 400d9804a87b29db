//! `anneal completions SHELL`: what a shell needs so that Tab completes commands, stage names and `--set` keys.
//!
//! The script calls this program back on every Tab, so that names come from the manifest on the line being typed.
//! Unaware of what the commands do.
use super::Context;
use crate::args::{Cli, Completions};
use crate::exit::{Error, Exit};
use crate::output;
use anneal_engine::{Failure, Shape};
use clap::CommandFactory;
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;
use std::ffi::OsStr;
use std::path::Path;

/// The variable by which the script calls back; clap's usual `COMPLETE` is a word that others use too.
const VARIABLE: &str = "ANNEAL_COMPLETE";
const NAME: &str = "anneal";

/// Answers the shell and ends the process if this is such a call back; otherwise does nothing.
pub(super) fn answer() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).bin(NAME).complete();
}

pub(super) fn run(args: &Completions, _: &Context) -> Result<Exit, Error> {
    let shell = args.shell.name();
    let shells = Shells::builtins();
    let completer = shells.completer(shell).ok_or_else(|| Failure::bug(format!("no completions for {shell}")))?;
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, NAME, NAME, NAME, &mut script)
        .map_err(|e| Failure::bug(format!("cannot write completions for {shell}: {e}")))?;
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// Names of the stages in the manifest on the command line.
pub(crate) fn stage_names(current: &OsStr) -> Vec<CompletionCandidate> {
    let stages = typed_manifest();
    starting_with(current, stages.iter().map(|(name, kind)| (name.clone(), kind.clone())))
}

/// The stage kinds.
pub(crate) fn kinds(current: &OsStr) -> Vec<CompletionCandidate> {
    let registry = anneal_stages::registry();
    starting_with(current, registry.kinds().iter().map(|kind| (kind.kind().to_owned(), kind.summary().to_owned())))
}

/// `STAGE.KEY=` of the manifest on the command line, and what a key may be where that is a choice.
pub(crate) fn set_keys(current: &OsStr) -> Vec<CompletionCandidate> {
    let registry = anneal_stages::registry();
    let mut found = vec![("experiment.seed=".to_owned(), String::new())];
    for (name, kind) in typed_manifest() {
        let Some(kind) = registry.get(&kind) else { continue };
        for param in kind.params() {
            let key = format!("{name}.{}=", param.name);
            match &param.shape {
                Shape::Choice(words) => {
                    found.extend(words.iter().map(|(word, doc)| (format!("{key}{word}"), (*doc).to_owned())))
                }
                Shape::Bool => found.extend(["true", "false"].map(|word| (format!("{key}{word}"), param.doc.clone()))),
                Shape::Table(inner) => {
                    let stem = format!("{name}.{}.", param.name);
                    found.extend(inner.iter().map(|param| (format!("{stem}{}=", param.name), param.doc.clone())));
                }
                _ => found.push((key, param.doc.clone())),
            }
        }
    }
    starting_with(current, found.into_iter())
}

/// The (name, kind) of each stage of the first manifest on the line that is being completed. Whatever is wrong with it
/// gives no names: a Tab is no place for errors.
fn typed_manifest() -> Vec<(String, String)> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    let manifest = words.map(std::path::PathBuf::from).find(|word| is_manifest(word));
    manifest.and_then(|path| std::fs::read_to_string(path).ok()).map(|text| stages(&text)).unwrap_or_default()
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml") && path.is_file()
}

/// The (name, kind) of each stage, in the order of the text.
fn stages(text: &str) -> Vec<(String, String)> {
    let table: toml::Table = text.parse().unwrap_or_default();
    let stages = table.get("stages").and_then(toml::Value::as_table);
    let kind = |stage: &toml::Value| stage.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default().to_owned();
    stages.into_iter().flatten().map(|(name, stage)| (name.clone(), kind(stage))).collect()
}

fn starting_with(current: &OsStr, found: impl Iterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let Some(typed) = current.to_str() else { return Vec::new() };
    let found = found.filter(|(word, _)| word.starts_with(typed));
    found.map(|(word, help)| CompletionCandidate::new(word).help((!help.is_empty()).then(|| help.into()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(found: Vec<CompletionCandidate>) -> Vec<String> {
        found.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn stages_are_read_from_any_text() {
        let text = "[stages.b]\nkind = \"load\"\n[stages.a]\nkind = \"infer\"\n[stages.c]\n";
        let mut found = stages(text);
        found.sort();
        let pair = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
        assert_eq!(found, [pair("a", "infer"), pair("b", "load"), pair("c", "")]);
        assert!(stages("[stages").is_empty() && stages("stages = 1").is_empty() && stages("").is_empty());
    }

    #[test]
    fn kinds_are_completed_by_their_beginning() {
        assert_eq!(words(kinds(OsStr::new("train"))), ["train-lora", "train-fft"]);
        assert!(words(kinds(OsStr::new(""))).len() >= 7);
        assert_eq!(words(stage_names(OsStr::new("x"))), [""; 0]);
    }

    #[test]
    fn every_shell_has_a_script_that_calls_back() {
        for shell in crate::args::Shell::ALL {
            let shells = Shells::builtins();
            let completer = shells.completer(shell.name()).expect("a completer");
            let mut script = Vec::new();
            completer.write_registration(VARIABLE, NAME, NAME, NAME, &mut script).expect("a script");
            assert!(String::from_utf8_lossy(&script).contains(VARIABLE), "{}", shell.name());
        }
    }
}
