//! The stage kinds and numerics classes that a program knows.
//!
//! Unaware of manifests; `anneal-stages` fills it, `engine/cli` hands it around.
use crate::stage::Stage;
use std::sync::Arc;

/// The kinds, in the order in which people should read them.
#[derive(Clone)]
pub struct Registry {
    kinds: Vec<Arc<dyn Stage>>,
    numerics: Vec<&'static str>,
}

impl Registry {
    /// A registry of these kinds, with the one numerics class that every machine has: `cpu-f32`.
    pub fn new(kinds: Vec<Box<dyn Stage>>) -> Self {
        Self { kinds: kinds.into_iter().map(Arc::from).collect(), numerics: vec!["cpu-f32"] }
    }

    /// Replaces the numerics classes that a manifest may name; the first is the default.
    #[must_use]
    pub fn with_numerics(mut self, numerics: Vec<&'static str>) -> Self {
        self.numerics = numerics;
        self
    }

    /// The kind of that name.
    pub fn get(&self, kind: &str) -> Option<&Arc<dyn Stage>> {
        self.kinds.iter().find(|stage| stage.kind() == kind)
    }

    /// All kinds in order.
    pub fn kinds(&self) -> &[Arc<dyn Stage>] {
        &self.kinds
    }

    /// The numerics classes, the default first.
    pub fn numerics(&self) -> &[&'static str] {
        &self.numerics
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.kinds.iter().map(|stage| stage.kind())).finish()
    }
}
