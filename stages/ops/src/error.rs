//! What can go wrong in an op. Unaware of stages, files other than mapped ones, and of who reads the message.

use std::fmt::{Debug, Display};
use std::path::PathBuf;

use crate::category::Category;

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
    /// The device's memory is used up.
    #[error("the device is out of memory{}", asked(*bytes))]
    OutOfMemory {
        /// What the allocation that failed asked for, where the one who asked knows.
        bytes: Option<usize>,
    },
    /// As [`OpError::OutOfMemory`], and what the memory was for is known.
    #[error("the device is out of memory for {category}{}", asked(*bytes))]
    Lacking {
        /// What could not be allocated.
        category: Category,
        /// As in [`OpError::OutOfMemory`].
        bytes: Option<usize>,
    },
    /// The device, its driver or its libraries are missing or unfit; nothing was computed.
    #[error("cannot use the GPU: {message}")]
    DeviceUnusable {
        /// What is missing and what to do.
        message: String,
    },
    /// The device failed. A failed GPU repeats its error in every later call: report it and leave the process.
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

fn asked(bytes: Option<usize>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(": {bytes} more bytes were asked for"))
}

impl OpError {
    /// Wraps an error of a dfdx device. Its error types promise `Display` only, so lack of memory is told by its name.
    pub fn device(error: impl Display) -> Self {
        let message = error.to_string();
        if message.contains("CUDA_ERROR_OUT_OF_MEMORY") {
            return Self::OutOfMemory { bytes: None };
        }
        Self::Device { message }
    }

    /// Says what the memory was for, if this is about memory and nobody has said so yet: the innermost knows best.
    #[must_use]
    pub fn lacking(self, category: Category) -> Self {
        match self {
            Self::OutOfMemory { bytes } => Self::Lacking { category, bytes },
            other => other,
        }
    }

    /// Wraps an error of a dfdx device that was to allocate the gradient of a parameter.
    pub(crate) fn gradient(error: impl Display) -> Self {
        Self::device(error).lacking(Category::Gradients)
    }

    /// Wraps an error of the CUDA driver.
    #[cfg(feature = "cuda")]
    pub(crate) fn driver(error: cudarc::driver::DriverError) -> Self {
        Self::device(crate::cuda::describe(error.0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lack_of_memory_is_told_apart() {
        let error = OpError::device("Driver(DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\"))");
        assert_eq!(error.to_string(), "the device is out of memory");
        let error = OpError::OutOfMemory { bytes: Some(4096) };
        assert_eq!(error.to_string(), "the device is out of memory: 4096 more bytes were asked for");
        assert_eq!(OpError::device("lost").to_string(), "device: lost");
    }
}
