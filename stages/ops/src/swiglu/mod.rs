//! The gated activation of Llama's MLP: `out = silu(gate) * up`, `silu(z) = z / (1 + e^-z)`.
//!
//! Backward, with `s = 1 / (1 + e^-gate)`: `d_up += d * gate * s`, `d_gate += d * up * s * (1 + gate * (1 - s))`.
//! Recomputes `s` from the saved inputs. (Shazeer, "GLU Variants Improve Transformer", 2020.)

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
pub mod reference;

use dfdx::prelude::{PutTape, SplitTape};
use dfdx::shapes::HasShape;

use crate::OpError;
use crate::add::put;
use crate::backend::{Act, Backend, Buffer, Memory};
use crate::profile::{node, span};
use crate::tape::Record;

/// What a device does for [`swiglu`].
pub trait SwigluKernel: Sized {
    /// `silu(gate) * up` in a new tensor.
    fn swiglu_forward(&self, gate: &Act<Self>, up: &Act<Self>) -> Result<Act<Self>, OpError>
    where
        Self: Memory;
    /// `d_up += ...`, or `=` if it is `unwritten`; `d` holds the output's gradient and is overwritten (`=`) with the
    /// contribution to gate's.
    fn swiglu_backward(
        &self,
        gate: &Act<Self>,
        up: &Act<Self>,
        d: &mut Buffer<Self>,
        d_up: &mut Buffer<Self>,
        unwritten: bool,
    ) -> Result<(), OpError>
    where
        Self: Memory;
}

