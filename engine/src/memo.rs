//! A short way to see that there is nothing to do: what a run without work found is written down, and holds as long as
//! all that its keys follow from is unchanged.
//!
//! The keys of a manifest are a function of its text, of the overrides, of the project's root, of this program, and of
//! the files that the stages name. While these are the same (texts by content, files by their stamps), the keys are too,
//! and neither the manifest nor the parameters need to be read; the results are looked at as always, record by record
//! and file by file, and must be those that the later keys were made from. An index like that of the store: whatever is wrong with it costs time. Only for kinds that say so
//! ([`Stage::follows_from_sources`](crate::Stage::follows_from_sources)). Unaware of what is printed.
use crate::graph::Pipeline;
use crate::hash::Stamp;
use crate::key::Digest;
use crate::manifest::{LoadOptions, bytes_of_ordinary, project_root};
use crate::resolve::Found;
use crate::store::{Glance, Lately, Latest, Store, Whole};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version in it changes with the layout.
const HEADER: &[u8] = b"anneal memo 2\n";
/// Of a stage: key, output, stamp of the record, whose metrics are told.
const RESULT: usize = 64 + 5 * 8;
/// Header, checksum, length of the first part.
const HEAD: usize = HEADER.len() + 32 + 8;
/// Files or results that one thread looks at in one go.
const PIECE: usize = 256;

/// A run that may have been done before: what its keys follow from, but for files.
#[derive(Debug, Clone)]
pub struct Question {
    manifest: PathBuf,
    root: PathBuf,
    outputs: PathBuf,
    /// Of the manifest's own path: one memo for each manifest.
    name: Digest,
    /// Of the manifest's text.
    text: Digest,
    /// Of everything.
    identity: Digest,
}

/// What was told the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Stages, all of them with a result.
    pub stages: usize,
    /// What followed, as it was given to [`remember`].
    pub text: String,
}

/// The first part of a memo; key and output of each stage follow it as they are.
#[derive(Serialize, Deserialize)]
struct Memo<'a> {
    identity: [u8; 32],
    experiment: &'a str,
    /// What [`Latest`] holds when its names are those of these results.
    names: &'a str,
    text: &'a str,
    #[serde(borrow)]
    files: Vec<(&'a [u8], Stamp)>,
}

impl Question {
    /// A run of all stages of a manifest. `outputs`: as asked for, else `outputs` in the root. `numerics`: the classes
    /// that the program has. `None`: something cannot be read, which the long way will tell.
    pub fn new(manifest: &Path, options: &LoadOptions, outputs: Option<&Path>, numerics: &[&str]) -> Option<Self> {
        let file = options.cwd.join(manifest);
        let text = bytes_of_ordinary(&file)?;
        let root = match &options.root {
            Some(root) => std::path::absolute(options.cwd.join(root)).ok()?,
            None => project_root(&file),
        };
        let outputs = outputs.map_or_else(|| root.join("outputs"), |outputs| options.cwd.join(outputs));
        let program = std::env::current_exe().and_then(|path| Stamp::of(&path)).ok()?;
        let mut hasher = blake3::Hasher::new_derive_key("anneal 2026 memo v1");
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        for number in [program.dev, program.ino, program.size] {
            part(&number.to_le_bytes());
        }
        part(&program.mtime.to_le_bytes());
        part(&program.ctime.to_le_bytes());
        part(&text);
        for path in [manifest, &root, &options.cwd] {
            part(path.as_os_str().as_bytes());
        }
        part(&[u8::from(options.any_size)]);
        for list in [options.sets.iter().map(String::as_str).collect::<Vec<&str>>(), numerics.to_vec()] {
            part(&(list.len() as u64).to_le_bytes());
            list.iter().for_each(|text| part(text.as_bytes()));
        }
        let identity = hasher.finalize().into();
        let name = Digest::of(file.canonicalize().ok()?.as_os_str().as_bytes());
        Some(Self { manifest: manifest.to_owned(), root, outputs, name, text: Digest::of(&text), identity })
    }
}

/// What [`recall`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recalled {
    /// What was told the last time, if all of it holds: nothing is to be done.
    pub answer: Option<Answer>,
    /// What was wrong with the store, and has been mended: whoever opens it next is not told any more.
    pub complaint: Option<String>,
}

