//! Rotary positions, split-half convention (`rotate_half`): in every head, element `i` and element `i + head_dim / 2`
//! are rotated by the angle `position * inv_freq[i]`.
//!
//! `out[i] = x[i] cos - x[i + h] sin`, `out[i + h] = x[i + h] cos + x[i] sin`, `h = head_dim / 2` (Su et al., 2021, in
//! Hugging Face's layout). Backward adds (`+=`) the gradient rotated the other way; nothing but positions is saved.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
pub mod reference;

#[cfg(feature = "cuda")]
pub(crate) use cuda_kernel::{Pair, rotate_pair};

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use dfdx::prelude::{PutTape, SplitTape};
use dfdx::shapes::HasShape;

use crate::OpError;
use crate::backend::{Act, Backend, Buffer, Matrix, Memory};
use crate::host::matrix_from_vec;
use crate::profile::{node, span};
use crate::tape::Record;

/// Positions of a batch's rows on the host, and on the device as every layer's rotation reads them.
type Uploaded<B> = (Vec<u32>, Arc<<B as RopeKernel>::Positions>);

/// Cosines and sines of every position, f32.
#[derive(Debug)]
pub struct RopeTable<B: Backend> {
    /// `[positions, head_dim / 2]`.
    cos: Matrix<B>,
    /// `[positions, head_dim / 2]`.
    sin: Matrix<B>,
    /// The last positions asked for: the layers of a batch share them, so they reach the device once.
    last: Arc<Mutex<Option<Uploaded<B>>>>,
}

impl<B: Backend> Clone for RopeTable<B> {
    fn clone(&self) -> Self {
        Self { cos: self.cos.clone(), sin: self.sin.clone(), last: self.last.clone() }
    }
}

