//! Root-mean-square normalisation: `out = weight * (x / sqrt(mean(x^2) + eps))`, statistics in f32 over each row.
//!
//! As Hugging Face's Llama does it: normalise, cast to the activations' dtype, then multiply by the weight.
//! Backward, with `r = 1 / sqrt(mean(x^2) + eps)` and `g = d * weight`: `d_x += r * (g - x * r^2 * mean(g * x))`,
//! `d_weight += sum over rows of d * x * r`. Saves `x` and one `r` a row.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
pub mod reference;

#[cfg(feature = "cuda")]
pub(crate) use cuda_kernel::normalize;

use dfdx::prelude::{PutTape, SplitTape};
use dfdx::shapes::HasShape;

use crate::OpError;
use crate::backend::{Act, Backend, Buffer, Memory, ParamBuffer, Vector};
use crate::profile::{node, span};
use crate::tape::Record;

/// What a device does for [`rms_norm`].
pub trait RmsNormKernel: Sized {
    /// The output and `r` of each row.
    fn rms_norm_forward(
        &self,
        x: &Act<Self>,
        weight: &Vector<Self>,
        eps: f32,
    ) -> Result<(Act<Self>, Vector<Self>), OpError>
    where
        Self: Memory;
    /// `d_x += ...`.
    fn rms_norm_backward(
        &self,
        x: &Act<Self>,
        weight: &Vector<Self>,
        r: &Vector<Self>,
        d: &Buffer<Self>,
        d_x: &mut Buffer<Self>,
    ) -> Result<(), OpError>
    where
        Self: Memory;
    /// `d_weight += ...`, rows in order.
    fn rms_norm_backward_weight(
        &self,
        x: &Act<Self>,
        r: &Vector<Self>,
        d: &Buffer<Self>,
        d_weight: &mut ParamBuffer<Self>,
    ) -> Result<(), OpError>
    where
        Self: Memory;
}