/// What came of this run the last time, if all of it holds. Sweeps the store as a run does.
pub fn recall(question: &Question) -> Recalled {
    let path = Store::memo_in(&question.outputs, &question.name);
    let bytes = std::fs::read(path).unwrap_or_default();
    let unchanged = |(path, stamp): &(&[u8], Stamp)| Stamp::of(Path::new(OsStr::from_bytes(path))).ok() == Some(*stamp);
    let fits = |(memo, _): &(Memo<'_>, &[[u8; RESULT]])| {
        memo.identity == *question.identity.as_bytes() && memo.files.par_iter().with_min_len(PIECE).all(unchanged)
    };
    let Some((memo, results)) = parse(&bytes).filter(fits) else { return Recalled::default() };
    let Ok(store) = Store::open(&question.outputs) else { return Recalled::default() };
    let latest = Latest::of(&store, memo.experiment);
    let named = latest.state().as_deref() == Some(memo.names) && latest.is_of(&question.manifest, &question.root);
    let glance = Glance::new(&store);
    let whole = |results: &[[u8; RESULT]]| {
        let mut lately = Lately::default();
        results.iter().all(|result| {
            let Some((key, rest)) = result.split_first_chunk() else { return false };
            // Made again by somebody else it may have other bytes, and so give other keys to those that take it, or other
            // metrics.
            glance.look(&Digest::new(*key), &mut lately).is_ok_and(|now| result_of(&now).is_some_and(|now| now == rest))
        })
    };
    let holds = named && results.par_chunks(PIECE).all(whole);
    let answer = holds.then(|| {
        store.sweep();
        Answer { stages: results.len(), text: memo.text.to_owned() }
    });
    Recalled { answer, complaint: store.complaint() }
}

/// Writes down that all stages were found, and what to say of it. A failure only costs time.
pub fn remember(question: &Question, pipeline: &Pipeline, found: &[Found], text: &str) {
    // Without work there is no run to disturb, and nobody to tell.
    let _ = written(question, pipeline, found, text);
}

fn written(question: &Question, pipeline: &Pipeline, found: &[Found], text: &str) -> Option<()> {
    // It may have been written anew since it was asked about.
    if Digest::of(pipeline.text.as_bytes()) != question.text {
        return None;
    }
    let mut files = Vec::new();
    let mut last = None;
    for node in &pipeline.stages {
        // The cells of a sweep mostly read the same. Lists without an entry are all one.
        if !node.sources.is_empty() && last.is_some_and(|last| Arc::ptr_eq(last, &node.sources)) {
            continue;
        }
        if !node.with_params(|params| node.kind.follows_from_sources(params, &node.sources)) {
            return None;
        }
        for source in node.sources.iter() {
            files.push((source.path.as_os_str().as_bytes(), source.stamp?));
        }
        last = Some(&node.sources);
    }
    let store = Store::open(&question.outputs).ok()?;
    let names = Latest::of(&store, &pipeline.experiment).state()?;
    let identity = *question.identity.as_bytes();
    let memo = Memo { identity, experiment: &pipeline.experiment, names: &names, text, files };
    let mut bytes = vec![0; HEAD];
    bytes = postcard::to_extend(&memo, bytes).ok()?;
    let length = (bytes.len() - HEAD) as u64;
    let (glance, mut lately) = (Glance::new(&store), Lately::default());
    for Found { key, output, .. } in found {
        let now = glance.look(key, &mut lately).ok().filter(|now| now.output == *output)?;
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(&result_of(&now)?);
    }
    bytes[..HEADER.len()].copy_from_slice(HEADER);
    bytes[HEAD - 8..HEAD].copy_from_slice(&length.to_le_bytes());
    let sum = blake3::hash(&bytes[HEAD - 8..]);
    bytes[HEADER.len()..HEAD - 8].copy_from_slice(sum.as_bytes());
    store.put_memo(&question.name, &bytes).ok()
}

/// What follows the key of a result.
fn result_of(now: &Whole) -> Option<[u8; RESULT - 32]> {
    let Stamp { dev, ino, size, mtime, ctime } = now.record?;
    let mut bytes = [0; RESULT - 32];
    bytes[..32].copy_from_slice(now.output.as_bytes());
    let numbers = [dev, ino, size, mtime.cast_unsigned(), ctime.cast_unsigned()];
    for (to, number) in bytes[32..].chunks_exact_mut(8).zip(numbers) {
        to.copy_from_slice(&number.to_le_bytes());
    }
    Some(bytes)
}

/// The parts of a memo, if it is whole.
fn parse(bytes: &[u8]) -> Option<(Memo<'_>, &[[u8; RESULT]])> {
    let rest = bytes.strip_prefix(HEADER)?;
    let (sum, rest) = rest.split_first_chunk::<32>()?;
    if blake3::hash(rest) != *sum {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (memo, results) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (results, odd) = results.as_chunks();
    odd.is_empty().then(|| Some((postcard::from_bytes(memo).ok()?, results)))?
}
