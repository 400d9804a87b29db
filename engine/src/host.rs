//! This machine as stages see it: its GPUs, what a stage needs of it, and the limits that a stage meets.
//!
//! Unaware of how GPUs are found, and of locks.
use crate::graph::{Node, Pipeline};
use crate::slots::{Demand, Gpu};
use crate::store::Limits;

/// A machine.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Its GPUs.
    pub gpus: Vec<Gpu>,
    limits: Limits,
}

impl Host {
    /// This machine, with these GPUs.
    pub fn new(gpus: Vec<Gpu>) -> Self {
        let limits = Limits::of_machine(&gpus);
        Self { gpus, limits }
    }

    /// What a stage needs: what it says, or else one core, and a GPU if it computes on one.
    pub fn demand(&self, pipeline: &Pipeline, node: &Node) -> Demand {
        let computes = !pipeline.numerics.starts_with("cpu") && node.kind.computes();
        // A machine whose GPUs nobody could list may have one all the same: the stage itself will tell.
        let default = usize::from(computes && !self.gpus.is_empty());
        Demand {
            cores: node.options.threads.map_or(1, |threads| threads as usize),
            gpus: node.options.gpus.map_or(default, |gpus| gpus as usize),
        }
    }

    /// The limits that a stage meets here.
    pub fn limits(&self, pipeline: &Pipeline, node: &Node) -> Limits {
        self.limits.of_stage(&node.options, self.demand(pipeline, node).gpus)
    }
}
