//! `Bf16`: the element of activations and big weights on CUDA. Unaware of devices.

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use dfdx::dtypes::{SafeZeros, Unit};

/// The upper half of an f32, as dfdx's tensors may hold it. Two bytes, the layout of `__nv_bfloat16`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Bf16(pub half::bf16);

// SAFETY: two plain bytes; all bits zero is the number zero.
unsafe impl ValidAsZeroBits for Bf16 {}
// SAFETY: transparent over 16 bits, the layout of the device's type.
unsafe impl DeviceRepr for Bf16 {}
impl SafeZeros for Bf16 {}
impl Unit for Bf16 {
    const ONE: Self = Self(half::bf16::ONE);
}

impl Bf16 {
    /// Rounds to nearest even.
    pub fn from_f32(value: f32) -> Self {
        Self(half::bf16::from_f32(value))
    }

    /// Exact.
    pub fn to_f32(self) -> f32 {
        self.0.to_f32()
    }
}
