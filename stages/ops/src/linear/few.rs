//! The linear map for few rows: the newest tokens of sequences that decode. Bound by reading the weights.
//!
//! As in [`super::linear_rows`] a row's bits depend on that row only; they need not be the bits that it has there.
//! Unaware of tokens.

use dfdx::shapes::HasShape;

use super::rows::group_of;
use super::{Linear, check};
use crate::OpError;
use crate::backend::{Act, Backend};
use crate::profile::span;
use crate::swiglu::swiglu;

/// [`super::linear_rows`] within rounding, made for few rows.
///
/// # Errors
/// If shapes do not fit.
pub fn linear_few<B: Backend, const N: usize>(
    x: &Act<B>,
    modules: [&Linear<B>; N],
    onto: Option<&Act<B>>,
) -> Result<[Act<B>; N], OpError> {
    let group = group_of(x, modules, onto)?;
    let outs = span(x.device(), "linear.few", || x.device().linear_few(x, &group, onto))?;
    outs.try_into().map_err(|_| OpError::argument("linear", "the device left out an output"))
}

/// `silu(gate(x)) * up(x)` of two modules, made for few rows. The numbers are those of [`linear_few`] and
/// [`swiglu()`] within rounding.
///
/// # Errors
/// If shapes do not fit.
pub fn linear_few_gated<B: Backend>(x: &Act<B>, gate: &Linear<B>, up: &Linear<B>) -> Result<Act<B>, OpError> {
    check(x.shape(), up)?;
    let group = group_of(x, [gate, up], None)?;
    if gate.weight.shape() != up.weight.shape() {
        return Err(OpError::shape("linear", ("gate", gate.weight.shape()), ("up", up.weight.shape())));
    }
    let dev = x.device();
    if let Some(out) = span(dev, "linear.few", || dev.linear_few_gated(x, &group))? {
        return Ok(out);
    }
    let [gate, up] = linear_few(x, [gate, up], None)?;
    swiglu(gate, up)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::{act_from_vec, act_to_vec, matrix_from_vec, vector_from_vec, weight_from_vec};
    use crate::linear::Lora;
    use crate::testing::{close, inputs, numbers, on_every_device, tolerance, wide};

    /// Sizes of a case: outputs, inputs, rank (0: no branch), rows.
    type Sizes = [usize; 4];

    fn layer<B: Backend>(dev: &B, seed: u64, [outs, width, r, _]: Sizes, bias: bool) -> Linear<B> {
        let lora = (r > 0).then(|| Lora {
            a: matrix_from_vec(dev, numbers(seed + 3, r * width), r, width).unwrap(),
            b: matrix_from_vec(dev, numbers(seed + 4, outs * r), outs, r).unwrap(),
            scaling: 0.5,
            dropout: 0.0,
        });
        let weight = weight_from_vec(dev, inputs::<B>(seed + 2, outs * width), outs, width).unwrap();
        let bias = bias.then(|| vector_from_vec(dev, numbers(seed + 5, outs)).unwrap());
        Linear { weight, bias, trainable: false, lora }
    }

    /// The same in f64, `[rows, outs]`, without a residual.
    fn want<B: Backend>(seed: u64, [outs, width, r, _]: Sizes, bias: bool, x: &[f32]) -> Vec<f64> {
        let (weight, a) = (wide(&inputs::<B>(seed + 2, outs * width)), wide(&numbers(seed + 3, r * width)));
        let (b, bias_of) = (wide(&numbers(seed + 4, outs * r)), wide(&numbers(seed + 5, outs)));
        let x = wide(x);
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let row = |x: &[f64]| -> Vec<f64> {
            let u: Vec<f64> = a.chunks(width).map(|a| dot(x, a)).collect();
            let one = |out: usize| {
                let branch = 0.5 * dot(&u, &b[out * r..(out + 1) * r]);
                dot(x, &weight[out * width..(out + 1) * width]) + branch + if bias { bias_of[out] } else { 0.0 }
            };
            (0..outs).map(one).collect()
        };
        x.chunks(width).flat_map(row).collect()
    }

    fn rows_of<B: Backend>(dev: &B, values: &[f32], width: usize) -> Act<B> {
        act_from_vec(dev, values.to_vec(), values.len() / width, width).unwrap()
    }

    /// Agreement with f64, and every row with the bits that it has alone and in batches of other sizes.
    fn check_few<B: Backend>(dev: B, sizes: Sizes, bias: bool, onto: bool) {
        let [outs, width, _, rows] = sizes;
        let args = layer(&dev, 0, sizes, bias);
        let (x, residual) = (inputs::<B>(1, rows * width), inputs::<B>(7, rows * outs));
        let run = |x: &[f32], residual: &[f32]| {
            let onto = onto.then(|| rows_of(&dev, residual, outs));
            act_to_vec::<B, _>(&linear_few(&rows_of(&dev, x, width), [&args], onto.as_ref()).unwrap()[0])
        };
        let all = run(&x, &residual);
        let mut exact = want::<B>(0, sizes, bias, &x);
        if onto {
            exact.iter_mut().zip(wide(&residual)).for_each(|(y, residual)| *y += residual);
        }
        close("few", &all, &exact, tolerance::<B>(1e-5));
        for each in [1, 3, 7, 8, 9, 17, 33, 64] {
            let parts = x.chunks(each * width).zip(residual.chunks(each * outs));
            let parts: Vec<f32> = parts.flat_map(|(x, residual)| run(x, residual)).collect();
            assert!(parts == all, "{sizes:?}, bias {bias}, onto {onto}, by {each}");
        }
    }

    #[test]
    fn few_rows_agree_with_f64_and_have_the_bits_they_have_alone() {
        let shapes = [
            [64, 64, 0, 70],
            [576, 576, 16, 70],
            [192, 576, 8, 5],
            [1536, 576, 0, 33],
            [40, 1536, 16, 64],
            [5, 72, 3, 9],
            [17, 8, 0, 1],
            [33, 4096, 16, 34],
            [9, 14336, 5, 66],
            [300, 40, 24, 17],
            // A rank too large for the memory of a block.
            [70, 72, 200, 65],
        ];
        for sizes in shapes {
            on_every_device!(check_few, sizes, false, false);
            on_every_device!(check_few, sizes, true, true);
        }
        // Not in vectors of eight: the way of many rows.
        on_every_device!(check_few, [20, 7, 2, 9], true, true);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(25))]
        #[test]
        fn few_rows_of_any_shape(outs in 1usize..90, width in 1usize..40, r in 0usize..20, rows in 1usize..71) {
            on_every_device!(check_few, [outs, width * 8, r, rows], false, true);
        }
    }

    /// Three modules of different sizes, of which two have branches, in one call.
    fn check_group<B: Backend>(dev: B, rows: usize) {
        let sizes = [[130, 200, 4, rows], [24, 200, 0, rows], [50, 200, 9, rows]];
        let modules = [0, 1, 2].map(|i| layer(&dev, 10 * i as u64, sizes[i], i == 0));
        let x = inputs::<B>(1, rows * 200);
        let [q, k, v] = linear_few(&rows_of(&dev, &x, 200), [&modules[0], &modules[1], &modules[2]], None).unwrap();
        for (i, out) in [q, k, v].iter().enumerate() {
            let want = want::<B>(10 * i as u64, sizes[i], i == 0, &x);
            close("group", &act_to_vec::<B, _>(out), &want, tolerance::<B>(1e-5));
            let [alone] = linear_few(&rows_of(&dev, &x, 200), [&modules[i]], None).unwrap();
            close("alone", &act_to_vec::<B, _>(&alone), &want, tolerance::<B>(1e-5));
        }
    }

    #[test]
    fn modules_of_one_input_do_not_mix() {
        for rows in [1usize, 12, 70] {
            on_every_device!(check_group, rows);
        }
    }

    fn check_gated<B: Backend>(dev: B, sizes: Sizes) {
        let [outs, width, _, rows] = sizes;
        let (gate, up) = (layer(&dev, 0, sizes, true), layer(&dev, 20, sizes, false));
        // Sums of this size do not saturate the gate.
        let x: Vec<f32> = inputs::<B>(1, rows * width).iter().map(|x| x / 16.0).collect();
        let run = |x: &[f32]| act_to_vec::<B, _>(&linear_few_gated(&rows_of(&dev, x, width), &gate, &up).unwrap());
        let all = run(&x);
        let (g, u) = (want::<B>(0, sizes, true, &x), want::<B>(20, sizes, false, &x));
        let want: Vec<f64> = g.iter().zip(&u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        close("gated", &all, &want, tolerance::<B>(1e-5));
        for each in [1, 7, 8, 17, 64] {
            let parts: Vec<f32> = x.chunks(each * width).flat_map(run).collect();
            assert!(parts == all, "{outs} x {width}, {rows} rows by {each}");
        }
    }

    #[test]
    fn gate_and_up_in_one_product() {
        for sizes in
            [[64, 64, 0, 9], [1536, 576, 16, 33], [37, 200, 3, 70], [14, 4096, 16, 1], [40, 72, 120, 65], [12, 7, 2, 3]]
        {
            on_every_device!(check_gated, sizes);
        }
    }

    fn check_errors<B: Backend>(dev: B) {
        let (one, other) = (layer(&dev, 0, [8, 16, 0, 1], false), layer(&dev, 0, [24, 16, 0, 1], false));
        let x = rows_of(&dev, &[0.0; 32], 16);
        assert!(linear_few_gated(&x, &one, &other).is_err());
        assert!(linear_few(&rows_of(&dev, &[0.0; 32], 8), [&one], None).is_err());
        assert!(linear_few(&x, [&one], Some(&x)).is_err());
        let none = act_from_vec(&dev, vec![], 0, 16).unwrap();
        assert_eq!(act_to_vec::<B, _>(&linear_few(&none, [&one], None).unwrap()[0]), []);
        assert_eq!(act_to_vec::<B, _>(&linear_few_gated(&none, &one, &one).unwrap()), []);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_no_rows_are_none() {
        on_every_device!(check_errors);
    }
}
