//! Residual addition: `out = x + y`. Backward adds (`+=`) the output's gradient to both inputs'.
//!
//! Unaware of where in a model it stands.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
pub mod reference;

pub(crate) use cpu_kernel::add_assign;
#[cfg(feature = "cuda")]
pub(crate) use cuda_kernel::{VECTOR, flat, narrow};

use dfdx::prelude::{PutTape, SplitTape};
use dfdx::shapes::HasShape;

use crate::OpError;
use crate::backend::{Act, Backend, Buffer, Memory};
use crate::profile::{node, span};
use crate::tape::Record;

/// What a device does for [`add`], and the accumulation that other ops' backward uses.
pub trait AddKernel: Sized {
    /// `x + y` in a new tensor.
    fn add_new(&self, x: &Act<Self>, y: &Act<Self>) -> Result<Act<Self>, OpError>
    where
        Self: Memory;
    /// `x + y`, in x's storage if nothing shares it, else in a new tensor (never under x's identity: gradients of
    /// the sum and of a surviving x must not meet).
    fn add_reusing(&self, x: Act<Self>, y: &Act<Self>) -> Result<Act<Self>, OpError>
    where
        Self: Memory;
    /// `slot += d`, where `slot` is a gradient.
    fn accumulate(&self, slot: &mut Buffer<Self>, d: &Buffer<Self>) -> Result<(), OpError>
    where
        Self: Memory;
}

/// Gives `d` to a gradient's slot: as it is if the slot is [`Memory::unwritten`], else added.
pub(crate) fn put<B: Backend>(dev: &B, slot: &mut Buffer<B>, unwritten: bool, d: Buffer<B>) -> Result<(), OpError> {
    if unwritten {
        *slot = d;
        return Ok(());
    }
    dev.accumulate(slot, &d)
}

