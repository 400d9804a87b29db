//! Sixteen f32 at a time, explicitly, for reductions: the compiler tears partial sums in arrays apart.
//!
//! One implementation for each level of `simd_fn!`. Elementwise loops need none of this. Unaware of tensors.

use super::simd::LANES;

/// Sixteen numbers in registers. Methods compile to single instructions once inlined into a function of the level.
pub(crate) trait Lanes: Copy {
    /// All `x`.
    fn splat(x: f32) -> Self;
    /// The first sixteen of `from`, which must have them.
    fn load(from: &[f32]) -> Self;
    /// The elements of `from` (fewer than sixteen), then `fill`.
    fn load_part(from: &[f32], fill: f32) -> Self {
        let mut all = [fill; LANES];
        all[..from.len()].copy_from_slice(from);
        Self::load(&all)
    }
    /// `self * b + c`, fused where the level fuses.
    fn fma(self, b: Self, c: Self) -> Self;
    /// `self + b`.
    fn add(self, b: Self) -> Self;
    /// `self * b`.
    fn mul(self, b: Self) -> Self;
    /// The larger, elementwise; `b` where `self` is NaN.
    fn max(self, b: Self) -> Self;
    /// All sixteen.
    fn array(self) -> [f32; LANES];
    /// Sum in a fixed order.
    fn sum(self) -> f32;
}

/// For the baseline.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

impl Lanes for Plain {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(std::array::from_fn(|i| from[i]))
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        self.zip(b, |a, b| a * b).add(c)
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        self.0
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Lanes};

    /// One 512-bit register. Only `simd_fn!` bodies of that level make one.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    // SAFETY (of every block below): only `simd_fn!` names this type, for bodies that it runs after it has detected
    // AVX-512 F and DQ; `load` reads sixteen floats of a slice that it has checked to hold them.
    impl Lanes for Avx512 {
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        fn load(from: &[f32]) -> Self {
            let from = &from[..LANES];
            // SAFETY: see the impl.
            Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
        }
        #[inline(always)]
        fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_add_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_mul_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn max(self, b: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_max_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn array(self) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            // SAFETY: see the impl; `out` has room for sixteen.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) };
            out
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: see the impl.
            unsafe {
                let low = _mm512_castps512_ps256(self.0);
                let high = _mm512_extractf32x8_ps::<1>(self.0);
                sum8(_mm256_add_ps(low, high))
            }
        }
    }

    /// Two 256-bit registers. Only `simd_fn!` bodies of that level make one.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256, __m256);

    // SAFETY (of every block below): only `simd_fn!` names this type, for bodies that it runs after it has detected
    // AVX2 and FMA; `load` reads sixteen floats of a slice that it has checked to hold them.
    impl Lanes for Avx2 {
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: see the impl.
            let all = unsafe { _mm256_set1_ps(x) };
            Self(all, all)
        }
        #[inline(always)]
        fn load(from: &[f32]) -> Self {
            let from = &from[..LANES];
            // SAFETY: see the impl.
            unsafe { Self(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))) }
        }
        #[inline(always)]
        fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { Self(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { Self(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { Self(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn max(self, b: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { Self(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn array(self) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            // SAFETY: see the impl; `out` has room for sixteen.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), self.0);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), self.1);
            }
            out
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: see the impl.
            unsafe { sum8(_mm256_add_ps(self.0, self.1)) }
        }
    }

    /// Sum of eight, halves first.
    ///
    /// # Safety
    /// The machine must have AVX2.
    #[inline(always)]
    unsafe fn sum8(x: __m256) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
