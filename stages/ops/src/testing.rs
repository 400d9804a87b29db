//! Help for the ops' tests: every device from one body, numbers, closeness, gradients of inputs, thread pools.
//!
//! A test's body is a function generic over the backend, `fn check<B: Backend>(dev: B)`; `on_every_device!(check)` runs
//! it on the CPU and, where the build has CUDA and the machine a GPU, there too. Inputs come from [`inputs`], which a
//! bf16 device holds exactly, and bounds from [`tolerance`]: so the op's own error is all that is measured.

use std::cell::RefCell;
use std::rc::Rc;

use dfdx::prelude::{PutTape, SplitTape};

use crate::OpError;
use crate::backend::{Act, Backend, Matrix, Memory, Vector, Weight};
use crate::host::{act_from_vec, matrix_from_vec, vector_from_vec, weight_from_vec};
use crate::param::ParamRef;
use crate::tape::{Grads, OpTape, Record};

/// Numbers in `[-1, 1)`, the same for the same seed.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// [`numbers`], rounded to what `B` stores in activations: the same values on the host and on the device.
pub(crate) fn inputs<B: Memory>(seed: u64, len: usize) -> Vec<f32> {
    stored::<B>(numbers(seed, len))
}

/// `values` rounded to what `B` stores in activations.
pub(crate) fn stored<B: Memory>(values: Vec<f32>) -> Vec<f32> {
    B::elems_to_f32(B::elems_from_f32(values))
}

/// The bound of an error relative to the largest value: `of_f32` where `B` computes in f32. In bf16 at least 2^-7:
/// the result's own rounding to 8 bits (2^-8 at most) and as much again for those of intermediates.
pub(crate) fn tolerance<B: Memory>(of_f32: f64) -> f64 {
    if B::NUMERICS.ends_with("bf16") { of_f32.max(1.0 / 128.0) } else { of_f32 }
}

/// Runs `check(device, arguments...)` on every device of this build and machine.
macro_rules! on_every_device {
    ($check:path $(, $argument:expr)* $(,)?) => {{
        $check(<dfdx::prelude::Cpu as Default>::default() $(, $argument.clone())*);
        #[cfg(feature = "cuda")]
        if let Some(dev) = crate::testing::gpu() {
            $check(dev $(, $argument.clone())*);
        }
    }};
}
pub(crate) use on_every_device;

/// The GPU. Without one, says so once and skips; with `ANNEAL_TEST_GPU` set, that is a failure.
#[cfg(feature = "cuda")]
pub(crate) fn gpu() -> Option<dfdx::prelude::Cuda> {
    thread_local! {
        // dfdx's device is made once for each thread: it is not `Sync`, and making it takes a while.
        static GPU: Result<dfdx::prelude::Cuda, String> = crate::cuda::open().map_err(|error| error.to_string());
    }
    static SAID: std::sync::Once = std::sync::Once::new();
    GPU.with(|gpu| match gpu {
        Ok(dev) => Some(dev.clone()),
        Err(why) => {
            assert!(std::env::var_os("ANNEAL_TEST_GPU").is_none(), "{why}");
            #[expect(clippy::print_stderr, reason = "a test that does not run must say so")]
            SAID.call_once(|| eprintln!("skipped on the GPU: {why}"));
            None
        }
    })
}

/// `values` in f64.
pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// Asserts `max |got - want| <= tolerance * max |want|`.
#[track_caller]
pub(crate) fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    close_or(what, got, want, tolerance, 0.0);
}

/// As [`close`], with `max |want|` at least `floor`: for sums whose terms can cancel.
#[track_caller]
pub(crate) fn close_or(what: &str, got: &[f32], want: &[f64], tolerance: f64, floor: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths differ");
    let largest = want.iter().fold(floor, |m, x| m.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= tolerance * largest, "{what}[{i}]: {got}, want {want} (largest {largest}, error {error})");
    }
}

/// Runs `f` with a pool of `threads`.
pub(crate) fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// A parameter of a test.
pub(crate) enum Owned<B: Backend> {
    Weight(Weight<B>),
    Matrix(Matrix<B>),
    Vector(Vector<B>),
}

