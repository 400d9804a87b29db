//! The one door from a sealed dfdx tensor to the address of its memory. Unaware of what lies there.
//!
//! dfdx 0.13 keeps a tensor's storage private, but its derived `Debug` shows the device pointer. The text is scanned as
//! it is produced, and the formatter is stopped as soon as the number is complete: nothing of the host's copy or the
//! device's memory is read. dfdx and cudarc are pinned to exact versions, and a test takes data through the door.

use std::fmt::{self, Debug, Write};

use cudarc::driver::{CudaSlice, DevicePtr};
use dfdx::dtypes::Unit;
use dfdx::prelude::{Cuda, Tensor};
use dfdx::shapes::Shape;
use dfdx::tensor::Storage;

use crate::OpError;

/// Follows a text until the decimal number behind [`FIELD`] is complete.
#[derive(Default)]
struct Scan {
    matched: usize,
    number: Option<u128>,
    complete: bool,
}

const FIELD: &[u8] = b"cu_device_ptr: ";

impl Write for Scan {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.matched < FIELD.len() {
                // Enough for a name that no other field of a tensor begins like.
                let restart = usize::from(byte == FIELD[0]);
                self.matched = if byte == FIELD[self.matched] { self.matched + 1 } else { restart };
            } else if byte.is_ascii_digit() {
                let digit = u128::from(byte - b'0');
                self.number = Some(self.number.unwrap_or(0).saturating_mul(10).saturating_add(digit));
            } else {
                self.complete = true;
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

impl Scan {
    fn found(&self) -> Option<u64> {
        self.number.filter(|_| self.complete).and_then(|number| u64::try_from(number).ok())
    }
}

/// Device address of a tensor's first element.
///
/// # Safety of what follows
/// The address is that of the tensor's own allocation of `shape.num_elements()` elements (ops make contiguous tensors
/// only). It stays valid while any tensor that shares the storage lives, and in stream order also for work launched
/// before the last of them is dropped: dfdx frees through the stream that all of this crate's work runs on. Writing
/// through it changes every tensor that shares the storage.
///
/// # Errors
/// If dfdx shows its tensors differently: another version, which the pinned one excludes.
pub(crate) fn addr<S: Shape, E: Unit, T: Debug>(tensor: &Tensor<S, E, Cuda, T>) -> Result<u64, OpError>
where
    Cuda: Storage<E>,
    Tensor<S, E, Cuda, T>: Debug,
{
    let mut scan = Scan::default();
    let _ = write!(scan, "{tensor:?}");
    scan.found().ok_or_else(|| OpError::Device {
        message: "dfdx's tensors no longer show their device address: build with dfdx 0.13.0 and cudarc 0.9.15".into(),
    })
}

/// Device address of a buffer's first element; as [`addr`], as long as the buffer lives.
pub(crate) fn slice_addr<T>(slice: &CudaSlice<T>) -> u64 {
    *slice.device_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &[&str]) -> Option<u64> {
        let mut scan = Scan::default();
        for text in text {
            if scan.write_str(text).is_err() {
                break;
            }
        }
        scan.found()
    }

    #[test]
    fn the_number_is_found_however_the_text_is_cut() {
        assert_eq!(scan(&["Tensor { data: CudaSlice { cu_device_ptr: 140023, len: 3"]), Some(140_023));
        assert_eq!(scan(&["cu_cu_dev", "ice_pt", "r", ": ", "12", "34", ", len: 3"]), Some(1234));
        assert_eq!(scan(&["cu_device_ptr: 12"]), None);
        assert_eq!(scan(&["cu_device: 12, "]), None);
        assert_eq!(scan(&["cu_device_ptr: 99999999999999999999999, "]), None);
    }
}