/// `silu(gate) * up`, both `[tokens, width]`.
///
/// # Errors
/// If the shapes differ.
pub fn swiglu<B: Backend, T: Record<B>>(gate: Act<B, T>, up: Act<B, T>) -> Result<Act<B, T>, OpError> {
    if gate.shape() != up.shape() {
        return Err(OpError::shape("swiglu", ("gate", gate.shape()), ("up", up.shape())));
    }
    let (gate, gate_tape) = gate.split_tape();
    let (up, up_tape) = up.split_tape();
    let mut tape = gate_tape.merge(up_tape);
    let dev = gate.device().clone();
    let out = span(&dev, "swiglu.forward", || dev.swiglu_forward(&gate, &up))?;
    if T::RECORDS {
        let out_ghost = out.ghost();
        tape.record(node(dev.clone(), "swiglu.backward", move |grads| {
            let mut d = dev.take(grads.acts.get_or_alloc_mut(&out_ghost).map_err(OpError::device)?)?;
            let (d_up, unwritten) = dev.unwritten(|| grads.acts.get_or_alloc_mut(&up));
            dev.swiglu_backward(&gate, &up, &mut d, d_up.map_err(OpError::device)?, unwritten)?;
            let (d_gate, unwritten) = dev.unwritten(|| grads.acts.get_or_alloc_mut(&gate));
            put(&dev, d_gate.map_err(OpError::device)?, unwritten, d)
        }));
    }
    Ok(out.put_tape(tape))
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::{Cpu, PutTape};
    use proptest::prelude::*;

    use super::*;
    use crate::host::{act_from_vec, act_to_vec};
    use crate::tape::{Grads, OpTape};
    use crate::testing::{
        Leaf, backward, close, close_or, inputs, numbers, on_every_device, stored, tolerance, wide, with_threads,
    };

    /// The definition and its derivatives by gate and up, in f64.
    fn exact(gate: f64, up: f64) -> (f64, f64, f64) {
        let s = 1.0 / (1.0 + (-gate).exp());
        (gate * s * up, up * s * (1.0 + gate * (1.0 - s)), gate * s)
    }

    fn run<B: Backend>(dev: &B, gate: &[f32], up: &[f32], d: &[f32], width: usize) -> [Vec<f32>; 3] {
        let rows = gate.len() / width;
        let (gate, d_gate) = Leaf::new(dev, gate.to_vec(), rows, width).split();
        let (up, d_up) = Leaf::new(dev, up.to_vec(), rows, width).split();
        let out = swiglu(gate, up).unwrap();
        let values = act_to_vec::<B, _>(&out);
        backward(out, d, &mut Grads::default());
        [values, d_gate.read(), d_up.read()]
    }

    fn check_literals<B: Backend>(dev: B) {
        // torch: F.silu(gate) * up and its gradients for d = 1
        let [out, d_gate, d_up] = run(&dev, &[0.0, 1.0, -2.0, 20.0], &[3.0, 2.0, 1.0, 0.5], &[1.0; 4], 2);
        close("out", &out, &[0.0, 1.4621172, -0.23840584, 10.0], tolerance::<B>(1e-6));
        close("d_gate", &d_gate, &[1.5, 1.8553413, -0.09078425, 0.5], tolerance::<B>(1e-6));
        close("d_up", &d_up, &[0.0, 0.7310586, -0.23840584, 20.0], tolerance::<B>(1e-6));
    }

    fn check_magnitudes<B: Backend>(dev: B) {
        let gate = stored::<B>(vec![1e-20, -1e-20, 7e9, -7e9, 88.0, -88.0, 100.0, -100.0]);
        let up = stored::<B>(vec![7e9, 7e9, 1e-20, 1e-20, 1.0, 1.0, -1.0, -1.0]);
        let [out, d_gate, d_up] = run(&dev, &gate, &up, &[1.0; 8], 8);
        for i in 0..8 {
            let (o, g, u) = exact(f64::from(gate[i]), f64::from(up[i]));
            for (got, want) in [(out[i], o), (d_gate[i], g), (d_up[i], u)] {
                let bound = tolerance::<B>(1e-6) * want.abs() + 1e-35;
                assert!((f64::from(got) - want).abs() <= bound, "{i}: {got} {want}");
            }
        }
    }

    fn check_shared<B: Backend>(dev: B) {
        let values = stored::<B>(vec![0.3, -1.2, 2.0]);
        let leaf = Leaf::new(&dev, values.clone(), 1, 3);
        let again = leaf.again();
        let (x, d_x) = leaf.split();
        let out = swiglu(x, again).unwrap();
        let d = [1.0, 2.0, -1.0];
        backward(out, &d, &mut Grads::default());
        let want: Vec<f64> = values
            .iter()
            .zip(d)
            .map(|(x, d)| {
                let (_, g, u) = exact(f64::from(*x), f64::from(*x));
                f64::from(d) * (g + u)
            })
            .collect();
        close("d_x", &d_x.read(), &want, tolerance::<B>(1e-6));
    }

    fn check_shapes<B: Backend>(dev: B) {
        let x = act_from_vec(&dev, vec![0.0; 6], 2, 3).unwrap();
        let y = act_from_vec(&dev, vec![0.0; 2], 1, 2).unwrap();
        assert_eq!(swiglu(x, y).unwrap_err().to_string(), "swiglu: gate (2, 3) does not fit up (1, 2)");
    }

    fn check_exact<B: Backend>(dev: B, rows: usize, width: usize, seed: u64, factor: f32) {
        let gate = stored::<B>(numbers(seed, rows * width).iter().map(|x| x * factor).collect());
        let (up, d) = (inputs::<B>(seed ^ 1, rows * width), inputs::<B>(seed ^ 2, rows * width));
        let [out, d_gate, d_up] = run(&dev, &gate, &up, &d, width);
        let exact: Vec<_> = gate.iter().zip(&up).map(|(g, u)| exact(f64::from(*g), f64::from(*u))).collect();
        let times_d = |f: fn(&(f64, f64, f64)) -> f64| -> Vec<f64> {
            exact.iter().zip(&d).map(|(e, d)| f(e) * f64::from(*d)).collect()
        };
        close("out", &out, &exact.iter().map(|e| e.0).collect::<Vec<_>>(), tolerance::<B>(1e-6));
        // The slope of silu has a zero near -1.28.
        close_or("d_gate", &d_gate, &times_d(|e| e.1), tolerance::<B>(1e-5), 0.1);
        close("d_up", &d_up, &times_d(|e| e.2), tolerance::<B>(1e-5));
    }

    #[test]
    fn literals_magnitudes_shared_use_and_shapes() {
        on_every_device!(check_literals);
        on_every_device!(check_magnitudes);
        on_every_device!(check_shared);
        on_every_device!(check_shapes);
        on_every_device!(check_exact, 3usize, 14_337usize, 5u64, 4.0f32);
    }

    #[test]
    fn large_inputs_give_the_same_bits_on_any_number_of_threads() {
        let (gate, up, d) = (numbers(1, 301 * 333), numbers(2, 301 * 333), numbers(3, 301 * 333));
        let one = with_threads(1, || run(&Cpu::default(), &gate, &up, &d, 333));
        let three = with_threads(3, || run(&Cpu::default(), &gate, &up, &d, 333));
        assert!(one == three);
    }

    proptest! {
        #[test]
        fn the_twin_and_f64_agree(rows in 0usize..7, width in 1usize..70, seed: u64, factor in 1e-3f32..30.0) {
            on_every_device!(check_exact, rows, width, seed, factor);
            let dev = Cpu::default();
            let gate: Vec<f32> = numbers(seed, rows * width).iter().map(|x| x * factor).collect();
            let up = numbers(seed ^ 1, rows * width);
            let [out, ..] = run(&dev, &gate, &up, &vec![0.0; rows * width], width);
            let act = |values: &[f32]| act_from_vec(&dev, values.to_vec(), rows, width).unwrap();
            let twin = reference::swiglu(act(&gate).put_tape(OpTape::default()), act(&up).put_tape(OpTape::default()));
            close("twin", &out, &wide(&act_to_vec::<Cpu, _>(&twin)), 1e-5);
        }
    }
}
