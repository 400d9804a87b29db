//! What can go wrong in an op. Unaware of stages, files other than mapped ones, and of who reads the message.

use std::fmt::{Debug, Display};
use std::path::PathBuf;

/// An op refused its arguments, or the device failed. Input never makes an op panic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// Two operands do not fit together.
    #[error("{op}: {left} does not fit {right}")]
    Shape {
        /// The op's function name.
        op: &'static str,
        /// Name and shape of the one operand, e.g. `x [3, 4]`.
        left: String,
        /// Name and shape, or the requirement, of the other.
        right: String,
    },
    /// An index lies outside its table.
    #[error("{op}: {what} {index} is out of range: there are {limit}")]
    OutOfRange {
        /// The op's function name.
        op: &'static str,
        /// What was indexed, e.g. `token id`.
        what: &'static str,
        /// The offending index.
        index: usize,
        /// Indices must be below this.
        limit: usize,
    },
    /// A number or flag that the op cannot work with.
    #[error("{op}: {message}")]
    Argument {
        /// The op's function name.
        op: &'static str,
        /// What is wrong, with the value.
        message: String,
    },
    /// A permuted or broadcast tensor came where rows must lie one after the other.
    #[error("{op}: the tensor of shape {shape} is not contiguous")]
    NotContiguous {
        /// The op's function name.
        op: &'static str,
        /// The tensor's shape.
        shape: String,
    },
    /// The device failed, most often for lack of memory.
    #[error("device: {message}")]
    Device {
        /// The device's own words.
        message: String,
    },
    /// No such backend in this build.
    #[error("unknown backend `{name}`; this build has: {available}")]
    UnknownBackend {
        /// What was asked for.
        name: String,
        /// Comma-separated names.
        available: String,
    },
    /// A file could not be mapped.
    #[error("cannot map {}: {source}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl OpError {
    /// Wraps an error of a dfdx device (its error types implement `Display` only).
    pub fn device(error: impl Display) -> Self {
        Self::Device { message: error.to_string() }
    }

    /// A shape mismatch: each side is a name and anything that prints as a shape.
    pub fn shape(op: &'static str, left: (&str, impl Debug), right: (&str, impl Debug)) -> Self {
        Self::Shape { op, left: format!("{} {:?}", left.0, left.1), right: format!("{} {:?}", right.0, right.1) }
    }

    /// An argument out of its domain.
    pub fn argument(op: &'static str, message: impl Into<String>) -> Self {
        Self::Argument { op, message: message.into() }
    }
}