/// `x + y`, both `[tokens, width]`.
///
/// Without a tape `x` is overwritten if nothing else shares its storage. With one a new tensor is made, because the
/// ops before keep `x` for their backward.
///
/// # Errors
/// If the shapes differ.
pub fn add<B: Backend, T: Record<B>>(x: Act<B, T>, y: Act<B, T>) -> Result<Act<B, T>, OpError> {
    if x.shape() != y.shape() {
        return Err(OpError::shape("add", ("x", x.shape()), ("y", y.shape())));
    }
    let (x, x_tape) = x.split_tape();
    let (y, y_tape) = y.split_tape();
    let mut tape = x_tape.merge(y_tape);
    let dev = x.device().clone();
    if !T::RECORDS {
        return Ok(span(&dev, "add.forward", || dev.add_reusing(x, &y))?.put_tape(tape));
    }
    let out = span(&dev, "add.forward", || dev.add_new(&x, &y))?;
    let (x, y, out_ghost) = (x.ghost(), y.ghost(), out.ghost());
    tape.record(node(dev.clone(), "add.backward", move |grads| {
        let d_out = dev.take(grads.acts.get_or_alloc_mut(&out_ghost).map_err(OpError::device)?)?;
        dev.accumulate(grads.acts.get_or_alloc_mut(&x).map_err(OpError::device)?, &d_out)?;
        let (slot, unwritten) = dev.unwritten(|| grads.acts.get_or_alloc_mut(&y));
        put(&dev, slot.map_err(OpError::device)?, unwritten, d_out)
    }));
    Ok(out.put_tape(tape))
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::{Cpu, PutTape};
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::slice;
    use crate::host::{act_from_vec, act_to_vec};
    use crate::tape::{Grads, OpTape};
    use crate::testing::{Leaf, backward, inputs, numbers, on_every_device, stored, with_threads};

    fn check_literals<B: Backend>(dev: B) {
        let (x, d_x) = Leaf::new(&dev, vec![1.0, -2.0, 3.0, 7e9], 2, 2).split();
        let (y, d_y) = Leaf::new(&dev, vec![0.5, 2.0, -1.0, 7e9], 2, 2).split();
        let out = add(x, y).unwrap();
        assert_eq!(act_to_vec::<B, _>(&out)[..3], [1.5, 0.0, 2.0]);
        backward(out, &[1.0, 2.0, 3.0, 4.0], &mut Grads::default());
        assert_eq!((d_x.read(), d_y.read()), (vec![1.0, 2.0, 3.0, 4.0], vec![1.0, 2.0, 3.0, 4.0]));
    }

    fn check_shared<B: Backend>(dev: B) {
        let leaf = Leaf::new(&dev, vec![1.0, -2.0], 1, 2);
        let again = leaf.again();
        let (x, d_x) = leaf.split();
        let once = add(x, again).unwrap();
        let twice = once.retaped();
        let out = add(once, twice).unwrap();
        backward(out, &[1.0, 10.0], &mut Grads::default());
        assert_eq!(d_x.read(), [4.0, 40.0], "x is used four times in all");
    }

    fn check_shapes<B: Backend>(dev: B) {
        let x = act_from_vec(&dev, vec![0.0; 6], 2, 3).unwrap();
        let y = act_from_vec(&dev, vec![0.0; 6], 3, 2).unwrap();
        assert_eq!(add(x, y).unwrap_err().to_string(), "add: x (2, 3) does not fit y (3, 2)");
    }

    /// Without a tape too, a sum is a tensor of its own where x is still in use.
    fn check_untaped<B: Backend>(dev: B) {
        let x = act_from_vec(&dev, vec![1.0, 2.0], 1, 2).unwrap();
        let y = act_from_vec(&dev, vec![10.0, 20.0], 1, 2).unwrap();
        let sum = add(x.clone(), y).unwrap();
        assert_eq!((act_to_vec::<B, _>(&sum), act_to_vec::<B, _>(&x)), (vec![11.0, 22.0], vec![1.0, 2.0]));
    }

    /// The f32 sum, rounded once.
    fn check_values<B: Backend>(dev: B, rows: usize, width: usize, seed: u64) {
        let (x, y) = (inputs::<B>(seed, rows * width), inputs::<B>(seed ^ 1, rows * width));
        let want = stored::<B>(x.iter().zip(&y).map(|(x, y)| x + y).collect());
        let act = |values: Vec<f32>| act_from_vec(&dev, values, rows, width).unwrap();
        assert_eq!(act_to_vec::<B, _>(&add(act(x), act(y)).unwrap()), want);
    }

    #[test]
    fn literals_shared_use_and_shapes() {
        on_every_device!(check_literals);
        on_every_device!(check_shared);
        on_every_device!(check_shapes);
        on_every_device!(check_untaped);
    }

    #[test]
    fn without_a_tape_an_unshared_x_is_reused_and_a_shared_one_is_not() {
        let dev = Cpu::default();
        let x = act_from_vec(&dev, vec![1.0, 2.0], 1, 2).unwrap();
        let y = act_from_vec(&dev, vec![10.0, 20.0], 1, 2).unwrap();
        let before = slice::matrix("t", &x).unwrap().as_ptr();
        let sum = add(x, y.clone()).unwrap();
        assert_eq!(slice::matrix("t", &sum).unwrap().as_ptr(), before);
        let other = add(sum.clone(), y).unwrap();
        assert_eq!(act_to_vec::<Cpu, _>(&sum), [11.0, 22.0]);
        assert_eq!(act_to_vec::<Cpu, _>(&other), [21.0, 42.0]);
    }

    proptest! {
        #[test]
        fn the_twin_agrees_on_any_number_of_threads(rows in 1usize..40, width in 1usize..90, seed: u64) {
            on_every_device!(check_values, rows, width, seed);
            let dev = Cpu::default();
            let x = act_from_vec(&dev, numbers(seed, rows * width), rows, width).unwrap();
            let y = act_from_vec(&dev, numbers(seed ^ 1, rows * width), rows, width).unwrap();
            let want = reference::add(x.clone(), y.clone());
            let got = with_threads(3, || {
                act_to_vec::<Cpu, _>(&add(x.clone(), y.clone()).unwrap())
            });
            prop_assert_eq!(&got, &want.as_vec());
            let taped = add(x.put_tape(OpTape::default()), y.put_tape(OpTape::default())).unwrap();
            prop_assert_eq!(got, act_to_vec::<Cpu, _>(&taped));
        }
    }
}
