//! `anneal-engine`: WHAT runs. Manifests become a typed graph, the graph becomes keys, keys become cache hits or
//! work, and work becomes artifacts, events and a report.
//!
//! Unaware of tensors, models and devices: a stage kind is anything that implements [`Stage`]. It never prints;
//! everything a person may want to see is an [`Event`] or a returned value.
#![forbid(unsafe_code)]

pub mod cause;
pub mod compare;
pub mod diagnostic;
pub mod error;
pub mod event;
pub mod failpoint;
pub mod graph;
pub mod hash;
pub mod host;
pub mod key;
pub mod lease;
pub mod manifest;
pub mod memo;
pub mod memory;
pub mod options;
pub mod param;
pub mod recording;
pub mod registry;
pub mod report;
pub mod resolve;
pub mod run;
pub mod select;
pub mod slots;
pub mod stage;
pub mod stop;
pub mod store;
pub mod sweep;
pub mod worker;

pub use error::{Failure, FailureClass};
pub use event::Event;
pub use param::{Param, ParamSet, Shape};
pub use registry::Registry;
pub use stage::{Launch, Port, Source, Stage, StageContext, StageInput};
