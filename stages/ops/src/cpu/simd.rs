//! Vector loops for whatever instruction set the machine has, without intrinsics: one body, compiled three times.
//!
//! `simd_fn!` makes a function whose body is compiled for AVX-512, for AVX2 with FMA and for the target's baseline, and
//! picks one at run time. Elementwise bodies are plain loops that the compiler turns into vector code; reductions use
//! `Lanes`, sixteen partial sums in a fixed order, so a result depends on the data and the instruction set only, never
//! on threads or alignment. Unaware of tensors.

use std::sync::LazyLock;

use super::lanes::Lanes;

/// Numbers in a `Lanes`: one AVX-512 register.
pub(crate) const LANES: usize = 16;

/// Instruction sets that `simd_fn!` compiles for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Avx512,
    Avx2,
    Baseline,
}

/// The best level of this machine.
#[inline]
pub(crate) fn level() -> Level {
    static LEVEL: LazyLock<Level> = LazyLock::new(detect);
    #[cfg(test)]
    if let Some(level) = tests::FORCED.get() {
        return level;
    }
    *LEVEL
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx512 && avx2, avx2) {
        (true, _) => Level::Avx512,
        (false, true) => Level::Avx2,
        (false, false) => Level::Baseline,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Baseline
}

/// Defines a function compiled for each [`Level`]. In the body the constant `FMA` says whether a fused multiply-add is
/// one instruction (pass it to [`fma`] and [`exp`]), and the type `L` is the level's [`Lanes`].
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, clippy::allow_attributes, reason = "kernels take what the loop reads")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, clippy::extra_unused_type_parameters, clippy::allow_attributes, reason = "as above; not every body multiplies")]
            fn body<const FMA: bool, L: $crate::cpu::lanes::Lanes>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments, clippy::allow_attributes, reason = "as above")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<true, $crate::cpu::lanes::Avx512>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, clippy::allow_attributes, reason = "as above")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<true, $crate::cpu::lanes::Avx2>($($arg),*)
            }

            match $crate::cpu::simd::level() {
                // SAFETY: `level` returns this only where every feature enabled on the function was detected.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => body::<false, $crate::cpu::lanes::Plain>($($arg),*),
            }
        }
    };
}
pub(crate) use simd_fn;

