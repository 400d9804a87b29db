//! The slow twin of `linear`, composed of stock dfdx, without dropout. For tests.

use dfdx::prelude::{Axes2, Axis, BroadcastTo, Cpu, HasShape, PermuteTo, Tape, Tensor, TryMatMul, WithEmptyTape};

use crate::backend::Act;

type Traced<T> = Tensor<(usize, usize), f32, Cpu, T>;

/// `x W^T + bias + scaling * (x A^T) B^T` by dfdx; the branch is `(A, B, scaling)`.
pub fn linear<T: Tape<f32, Cpu>>(
    x: Traced<T>,
    weight: Traced<T>,
    bias: Option<Tensor<(usize,), f32, Cpu, T>>,
    branch: Option<(Traced<T>, Traced<T>, f32)>,
) -> Act<Cpu, T> {
    let input = x.with_empty_tape();
    let mut y: Traced<T> = x.matmul(weight.permute::<_, Axes2<1, 0>>());
    if let Some((a, b, scaling)) = branch {
        let u: Traced<T> = input.matmul(a.permute::<_, Axes2<1, 0>>());
        let branch: Traced<T> = u.matmul(b.permute::<_, Axes2<1, 0>>());
        y = y + branch * scaling;
    }
    if let Some(bias) = bias {
        let shape = *y.shape();
        y = y + bias.broadcast_like::<_, Axis<0>>(&shape);
    }
    y
}
