//! The linear map without a tape in which a row's bits depend on that row only, whatever the number of rows.
//!
//! Generation needs it: a token's numbers must not depend on what else is in the batch, nor on how much of its prompt was
//! in a cache. `gemm` chooses its kernels, and so its roundings, by the number of rows. Unaware of tokens.

use dfdx::shapes::HasShape;

use rayon::prelude::*;

use super::matvec::{matvec, rows as products};
use super::{Group, Linear, check};
use crate::OpError;
use crate::backend::{Act, Backend};
use crate::cpu::simd::{self, simd_fn};
use crate::cpu::threads;
use crate::profile::span;

/// Most rows of `x` that a thread multiplies with a row of the weight while it is in a cache.
const TOGETHER: usize = 64;
/// Fewest of them, as the weight is read once for each time.
const LEAST: usize = 16;

/// `x W^T + bias + scaling * (x A^T) B^T` of each module for `x [rows, in]`, `[rows, out]` each; with `onto`, of that
/// shape, added to it. As [`super::linear_group`] and [`super::linear_onto`] without dropout, within rounding.
///
/// # Errors
/// If shapes do not fit.
pub fn linear_rows<B: Backend, const N: usize>(
    x: &Act<B>,
    modules: [&Linear<B>; N],
    onto: Option<&Act<B>>,
) -> Result<[Act<B>; N], OpError> {
    let group = group_of(x, modules, onto)?;
    let outs = span(x.device(), "linear.forward", || x.device().linear_rows(x, &group, onto))?;
    outs.try_into().map_err(|_| OpError::argument("linear", "the device left out an output"))
}

/// The modules as one group without dropout, if they fit the input and the residual.
pub(super) fn group_of<B: Backend, const N: usize>(
    x: &Act<B>,
    modules: [&Linear<B>; N],
    onto: Option<&Act<B>>,
) -> Result<Group<B>, OpError> {
    for args in modules {
        check(x.shape(), args)?;
        let out = (x.shape().0, args.weight.shape().0);
        if let Some(onto) = onto.filter(|onto| *onto.shape() != out) {
            return Err(OpError::shape("linear", ("residual", onto.shape()), ("output", out)));
        }
    }
    Ok(Group { modules: modules.map(Linear::clone).into(), dropout: vec![None; N] })
}

/// `x W^T`, `[rows, outs]`, for `x [rows, width]` and `weight [outs, width]`.
pub(crate) fn row_products(x: &[f32], weight: &[f32], width: usize, outs: usize) -> Vec<f32> {
    let rows = x.len().checked_div(width).unwrap_or(0);
    if rows == 0 || outs == 0 {
        return Vec::new();
    }
    if rows <= TOGETHER {
        // Bound by reading the weight, whose rows are shared out.
        return matvec(x, weight, width, outs);
    }
    let each = rows.div_ceil(threads::count()).next_multiple_of(4).clamp(LEAST, TOGETHER);
    let mut out = vec![0.0; rows * outs];
    let one = |(out, x): (&mut [f32], &[f32])| products(out, (1, outs), x, weight, width);
    out.par_chunks_mut(each * outs).zip(x.par_chunks(each * width)).for_each(one);
    out
}

simd_fn! {
    /// `y += scaling * z`
    fn add_scaled(y: &mut [f32], z: &[f32], scaling: f32) {
        for (y, z) in y.iter_mut().zip(z) {
            *y += scaling * z;
        }
    }
}

/// The map on slices: `x [rows, width]`, `weight [outs, width]`, the branch's A `[r, width]`, B `[outs, r]` and scaling.
pub(super) fn forward_rows(
    x: &[f32],
    (weight, outs, width): (&[f32], usize, usize),
    lora: Option<(&[f32], &[f32], usize, f32)>,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut y = row_products(x, weight, width, outs);
    if let Some((a, b, r, scaling)) = lora {
        let u = row_products(x, a, width, r);
        add_scaled(&mut y, &row_products(&u, b, r, outs), scaling);
    }
    if let (Some(bias), true) = (bias, outs > 0) {
        for y in y.chunks_exact_mut(outs) {
            simd::add_assign(y, bias);
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::NoneTape;
    use proptest::prelude::*;

    use super::*;
    use crate::host::{act_from_vec, act_to_vec, matrix_from_vec, vector_from_vec, weight_from_vec};
    use crate::linear::{Lora, linear};
    use crate::testing::{close, inputs, numbers, on_every_device, tolerance, wide, with_threads};

    fn layer<B: Backend>(dev: &B, outs: usize, width: usize, r: usize) -> Linear<B> {
        let lora = (r > 0).then(|| Lora {
            a: matrix_from_vec(dev, numbers(3, r * width), r, width).unwrap(),
            b: matrix_from_vec(dev, numbers(4, outs * r), outs, r).unwrap(),
            scaling: 0.5,
            dropout: 0.0,
        });
        let weight = weight_from_vec(dev, inputs::<B>(2, outs * width), outs, width).unwrap();
        let bias = Some(vector_from_vec(dev, numbers(5, outs)).unwrap());
        Linear { weight, bias, trainable: false, lora }
    }

    /// Every row of a batch has the bits that it has alone and in batches of other sizes.
    fn check_rows<B: Backend>(dev: B, outs: usize, width: usize, r: usize, rows: usize) {
        let args = layer(&dev, outs, width, r);
        let x = inputs::<B>(1, rows * width);
        let run = |x: &[f32]| {
            let x = act_from_vec(&dev, x.to_vec(), x.len() / width, width).unwrap();
            act_to_vec::<B, _>(&linear_rows(&x, [&args], None).unwrap()[0])
        };
        let all = run(&x);
        for each in [1, 3, 7, 8, 9, 64] {
            let parts: Vec<f32> = x.chunks(each * width).flat_map(run).collect();
            assert!(parts == all, "{outs} x {width}, rank {r}, {rows} rows by {each}");
        }
        let whole = act_from_vec(&dev, x, rows, width).unwrap();
        let want = act_to_vec::<B, _>(&linear::<B, NoneTape>(whole, &args, None).unwrap());
        close("linear", &all, &wide(&want), tolerance::<B>(1e-5));
    }

    #[test]
    fn a_row_has_the_bits_that_it_has_alone() {
        for (outs, width, r) in [(576, 576, 0), (1536, 576, 16), (64, 1536, 8), (24, 32, 4), (5, 7, 1), (300, 40, 0)] {
            on_every_device!(check_rows, outs, width, r, 70usize);
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let (x, weight) = (numbers(1, 130 * 576), numbers(2, 300 * 576));
        let [one, three] = [1, 3].map(|n| with_threads(n, || row_products(&x, &weight, 576, 300)));
        assert!(one == three);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn rows_agree_with_the_linear_map(outs in 1usize..90, width in 1usize..90, r in 0usize..5, rows in 1usize..80) {
            on_every_device!(check_rows, outs, width, r, rows);
        }
    }
}