impl<B: Backend> RopeTable<B> {
    /// The table for positions `0..max_positions`. Angles are f32 products, as Hugging Face computes them; scaling of
    /// the frequencies (`llama3` and others) is the caller's.
    pub fn new(dev: &B, inv_freq: &[f32], max_positions: usize) -> Result<Self, OpError> {
        let mut cos = Vec::with_capacity(max_positions * inv_freq.len());
        let mut sin = Vec::with_capacity(max_positions * inv_freq.len());
        for position in 0..max_positions {
            for f in inv_freq {
                let (s, c) = f64::from(position as f32 * f).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        let half = inv_freq.len();
        Ok(Self {
            cos: matrix_from_vec(dev, cos, max_positions, half)?,
            sin: matrix_from_vec(dev, sin, max_positions, half)?,
            last: Arc::default(),
        })
    }

    /// `positions` on the device.
    pub(crate) fn positions(&self, dev: &B, positions: &[u32]) -> Result<Arc<B::Positions>, OpError> {
        // A panic while it was locked left it whole: it is assigned at once.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((host, device)) = &*last
            && host == positions
        {
            return Ok(device.clone());
        }
        let device = Arc::new(dev.rope_positions(positions)?);
        *last = Some((positions.to_vec(), device.clone()));
        Ok(device)
    }

    fn rotation<'a>(&'a self, positions: &'a B::Positions) -> Rotation<'a, B> {
        Rotation { cos: &self.cos, sin: &self.sin, positions }
    }

    /// Positions are below this.
    pub fn max_positions(&self) -> usize {
        self.cos.shape().0
    }

    /// Cosines and sines, `[positions, head_dim / 2]` each.
    pub fn tables(&self) -> (&Matrix<B>, &Matrix<B>) {
        (&self.cos, &self.sin)
    }
}

/// One rotation: the tables and where each row stands.
pub struct Rotation<'a, B: Memory + RopeKernel> {
    /// `[positions, head_dim / 2]`.
    pub cos: &'a Matrix<B>,
    /// `[positions, head_dim / 2]`.
    pub sin: &'a Matrix<B>,
    /// One position a row, all within the tables.
    pub positions: &'a B::Positions,
}

/// What a device does for [`rope`].
pub trait RopeKernel: Sized {
    /// Positions where this device's kernels read them.
    type Positions: Debug + Send + Sync + 'static;
    /// Brings positions to the device.
    fn rope_positions(&self, positions: &[u32]) -> Result<Self::Positions, OpError>;
    /// `x` rotated, in a new tensor.
    fn rope_forward(&self, x: &Act<Self>, rotation: Rotation<Self>) -> Result<Act<Self>, OpError>
    where
        Self: Memory;
    /// `x` rotated, in its own storage if nothing shares it, else in a new tensor.
    fn rope_reusing(&self, x: Act<Self>, rotation: Rotation<Self>) -> Result<Act<Self>, OpError>
    where
        Self: Memory;
    /// `d_x += ` `d` rotated back, or `=` if d_x is `unwritten`.
    fn rope_backward(
        &self,
        d: &Buffer<Self>,
        rotation: Rotation<Self>,
        d_x: &mut Buffer<Self>,
        unwritten: bool,
    ) -> Result<(), OpError>
    where
        Self: Memory;
}

/// Rotates each row of `x [tokens, heads * head_dim]` by its position. Without a tape `x` is overwritten if nothing
/// else shares its storage.
///
/// # Errors
/// If `head_dim` is odd, is not twice the table's width or does not divide the width, if there is not one position a
/// row, or if a position is outside the table.
pub fn rope<B: Backend, T: Record<B>>(
    x: Act<B, T>,
    head_dim: usize,
    table: &RopeTable<B>,
    positions: &[u32],
) -> Result<Act<B, T>, OpError> {
    let &(limit, half) = table.cos.shape();
    if head_dim != 2 * half {
        return Err(OpError::shape("rope", ("head_dim", head_dim), ("table", table.cos.shape())));
    }
    if head_dim == 0 || !x.shape().1.is_multiple_of(head_dim) {
        return Err(OpError::shape("rope", ("x", x.shape()), ("head_dim", head_dim)));
    }
    if positions.len() != x.shape().0 {
        return Err(OpError::shape("rope", ("x", x.shape()), ("positions", [positions.len()])));
    }
    if let Some(position) = positions.iter().find(|p| **p as usize >= limit) {
        return Err(OpError::OutOfRange { op: "rope", what: "position", index: *position as usize, limit });
    }
    let (x, mut tape) = x.split_tape();
    let dev = x.device().clone();
    let positions = table.positions(&dev, positions)?;
    if !T::RECORDS {
        let out = span(&dev, "rope.forward", || dev.rope_reusing(x, table.rotation(&positions)))?;
        return Ok(out.put_tape(tape));
    }
    let out = span(&dev, "rope.forward", || dev.rope_forward(&x, table.rotation(&positions)))?;
    let (table, x, out_ghost) = (table.clone(), x.ghost(), out.ghost());
    tape.record(node(dev.clone(), "rope.backward", move |grads| {
        let d = dev.take(grads.acts.get_or_alloc_mut(&out_ghost).map_err(OpError::device)?)?;
        let (d_x, unwritten) = dev.unwritten(|| grads.acts.get_or_alloc_mut(&x));
        dev.rope_backward(&d, table.rotation(&positions), d_x.map_err(OpError::device)?, unwritten)
    }));
    Ok(out.put_tape(tape))
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::Cpu;
    use proptest::prelude::*;

    use super::*;
    use crate::add::add;
    use crate::host::{act_from_vec, act_to_vec};
    use crate::tape::Grads;
    use crate::testing::{
        Leaf, backward, close, close_or, inputs, numbers, on_every_device, tolerance, wide, with_threads,
    };

    fn inv_freq(half: usize) -> Vec<f32> {
        (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect()
    }

    /// Output and gradient of x.
    fn run<B: Backend>(dev: &B, x: &[f32], half: usize, positions: &[u32], d: &[f32]) -> [Vec<f32>; 2] {
        let table = RopeTable::new(dev, &inv_freq(half), 700).unwrap();
        let (x, d_x) = Leaf::new(dev, x.to_vec(), positions.len(), x.len() / positions.len()).split();
        let out = rope(x, 2 * half, &table, positions).unwrap();
        let values = act_to_vec::<B, _>(&out);
        backward(out, d, &mut Grads::default());
        [values, d_x.read()]
    }

    fn check_literals<B: Backend>(dev: B) {
        // head_dim 4 at position 1: angles 1 and 0.01; element 0 turns with 2, element 1 with 3
        let [out, d_x] = run(&dev, &[1.0, 2.0, 3.0, 4.0], 2, &[1], &[1.0, 0.0, 0.0, 0.0]);
        let (c, s) = (1f64.cos(), 1f64.sin());
        let (c2, s2) = (0.01f64.cos(), 0.01f64.sin());
        let want = [c - 3.0 * s, 2.0 * c2 - 4.0 * s2, 3.0 * c + s, 4.0 * c2 + 2.0 * s2];
        close("out", &out, &want, tolerance::<B>(1e-6));
        close("d_x", &d_x, &[c, 0.0, -s, 0.0], tolerance::<B>(1e-6));
        let [still, _] = run(&dev, &[1.0, 2.0, 3.0, 4.0], 2, &[0], &[0.0; 4]);
        assert_eq!(still, [1.0, 2.0, 3.0, 4.0]);
    }

    fn check_shared<B: Backend>(dev: B) {
        let table = RopeTable::new(&dev, &inv_freq(1), 8).unwrap();
        let leaf = Leaf::new(&dev, vec![1.0, 2.0], 1, 2);
        let again = leaf.again();
        let (x, d_x) = leaf.split();
        let out = add(rope(x, 2, &table, &[3]).unwrap(), rope(again, 2, &table, &[5]).unwrap()).unwrap();
        backward(out, &[1.0, -1.0], &mut Grads::default());
        let back = |position| reference::rope(&[1.0, -1.0], &inv_freq(1), &[position], true);
        let want: Vec<f64> = back(3).iter().zip(back(5)).map(|(a, b)| a + b).collect();
        close("d_x", &d_x.read(), &want, tolerance::<B>(1e-5));
    }

    fn check_errors<B: Backend>(dev: B) {
        let table = RopeTable::new(&dev, &inv_freq(2), 8).unwrap();
        assert_eq!(table.max_positions(), 8);
        let x = act_from_vec(&dev, vec![0.0; 12], 2, 6).unwrap();
        let say = |head_dim, positions: &[u32]| rope(x.clone(), head_dim, &table, positions).unwrap_err().to_string();
        assert_eq!(say(6, &[0, 1]), "rope: head_dim 6 does not fit table (8, 2)");
        assert_eq!(say(4, &[0, 1]), "rope: x (2, 6) does not fit head_dim 4");
        let x = act_from_vec(&dev, vec![0.0; 16], 2, 8).unwrap();
        let say = |positions: &[u32]| rope(x.clone(), 4, &table, positions).unwrap_err().to_string();
        assert_eq!(say(&[0]), "rope: x (2, 8) does not fit positions [1]");
        assert_eq!(say(&[0, 8]), "rope: position 8 is out of range: there are 8");
    }

    fn check_exact<B: Backend>(dev: B, positions: Vec<u32>, heads: usize, half: usize, seed: u64) {
        let len = positions.len() * heads * 2 * half;
        let (x, d) = (inputs::<B>(seed, len), inputs::<B>(seed ^ 1, len));
        let [out, d_x] = run(&dev, &x, half, &positions, &d);
        let want = |values: &[f32], back| reference::rope(&wide(values), &inv_freq(half), &positions, back);
        close_or("out", &out, &want(&x, false), tolerance::<B>(1e-5), 0.1);
        close_or("d_x", &d_x, &want(&d, true), tolerance::<B>(1e-5), 0.1);
        let table = RopeTable::new(&dev, &inv_freq(half), 700).unwrap();
        let bare = act_from_vec(&dev, x, positions.len(), heads * 2 * half).unwrap();
        assert!(act_to_vec::<B, _>(&rope(bare, 2 * half, &table, &positions).unwrap()) == out, "without a tape");
    }

    /// One table, batches of other positions in turn: each is rotated by its own.
    fn check_positions_change<B: Backend>(dev: B) {
        let table = RopeTable::new(&dev, &inv_freq(1), 8).unwrap();
        for positions in [[1u32, 2], [1, 2], [2, 1], [0, 0]] {
            let x = act_from_vec(&dev, vec![1.0, 0.0, 1.0, 0.0], 2, 2).unwrap();
            let want = reference::rope(&[1.0, 0.0, 1.0, 0.0], &inv_freq(1), &positions, false);
            let out = rope(x, 2, &table.clone(), &positions).unwrap();
            close("out", &act_to_vec::<B, _>(&out), &want, tolerance::<B>(1e-6));
        }
    }

    #[test]
    fn literals_shared_use_and_errors() {
        on_every_device!(check_literals);
        on_every_device!(check_shared);
        on_every_device!(check_errors);
        on_every_device!(check_positions_change);
        // Heads of 128 and 64 as models have them, and a number of heads that no thread's share divides.
        on_every_device!(check_exact, vec![5, 699, 0], 9usize, 64usize, 1u64);
        on_every_device!(check_exact, vec![1; 40], 6usize, 32usize, 2u64);
    }

    #[test]
    fn with_and_without_a_tape_and_on_any_number_of_threads_the_bits_agree() {
        let dev = Cpu::default();
        let positions: Vec<u32> = (0..300).collect();
        let (x, d) = (numbers(1, 300 * 576), numbers(2, 300 * 576));
        let one = with_threads(1, || run(&dev, &x, 32, &positions, &d));
        let three = with_threads(3, || run(&dev, &x, 32, &positions, &d));
        assert!(one == three);
        let table = RopeTable::new(&dev, &inv_freq(32), 300).unwrap();
        let bare = rope(act_from_vec(&dev, x, 300, 576).unwrap(), 64, &table, &positions).unwrap();
        assert!(act_to_vec::<Cpu, _>(&bare) == one[0]);
    }

    proptest! {
        #[test]
        fn the_twin_agrees(
            positions in prop::collection::vec(0u32..700, 1..5),
            heads in 1usize..4, half in 1usize..20, seed: u64,
        ) {
            on_every_device!(check_exact, positions, heads, half, seed);
        }
    }
}
