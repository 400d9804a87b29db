//! What a record says: the key and its document, the output and its files, and what was measured.
//!
//! Read by later versions of this program: fields are only added, each with a default. Unaware of where it is stored.
use crate::hash::Stamp;
use crate::key::Digest;
use crate::options::Keep;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The result of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Action key.
    pub key: Digest,
    /// Stage kind.
    pub kind: String,
    /// Version of the kind.
    pub version: u32,
    /// Artifact type.
    pub artifact: String,
    /// Digest of the artifact; names its folder.
    pub output: Digest,
    /// Its files, by name.
    pub files: Vec<FileEntry>,
    /// What stays in the store when nothing needs the files any more.
    #[serde(default, skip_serializing_if = "Keep::is_all")]
    pub keep: Keep,
    /// Named results and measurements.
    pub metrics: BTreeMap<String, f64>,
    /// Seconds the stage took, without hashing its sources.
    pub seconds: f64,
    /// Largest resident memory that is not a mapped file, MiB.
    pub peak_mib: Option<f64>,
    /// Begin, seconds since the Unix epoch.
    pub started: f64,
    /// End, seconds since the Unix epoch.
    pub finished: f64,
    /// Process that executed it.
    pub pid: u32,
    /// The machine; bytes are promised equal on the same one only. Absent from the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// All that went into the key. Null in the index.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub document: Value,
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path inside the artifact, `/` between folders.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Where it lies, if outside the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
}

/// A file outside the store that an artifact links to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Where it lay when the stage ran.
    pub path: PathBuf,
    /// What the system said of it.
    pub stamp: Stamp,
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// It is not there, or it is no record.
    pub(super) fn read(path: &Path) -> std::io::Result<Self> {
        crate::failpoint::pass("record-read")?;
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}

/// The processor that a stage ran on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Its name, as the system gives it.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Instruction sets that arithmetic may use.
    pub instructions: Vec<String>,
}

impl Hardware {
    /// This machine.
    pub fn here() -> &'static Self {
        static HERE: OnceLock<Hardware> = OnceLock::new();
        HERE.get_or_init(|| {
            Self::parse(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), crate::lease::cores())
        })
    }

    fn parse(cpuinfo: &str, cores: usize) -> Self {
        let field = |names: &[&str]| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| names.contains(&name.trim()))
                .map(|(_, value)| value.trim())
        };
        let cpu = field(&["model name", "CPU part"]).unwrap_or(std::env::consts::ARCH).to_owned();
        // Only what changes arithmetic; the full list has a hundred entries that vary with the kernel.
        let arithmetic = |flag: &&str| {
            ["avx", "fma", "sse4", "amx", "asimd", "sve", "bf16", "f16c"].iter().any(|prefix| flag.starts_with(prefix))
        };
        let flags = field(&["flags", "Features"]).unwrap_or_default();
        let instructions = flags.split_whitespace().filter(arithmetic).map(str::to_owned).collect();
        Self { cpu, cores, instructions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_read_from_cpuinfo() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: fpu avx avx2 fma smep avx512f\n";
        let here = Hardware::parse(text, 2);
        assert_eq!(here.cpu, "Some CPU @ 2GHz");
        assert_eq!(here.instructions, ["avx", "avx2", "fma", "avx512f"]);
        assert_eq!(Hardware::parse("", 1).cpu, std::env::consts::ARCH);
    }
}
