//! What device memory is for: the categories that results show and that a lack of memory names.
//!
//! Unaware of how much there is of each.

use std::fmt;

/// What an allocation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// The base's tensors, with what is computed from its configuration (rotary tables).
    Weights,
    /// LoRA's A and B.
    Adapters,
    /// Gradients of what is trained.
    Gradients,
    /// Moments, and f32 masters of short weights.
    Optimizer,
    /// What forward saves for backward, gradients of activations, and the key-value cache.
    Activations,
    /// A chunk of logits and what lives as long: the head's inputs and its weight's gradient.
    Logits,
    /// Scratch of the device's libraries.
    Workspace,
}

impl Category {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Weights,
        Self::Adapters,
        Self::Gradients,
        Self::Optimizer,
        Self::Activations,
        Self::Logits,
        Self::Workspace,
    ];

    /// As in metrics: `memory_<name>_mib`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Adapters => "adapters",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Activations => "activations",
            Self::Logits => "logits",
            Self::Workspace => "workspace",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_category_is_listed_once_in_its_own_order() {
        let mut sorted = Category::ALL.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, Category::ALL);
        // A category that is added must be listed: as many as the last one's number says.
        assert_eq!(Category::ALL.len(), Category::Workspace as usize + 1);
        let names: std::collections::BTreeSet<_> = Category::ALL.iter().map(|c| c.to_string()).collect();
        assert_eq!(names.len(), Category::ALL.len());
    }
}