/// `a * b + c`, fused where the machine does that in one instruction (in software it would cost a hundred).
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` within 2 units in the last place over the whole range, subnormal results, infinities and NaN included.
///
/// `x = k ln 2 + r`, `|r| <= ln 2 / 2`; `e^r` by the degree-6 polynomial of Cephes' `expf`; `2^k` in two factors, since
/// k reaches 128 (above f32's largest exponent) and -149 (below its smallest).
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = fma::<FMA>(k, -0.693_359_4, x);
    let r = fma::<FMA>(k, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_199_9e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    let y = fma::<FMA>(p, r * r, r) + 1.0;
    let k = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = k >> 1;
    let power = |k: i32| f32::from_bits((k.wrapping_add(127) << 23) as u32);
    let y = y * power(half) * power(k.wrapping_sub(half));
    if x > 89.0 {
        f32::INFINITY
    } else if x < -104.0 {
        0.0
    } else {
        y
    }
}

/// Dot product of equally long slices, four registers of partial sums. For use inside `simd_fn!` bodies.
#[inline(always)]
pub(crate) fn dot_body<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    let mut sums = [L::splat(0.0); 4];
    let (a4, b4) = (a.chunks_exact(4 * LANES), b.chunks_exact(4 * LANES));
    let (a_rest, b_rest) = (a4.remainder(), b4.remainder());
    for (x, y) in a4.zip(b4) {
        for (part, sum) in sums.iter_mut().enumerate() {
            *sum = L::load(&x[part * LANES..]).fma(L::load(&y[part * LANES..]), *sum);
        }
    }
    let (a1, b1) = (a_rest.chunks_exact(LANES), b_rest.chunks_exact(LANES));
    let (a_tail, b_tail) = (a1.remainder(), b1.remainder());
    for (x, y) in a1.zip(b1) {
        sums[0] = L::load(x).fma(L::load(y), sums[0]);
    }
    if !a_tail.is_empty() {
        sums[1] = L::load_part(a_tail, 0.0).fma(L::load_part(b_tail, 0.0), sums[1]);
    }
    sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
}

simd_fn! {
    /// Dot product of equally long slices.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        dot_body::<L>(a, b)
    }
}

simd_fn! {
    /// `y += x`, elementwise.
    pub(crate) fn add_assign(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }
}

simd_fn! {
    /// `y += a * x`, elementwise.
    pub(crate) fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = fma::<FMA>(a, *x, *y);
        }
    }
}

simd_fn! {
    /// `y *= a`, elementwise.
    pub(crate) fn scale(y: &mut [f32], a: f32) {
        for y in y {
            *y *= a;
        }
    }
}

simd_fn! {
    /// Largest element that is not NaN, -inf if there is none.
    pub(crate) fn max(x: &[f32]) -> f32 {
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        let mut best = L::splat(f32::NEG_INFINITY);
        for chunk in chunks {
            best = L::load(chunk).max(best);
        }
        if !rest.is_empty() {
            best = L::load_part(rest, f32::NEG_INFINITY).max(best);
        }
        best.array().into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

simd_fn! {
    /// `x = e^(x - shift)` in place; returns the sum.
    pub(crate) fn exp_shifted(x: &mut [f32], shift: f32) -> f32 {
        for x in x.iter_mut() {
            *x = exp::<FMA>(*x - shift);
        }
        sum_body::<L>(x)
    }
}

/// Sum, two registers of partial sums. For use inside `simd_fn!` bodies.
#[inline(always)]
fn sum_body<L: Lanes>(x: &[f32]) -> f32 {
    let mut sums = [L::splat(0.0); 2];
    let pairs = x.chunks_exact(2 * LANES);
    let rest = pairs.remainder();
    for pair in pairs {
        sums = [sums[0].add(L::load(pair)), sums[1].add(L::load(&pair[LANES..]))];
    }
    for part in rest.chunks(LANES) {
        sums[0] = sums[0].add(L::load_part(part, 0.0));
    }
    sums[0].add(sums[1]).sum()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::testing::{close_or, numbers, wide};

    thread_local! {
        /// A lower level for this thread.
        pub(super) static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
    }

    #[test]
    fn every_level_that_the_machine_has_agrees_with_f64() {
        let best = level();
        for level in [Level::Baseline, Level::Avx2, Level::Avx512] {
            if level == Level::Avx2 && best == Level::Baseline || level == Level::Avx512 && best != Level::Avx512 {
                continue;
            }
            FORCED.set(Some(level));
            for len in [1, 7, 16, 31, 64, 147, 577] {
                let (a, b) = (numbers(len as u64, len), numbers(2 * len as u64, len));
                let (a64, b64) = (wide(&a), wide(&b));
                let product: f64 = a64.iter().zip(&b64).map(|(a, b)| a * b).sum();
                close_or("dot", &[dot(&a, &b)], &[product], 1e-5, 0.1);
                assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                let mut e = a.clone();
                let sum = exp_shifted(&mut e, 0.5);
                let want: Vec<f64> = a64.iter().map(|a| (a - 0.5).exp()).collect();
                close_or("exp", &e, &want, 1e-6, 0.1);
                close_or("sum", &[sum], &[want.iter().sum()], 1e-6, 0.1);
                let x = numbers(3, 5 * len);
                let got = crate::linear::matvec::matvec(&x, &[a.clone(), b.clone()].concat(), len, 2);
                let dots = x
                    .chunks(len)
                    .flat_map(|x| [&a64, &b64].map(|w| x.iter().zip(w).map(|(x, w)| f64::from(*x) * w).sum()));
                close_or("matvec", &got, &dots.collect::<Vec<f64>>(), 1e-5, 0.1);
                let mut y = a.clone();
                axpy(&mut y, 2.0, &b);
                let want: Vec<f64> = a64.iter().zip(&b64).map(|(a, b)| a + 2.0 * b).collect();
                close_or("axpy", &y, &want, 1e-6, 0.1);
            }
        }
        FORCED.set(None);
    }

    simd_fn! {
        fn exp_all(x: &mut [f32]) {
            for x in x {
                *x = exp::<FMA>(*x);
            }
        }
    }

    #[test]
    fn exp_is_within_two_ulp_of_f64() {
        let xs: Vec<f32> = (-104_000..=89_000).map(|i| i as f32 * 1e-3).collect();
        let mut ys = xs.clone();
        exp_all(&mut ys);
        for (x, y) in xs.iter().zip(&ys) {
            let want = f64::from(*x).exp();
            if want > f64::from(f32::MAX) {
                assert!(y.is_infinite() || *y > 3.4e38, "{x} {y}");
                continue;
            }
            let ulp = (want * f64::from(f32::EPSILON)).max(1.4e-45);
            assert!((f64::from(*y) - want).abs() <= 2.0 * ulp, "exp({x}) = {y}, want {want}");
        }
        let mut special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -7e9, 7e9, 1e-20];
        exp_all(&mut special);
        assert!(special[0].is_nan());
        assert_eq!(special[1..], [f32::INFINITY, 0.0, 1.0, 0.0, f32::INFINITY, 1.0]);
    }

    #[test]
    fn reductions_take_every_element_once() {
        for len in [0, 1, 15, 16, 17, 63, 64, 65, 200] {
            let a: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let b = vec![2.0; len];
            assert_eq!(dot(&a, &b), a.iter().sum::<f32>() * 2.0, "{len}");
            assert_eq!(max(&a), if len == 0 { f32::NEG_INFINITY } else { (len - 1) as f32 });
        }
        assert_eq!(max(&[1.0, f32::NAN, 2.0]), 2.0);
        assert_eq!(max(&[1.0, f32::INFINITY]), f32::INFINITY);
    }
}