/// Normalises each row of `x [tokens, width]` and multiplies by `weight [width]`.
///
/// The weight gets a gradient only if `trainable`.
///
/// # Errors
/// If the weight's length is not the width.
pub fn rms_norm<B: Backend, T: Record<B>>(
    x: Act<B, T>,
    weight: &Vector<B>,
    eps: f32,
    trainable: bool,
) -> Result<Act<B, T>, OpError> {
    if weight.shape().0 != x.shape().1 {
        return Err(OpError::shape("rms_norm", ("x", x.shape()), ("weight", weight.shape())));
    }
    let (x, mut tape) = x.split_tape();
    let dev = x.device().clone();
    let (out, r) = span(&dev, "rms_norm.forward", || dev.rms_norm_forward(&x, weight, eps))?;
    if T::RECORDS {
        let (weight, out_ghost) = (weight.clone(), out.ghost());
        tape.record(node(dev.clone(), "rms_norm.backward", move |grads| {
            let d = dev.take(grads.acts.get_or_alloc_mut(&out_ghost).map_err(OpError::device)?)?;
            if trainable {
                let d_weight = grads.params.get_or_alloc_mut(&weight).map_err(OpError::gradient)?;
                dev.rms_norm_backward_weight(&x, &r, &d, d_weight)?;
            }
            let d_x = grads.acts.get_or_alloc_mut(&x).map_err(OpError::device)?;
            dev.rms_norm_backward(&x, &weight, &r, &d, d_x)
        }));
    }
    Ok(out.put_tape(tape))
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::{Cpu, PutTape};
    use proptest::prelude::*;

    use super::*;
    use crate::add::add;
    use crate::host::{act_from_vec, act_to_vec, vector_from_vec};
    use crate::param::ParamRef;
    use crate::tape::{Grads, OpTape};
    use crate::testing::{
        Leaf, backward, close, close_or, differences, inputs, numbers, on_every_device, stored, tolerance, wide,
        with_threads,
    };

    /// The definition in f64.
    fn exact(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
        let rows = x.chunks(weight.len()).flat_map(|x| {
            let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
            x.iter().zip(weight).map(move |(x, w)| x * r * w).collect::<Vec<_>>()
        });
        rows.collect()
    }

    /// Output, gradient of x, gradient of the weight.
    fn run<B: Backend>(dev: &B, x: &[f32], weight: &[f32], d: &[f32], eps: f32) -> [Vec<f32>; 3] {
        let (x, d_x) = Leaf::new(dev, x.to_vec(), x.len() / weight.len(), weight.len()).split();
        let mut weight = vector_from_vec(dev, weight.to_vec()).unwrap();
        let out = rms_norm(x, &weight, eps, true).unwrap();
        let (values, mut grads) = (act_to_vec::<B, _>(&out), Grads::default());
        backward(out, d, &mut grads);
        let d_weight = ParamRef::<B>::Vector(&mut weight).read_grad(&mut grads).unwrap();
        [values, d_x.read(), d_weight]
    }

    fn check_literals<B: Backend>(dev: B) {
        // torch: w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)), x = [[3, 4]], w = [1, 2], d = [1, 1]
        let [out, d_x, d_weight] = run(&dev, &[3.0, 4.0], &[1.0, 2.0], &[1.0, 1.0], 1e-5);
        close("out", &out, &[0.84852780, 2.26274080], tolerance::<B>(1e-6));
        // f32 on every device.
        close("d_weight", &d_weight, &[0.84852780, 1.13137040], 1e-6);
        let want = [0.28284271 * (1.0 - 3.0 * 11.0 / 25.0), 0.28284271 * (2.0 - 4.0 * 11.0 / 25.0)];
        close("d_x", &d_x, &want, tolerance::<B>(1e-5));
    }

    fn check_magnitudes<B: Backend>(dev: B) {
        for (x, eps) in [([1e-20, -2e-20, 3e-20], 1e-5), ([7e9, -7e9, 1e9], 1e-5), ([0.0, 0.0, 0.0], 1e-6)] {
            let x = stored::<B>(x.to_vec());
            let [out, d_x, _] = run(&dev, &x, &[1.0, 0.5, -2.0], &[1.0, 1.0, 1.0], eps);
            close("out", &out, &exact(&wide(&x), &[1.0, 0.5, -2.0], f64::from(eps)), tolerance::<B>(1e-6));
            assert!(d_x.iter().all(|d| d.is_finite()));
        }
    }

    fn check_shared<B: Backend>(dev: B) {
        let values = inputs::<B>(5, 6);
        let leaf = Leaf::new(&dev, values.clone(), 2, 3);
        let again = leaf.again();
        let (x, d_x) = leaf.split();
        let mut weight = vector_from_vec(&dev, vec![1.0, -0.5, 2.0]).unwrap();
        let out = add(rms_norm(x, &weight, 1e-5, false).unwrap(), again).unwrap();
        let d = inputs::<B>(6, 6);
        let mut grads = Grads::default();
        backward(out, &d, &mut grads);
        let want = differences(&wide(&values), &d, |x| {
            exact(x, &[1.0, -0.5, 2.0], 1e-5).iter().zip(x).map(|(y, x)| y + x).collect()
        });
        close("d_x", &d_x.read(), &want, tolerance::<B>(1e-5));
        let frozen = ParamRef::<B>::Vector(&mut weight).read_grad(&mut grads).unwrap();
        assert_eq!(frozen, [0.0; 3]);
    }

    fn check_shapes<B: Backend>(dev: B) {
        let x = act_from_vec(&dev, vec![0.0; 6], 2, 3).unwrap();
        let weight = vector_from_vec(&dev, vec![1.0; 2]).unwrap();
        let error = rms_norm(x, &weight, 1e-5, false).unwrap_err();
        assert_eq!(error.to_string(), "rms_norm: x (2, 3) does not fit weight (2,)");
    }

    fn check_exact<B: Backend>(dev: B, rows: usize, width: usize, seed: u64) {
        let (x, weight, d) =
            (inputs::<B>(seed, rows * width), numbers(seed ^ 1, width), inputs::<B>(seed ^ 2, rows * width));
        let [out, d_x, d_weight] = run(&dev, &x, &weight, &d, 1e-2);
        let (x64, w64) = (wide(&x), wide(&weight));
        close("out", &out, &exact(&x64, &w64, 1e-2), tolerance::<B>(1e-6));
        // In a row of width 1 the gradient is a difference of nearly equal terms of size 1.
        let want = differences(&x64, &d, |x| exact(x, &w64, 1e-2));
        close_or("d_x", &d_x, &want, tolerance::<B>(1e-5), 0.1);
        close_or("d_weight", &d_weight, &differences(&w64, &d, |w| exact(&x64, w, 1e-2)), 1e-5, 0.1);
    }

    /// Every kernel of a device: widths by vectors of 8 and others, more rows than one group of the weight's gradient.
    fn check_widths<B: Backend>(dev: B) {
        for (rows, width) in [(150, 64), (40, 576), (3, 4096), (2, 4100), (2, 14_336), (1, 16_400)] {
            let (x, weight, d) = (inputs::<B>(1, rows * width), numbers(2, width), inputs::<B>(3, rows * width));
            let [out, d_x, d_weight] = run(&dev, &x, &weight, &d, 1e-5);
            let (x64, w64) = (wide(&x), wide(&weight));
            close("out", &out, &exact(&x64, &w64, 1e-5), tolerance::<B>(1e-5));
            let (mut want_x, mut want_w) = (Vec::new(), vec![0.0; width]);
            for (x, d) in x64.chunks(width).zip(wide(&d).chunks(width)) {
                let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + f64::from(1e-5f32)).sqrt();
                let dot: f64 = d.iter().zip(&w64).zip(x).map(|((d, w), x)| d * w * x).sum();
                let slope = |((d, w), x): ((&f64, &f64), &f64)| r * (d * w - x * r * r * dot / width as f64);
                want_x.extend(d.iter().zip(&w64).zip(x).map(slope));
                want_w.iter_mut().zip(d).zip(x).for_each(|((w, d), x)| *w += d * x * r);
            }
            close("d_x", &d_x, &want_x, tolerance::<B>(1e-5));
            close("d_weight", &d_weight, &want_w, 1e-5);
            assert!(run(&dev, &x, &weight, &d, 1e-5) == [out, d_x, d_weight], "the same bits again");
        }
    }

    #[test]
    fn literals_magnitudes_shared_use_and_shapes() {
        on_every_device!(check_literals);
        on_every_device!(check_magnitudes);
        on_every_device!(check_shared);
        on_every_device!(check_shapes);
        on_every_device!(check_widths);
    }

    #[test]
    fn large_inputs_give_the_same_bits_on_any_number_of_threads() {
        let (x, weight, d) = (numbers(1, 401 * 333), numbers(2, 333), numbers(3, 401 * 333));
        let one = with_threads(1, || run(&Cpu::default(), &x, &weight, &d, 1e-5));
        let three = with_threads(3, || run(&Cpu::default(), &x, &weight, &d, 1e-5));
        assert!(one == three);
    }

    proptest! {
        #[test]
        fn the_twin_and_f64_agree(rows in 1usize..6, width in 1usize..70, seed: u64) {
            on_every_device!(check_exact, rows, width, seed);
            let dev = Cpu::default();
            let (x, weight) = (numbers(seed, rows * width), numbers(seed ^ 1, width));
            let [out, ..] = run(&dev, &x, &weight, &vec![0.0; rows * width], 1e-2);
            let x = act_from_vec(&dev, x, rows, width).unwrap().put_tape(OpTape::default());
            let weight = vector_from_vec(&dev, weight).unwrap().put_tape(OpTape::default());
            close("twin", &out, &wide(&act_to_vec::<Cpu, _>(&reference::rms_norm(x, weight, 1e-2))), 1e-5);
        }
    }
}
