//! Which of a machine's GPUs is CUDA's first, by what `CUDA_VISIBLE_DEVICES` says. Unaware of libraries and devices.

/// How the first device that CUDA shows is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// By its place among all GPUs, counted from 0.
    Index(u32),
    /// By its id or the beginning of it: `GPU-...`, or `MIG-...` for a slice of one.
    Id(String),
    /// The list shows none.
    Nothing,
}

/// Reads the list. CUDA takes entries up to the first that is wrong, so only the first counts here. Without a list it
/// is GPU 0.
pub(super) fn choice(visible: Option<&str>) -> Choice {
    let Some(list) = visible else { return Choice::Index(0) };
    let first = list.split(',').next().unwrap_or_default().trim();
    if let Ok(index) = first.parse() {
        return Choice::Index(index);
    }
    let id = first.starts_with("GPU-") || first.starts_with("MIG-");
    if id { Choice::Id(first.to_owned()) } else { Choice::Nothing }
}

/// What `CUDA_VISIBLE_DEVICES` says, if it is set.
#[cfg(feature = "cuda")]
pub(super) fn visible() -> Option<String> {
    std::env::var_os("CUDA_VISIBLE_DEVICES").map(|list| list.to_string_lossy().into_owned())
}
