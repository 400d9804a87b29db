//! The environment of a program: small and known, so that nothing of a user's shell changes a result unseen.
//!
//! Unaware of stages. What `env` of the manifest says enters the key; the variables below do not.
use super::problem;
use super::template::{self, Places};
use anneal_engine::Failure;
use anneal_engine::stage::{OUT_VARIABLE, Problem};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// Passed on as they are: where programs and a user's own files are found, and what a scheduler gave to this run.
const PASSED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
];

/// What the user's own locale or time zone would change.
const FIXED: &[(&str, &str)] = &[("LANG", "C.UTF-8"), ("TZ", "UTC")];

/// The variable that names an input's folder.
fn variable(input: &str) -> String {
    format!("ANNEAL_INPUT_{}", input.to_uppercase().replace('-', "_"))
}

/// What is wrong with the variables of a stage with these inputs.
pub(super) fn check(env: &BTreeMap<String, String>, connected: &[&str]) -> Vec<Problem> {
    let at = |name: &str, message: String, hint: &str| {
        let mut found = problem("env", &message, hint);
        found.at.push(name.to_owned());
        found
    };
    let mut found = Vec::new();
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("a variable cannot have the name `{}`", name.escape_debug());
            found.push(at(name, message, "use letters, digits and `_`"));
        } else if name.starts_with("ANNEAL_") {
            found.push(at(name, format!("`{name}` is set by anneal itself"), "choose a name without ANNEAL_"));
        }
        found.extend(template::check(value, connected).map(|(message, hint)| at(name, message, &hint)));
    }
    let mut variables = BTreeMap::new();
    for input in connected {
        if let Some(other) = variables.insert(variable(input), input) {
            let message = format!("inputs `{other}` and `{input}` would both be {}", variable(input));
            found.push(problem("inputs", &message, "rename one of them"));
        }
    }
    found
}

/// The folders in which a program is looked for: the stage's own, or else this process's.
///
/// # Errors
/// A bug: `check` let something through.
pub(super) fn path(env: &BTreeMap<String, String>, places: &Places<'_>) -> Result<Option<OsString>, Failure> {
    match env.get("PATH") {
        Some(value) => template::fill(value, places).map(Some),
        None => Ok(std::env::var_os("PATH")),
    }
}

/// Sets all of a program's variables.
///
/// # Errors
/// A bug: `check` let something through.
pub(super) fn set(
    command: &mut Command,
    env: &BTreeMap<String, String>,
    places: &Places<'_>,
    temp: &Path,
) -> Result<(), Failure> {
    command.env_clear();
    for name in PASSED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(FIXED.iter().copied()).env("TMPDIR", temp);
    command.env(OUT_VARIABLE, places.out).env("ANNEAL_ROOT", places.root).env("ANNEAL_SEED", places.seed.to_string());
    for (name, input) in places.inputs {
        command.env(variable(name), &input.dir);
    }
    for (name, value) in env {
        command.env(name, template::fill(value, places)?);
    }
    Ok(())
}
