//! Turns errors of ops and of data into classified failures. Unaware of which stage runs.
use crate::data::DataError;
use anneal_engine::{Failure, FailureClass};
use anneal_ops::{Category, OpError};

/// What helps whoever lacks memory for a batch.
const BATCH: &str = "lower batch_size (raise gradient_accumulation_steps to keep the same experiment), bound a \
                     micro-batch's tokens with batch_tokens, or set checkpointing = \"full\"";
/// What helps whoever lacks memory for moments and masters, which no batch changes.
const OPTIMIZER: &str =
    "set optimizer_states = \"bf16\", or train an adapter with `train-lora`; the batch has no part in it";
/// What helps whoever lacks memory that others have: before anything of the stage's is on the device, or later.
pub(crate) const OTHERS: &str = "other processes have taken the GPU's memory (`nvidia-smi` names them): choose another GPU with \
                                 CUDA_VISIBLE_DEVICES, or wait for them and run again with `--retry oom`";

/// What the driver says when a GPU was lost or broke, which is nobody's bug. An illegal address is ours, so not here.
const LOST: &[&str] = &[
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_NO_DEVICE",
    "CUDA_ERROR_SYSTEM_NOT_READY",
    "CUDA_ERROR_UNKNOWN",
];

/// A result of an op as a result of a stage.
pub(crate) trait OrFail<T> {
    /// Classifies the error: a device without memory is `oom`, a file is the user's, anything else is ours.
    fn or_fail(self) -> Result<T, Failure>;
}

impl<T> OrFail<T> for Result<T, OpError> {
    fn or_fail(self) -> Result<T, Failure> {
        self.map_err(|error| match &error {
            OpError::Map { path, source } => Failure::io("map", path, source),
            OpError::OutOfMemory { .. } | OpError::Lacking { .. } => {
                let failure = Failure::new(FailureClass::Oom, error.to_string());
                match &error {
                    OpError::Lacking { category: Category::Optimizer, .. } => failure.hint(OPTIMIZER),
                    OpError::Lacking { category: Category::Workspace, .. } => failure.hint(OTHERS),
                    _ => failure.hint(BATCH),
                }
            }
            OpError::DeviceUnusable { .. } => Failure::user(error.to_string())
                .hint("`anneal doctor` tells what is there; `--device cpu` computes without a GPU"),
            OpError::Device { message } if LOST.iter().any(|code| message.contains(code)) => {
                Failure::user(format!("the GPU failed or was lost: {message}"))
                    .hint("look at it with `anneal doctor`, then run the same command again: training goes on from its last checkpoint")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_gpu_is_nobodys_bug_and_an_illegal_address_is_ours() {
        let class = |code: &str| {
            let error = OpError::Device { message: format!("anneal_add: {code} (words)") };
            Err::<(), _>(error).or_fail().unwrap_err().class
        };
        assert_eq!(class("CUDA_ERROR_ECC_UNCORRECTABLE"), FailureClass::User);
        assert_eq!(class("CUDA_ERROR_ILLEGAL_ADDRESS"), FailureClass::Bug);
    }
}