impl<B: Backend> Owned<B> {
    pub(crate) fn param(&mut self) -> ParamRef<'_, B> {
        match self {
            Self::Weight(p) => ParamRef::Weight(p),
            Self::Matrix(p) => ParamRef::Matrix(p),
            Self::Vector(p) => ParamRef::Vector(p),
        }
    }
}

/// A group of parameters: every kind in every awkward size, empty and longer than a block's part, and so many more that
/// a block's look for its own takes three rounds.
pub(crate) fn group<B: Backend>(dev: &B) -> Vec<Owned<B>> {
    let awkward = [1, 7, 8, 4096 + 3, 0, 2047, 2048, 70_001];
    let lens = awkward.into_iter().flat_map(|len| [len; 3]).chain((0..1100).map(|i| 1 + i % 9));
    let make = |(i, len): (usize, usize)| {
        let values = inputs::<B>(i as u64, len);
        match i % 3 {
            0 => Owned::Weight(weight_from_vec(dev, values, 1, len).unwrap()),
            1 => Owned::Matrix(matrix_from_vec(dev, values, len, 1).unwrap()),
            _ => Owned::Vector(vector_from_vec(dev, values).unwrap()),
        }
    };
    lens.enumerate().map(make).collect()
}

/// An input whose gradient the test wants.
pub(crate) struct Leaf<B: Backend> {
    /// To be fed to an op; carries a tape.
    pub(crate) act: Act<B, OpTape<B>>,
    grad: Rc<RefCell<Vec<f32>>>,
}

impl<B: Backend> Leaf<B> {
    /// `[rows, width]`. Its first node, so the last to run, reads the gradient.
    pub(crate) fn new(dev: &B, values: Vec<f32>, rows: usize, width: usize) -> Self {
        let act = act_from_vec(dev, values, rows, width).unwrap();
        let (grad, ghost, dev) = (Rc::new(RefCell::new(Vec::new())), act.ghost(), dev.clone());
        let mut tape = OpTape::default();
        let sink = grad.clone();
        tape.record(move |grads: &mut Grads<B>| {
            let d = dev.take(grads.acts.get_or_alloc_mut(&ghost).map_err(OpError::device)?)?;
            *sink.borrow_mut() = dev.read_buffer(&d)?;
            Ok(())
        });
        Self { act: act.put_tape(tape), grad }
    }

    /// The same tensor once more, for an input used twice.
    pub(crate) fn again(&self) -> Act<B, OpTape<B>> {
        self.act.retaped()
    }

    /// Hands out the act and a handle on the gradient.
    pub(crate) fn split(self) -> (Act<B, OpTape<B>>, Grad) {
        (self.act, Grad(self.grad))
    }
}

/// A gradient that backward will have written.
pub(crate) struct Grad(Rc<RefCell<Vec<f32>>>);

impl Grad {
    /// Its values.
    pub(crate) fn read(&self) -> Vec<f32> {
        self.0.borrow().clone()
    }
}

/// Seeds `out`'s gradient with `d` and runs its tape.
pub(crate) fn backward<B: Backend>(out: Act<B, OpTape<B>>, d: &[f32], grads: &mut Grads<B>) {
    let (out, mut tape) = out.split_tape();
    let (d, dev) = (d.to_vec(), out.device().clone());
    tape.record(move |grads| dev.write_buffer(grads.acts.get_or_alloc_mut(&out).map_err(OpError::device)?, &d));
    tape.backward(grads).unwrap();
}

/// The f64 derivative of `sum(f(x) * d)` by each element of `x`, by central differences.
pub(crate) fn differences(x: &[f64], d: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut x = x.to_vec();
    let weighted = |out: Vec<f64>| -> f64 { out.iter().zip(d).map(|(o, d)| o * f64::from(*d)).sum() };
    (0..x.len())
        .map(|i| {
            let (here, step) = (x[i], 1e-5 * x[i].abs().max(1e-1));
            x[i] = here + step;
            let above = weighted(f(&x));
            x[i] = here - step;
            let below = weighted(f(&x));
            x[i] = here;
            (above - below) / (2.0 * step)
        })
        .collect()
}
