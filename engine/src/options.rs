//! What a stage may use and what is kept of it: keys of every stage in a manifest, whatever its kind.
//!
//! None of it enters a key, because none of it changes what a stage makes: it only decides whether and where it runs.
//! Unaware of how limits are enforced.
use crate::param::ParamSet;
use serde_json::Value;
use std::sync::LazyLock;
use std::time::Duration;

crate::choices! {
    /// What stays in the store of a finished stage.
    pub enum Keep {
        /// Everything.
        All = "all",
        /// Its record with all metrics; the files go as soon as nothing in the run needs them, and a stage that needs them later runs this one again.
        Metrics = "metrics",
    }
}

crate::params! {
    /// The keys as they are written.
    pub struct Declared {
        /// Seconds after which the stage is ended and counts as `timeout`. It runs in a process of its own then.
        timeout: Option<f64>, in 0.001 ..= 31_536_000.0, unit "s";
        /// Most memory that the stage may take, such as `"40 GiB"`: of the GPU, for a stage that computes on one; else of the host, counted as private memory of its process, and of each that it starts. Beyond it the stage ends as `oom`.
        memory_limit: Option<String>;
        /// GPUs that the stage needs for itself; it sees no others. By default one if its kind computes and the numerics class is a GPU's, else none.
        gpus: Option<u32>, in 0 ..= 1024, unit "GPUs";
        /// CPU threads that the stage uses, and cores that it takes from the host's; by default its share of what is free.
        threads: Option<u32>, in 1 ..= 4096, unit "threads";
        /// What stays in the store when the stage is done.
        keep: Keep = "all";
    }
}

/// What a stage may use and what is kept of it.
#[derive(Debug, Clone, PartialEq)]
pub struct StageOptions {
    /// It is ended after this time.
    pub timeout: Option<Duration>,
    /// Most memory that it may take, MiB.
    pub memory_limit_mib: Option<u64>,
    /// GPUs that it needs for itself.
    pub gpus: Option<u32>,
    /// CPU threads that it uses.
    pub threads: Option<u32>,
    /// What stays in the store.
    pub keep: Keep,
}

#[expect(clippy::derivable_impls, reason = "the macro writes the enum")]
impl Default for Keep {
    fn default() -> Self {
        Self::All
    }
}

impl Keep {
    /// Everything stays.
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }
}

impl Default for StageOptions {
    fn default() -> Self {
        Self { timeout: None, memory_limit_mib: None, gpus: None, threads: None, keep: Keep::All }
    }
}

impl StageOptions {
    /// Names of the keys.
    pub fn names() -> &'static [&'static str] {
        static NAMES: LazyLock<Vec<&'static str>> =
            LazyLock::new(|| Declared::params().iter().map(|param| param.name).collect());
        &NAMES
    }

    /// From checked values.
    ///
    /// # Errors
    /// What is wrong with a value that its shape lets through, and with which key.
    pub fn new(values: &Value) -> Result<Self, (&'static str, String)> {
        let declared: Declared = serde_json::from_value(values.clone())
            .map_err(|e| ("keep", format!("the options of a stage do not fit their struct: {e}")))?;
        let memory_limit_mib = match &declared.memory_limit {
            Some(text) => {
                Some(mebibytes(text).ok_or_else(|| ("memory_limit", format!("`{text}` is no amount of memory")))?)
            }
            None => None,
        };
        Ok(Self {
            timeout: declared.timeout.map(Duration::from_secs_f64),
            memory_limit_mib,
            gpus: declared.gpus,
            threads: declared.threads,
            keep: declared.keep,
        })
    }

    /// Only a process of its own can be held to these.
    pub fn need_a_process(&self) -> bool {
        self.timeout.is_some() || self.memory_limit_mib.is_some()
    }
}

/// An amount of memory in MiB: a number and `KiB`, `MiB`, `GiB` or `TiB` (powers of 1024), or `kB`, `MB`, `GB` or `TB`
/// (powers of 1000). At least one MiB.
pub fn mebibytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 8] = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
    ];
    let text = text.trim();
    let (unit, bytes) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
    let mebibytes = (number * bytes / 1_048_576.0).floor();
    (1.0..=1e12).contains(&mebibytes).then_some(mebibytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_of_memory_have_units() {
        let read = |text: &str| mebibytes(text);
        assert_eq!(
            ["40 GiB", "512MiB", "1.5 GiB", "1 GB", "2 TiB"].map(read),
            [40960, 512, 1536, 953, 2_097_152].map(Some)
        );
        for wrong in ["40", "GiB", "-1 GiB", "1 KiB", "nan GiB", "inf GiB", "1e300 GiB", "40 gib", ""] {
            assert_eq!(mebibytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn defaults_limit_nothing() {
        let defaults = serde_json::to_value(Declared::defaults().unwrap()).unwrap();
        assert_eq!(StageOptions::new(&defaults).unwrap(), StageOptions::default());
        let mut wrong = defaults;
        wrong["memory_limit"] = json!("much");
        assert_eq!(StageOptions::new(&wrong).unwrap_err().0, "memory_limit");
    }
}
