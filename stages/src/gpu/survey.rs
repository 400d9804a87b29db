//! What a machine has for the numerics class `cuda-bf16`: driver, cards, libraries. Only looks; judging it is
//! `anneal doctor`'s.

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// The driver; or why there are no facts on it, in its library's words.
    pub driver: Result<Driver, String>,
    /// Every GPU that the driver shows to this user, in its order.
    pub cards: Vec<Card>,
    /// What `CUDA_VISIBLE_DEVICES` says, if it is set.
    pub visible: Option<String>,
    /// Whether the backend opens: libraries, device and kernels fit together; or what is missing.
    pub usable: Result<(), String>,
}

/// The driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Its version, such as `580.82.07`.
    pub version: String,
    /// The newest CUDA that it supports: major and minor.
    pub cuda: Option<(i32, i32)>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Compute capability: major and minor.
    pub capability: Option<(i32, i32)>,
    /// Memory in use, by all processes, MiB.
    pub used_mib: Option<f64>,
    /// Memory that it has, MiB.
    pub total_mib: Option<f64>,
    /// Processes that compute on it.
    pub programs: Option<u32>,
    /// It is the one that runs use.
    pub chosen: bool,
}

/// Looks. `None`: this build has no CUDA. Opens the backend for a moment, which takes some of the GPU's memory.
#[cfg(feature = "cuda")]
pub fn survey() -> Option<Survey> {
    // Before the backend opens: what this process takes is nobody else's.
    let (driver, cards) = match super::nvml::survey() {
        Ok((driver, cards)) => (Ok(driver), cards),
        Err(why) => (Err(why), Vec::new()),
    };
    let usable = anneal_ops::with_backend("cuda-bf16", Opens).map_err(|error| error.to_string());
    Some(Survey { driver, cards, visible: super::choice::visible(), usable })
}

/// Looks. `None`: this build has no CUDA.
#[cfg(not(feature = "cuda"))]
pub fn survey() -> Option<Survey> {
    None
}

#[cfg(feature = "cuda")]
struct Opens;

#[cfg(feature = "cuda")]
impl anneal_ops::BackendVisitor for Opens {
    type Out = ();
    fn visit<B: anneal_ops::Backend>(self, _: B) {}
}
