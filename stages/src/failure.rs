//! Turns errors of ops and of data into classified failures. Unaware of which stage runs.
use crate::data::DataError;
use anneal_engine::{Failure, FailureClass};
use anneal_ops::OpError;

/// A result of an op as a result of a stage.
pub(crate) trait OrFail<T> {
    /// Classifies the error: a device without memory is `oom`, a file is the user's, anything else is ours.
    fn or_fail(self) -> Result<T, Failure>;
}

impl<T> OrFail<T> for Result<T, OpError> {
    fn or_fail(self) -> Result<T, Failure> {
        self.map_err(|error| match &error {
            OpError::Map { path, source } => Failure::io("map", path, source),
            OpError::Device { message } if message.to_lowercase().contains("memory") => {
                Failure::new(FailureClass::Oom, error.to_string())
                    .hint("lower batch_size (raise gradient_accumulation_steps to keep the same experiment)")
            }
            OpError::OutOfRange { .. } | OpError::UnknownBackend { .. } => Failure::user(error.to_string()),
            _ => Failure::bug(error.to_string()),
        })
    }
}

impl<T> OrFail<T> for Result<T, DataError> {
    /// Data is the user's: the message already says what to do.
    fn or_fail(self) -> Result<T, Failure> {
        self.map_err(|error| match &error {
            DataError::Io { action, path, source } => Failure::io(action, path, source),
            _ => Failure::user(error.to_string()),
        })
    }
}
