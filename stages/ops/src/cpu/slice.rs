//! The one door from a dfdx CPU tensor to its numbers as a slice.
//!
//! dfdx 0.13 keeps a tensor's storage private; `as_vec` copies element by element. Indexing is public and returns a
//! reference into the storage, so the address of the first element is the address of all of them, once it is checked
//! that rows lie one after the other. Unaware of what the numbers mean.

use dfdx::prelude::{Cpu, HasShape, NoneTape, Tensor};

use crate::OpError;

type Rank2<T> = Tensor<(usize, usize), f32, Cpu, T>;
type Rank1<T> = Tensor<(usize,), f32, Cpu, T>;

/// All numbers of a contiguous matrix, row after row. A permuted or broadcast tensor is an error.
pub(crate) fn matrix<'a, T>(op: &'static str, tensor: &'a Rank2<T>) -> Result<&'a [f32], OpError> {
    let (rows, cols) = shape2(tensor);
    if rows == 0 || cols == 0 {
        return Ok(&[]);
    }
    check2(op, tensor)?;
    let first: *const f32 = &tensor[[0, 0]];
    // SAFETY: `check2` found elements (0, 1), (1, 0) and the last one where a contiguous matrix has them, so strides
    // are (cols, 1); dfdx bounds-checked the last index against the storage, one `Vec<f32>`, so all `rows * cols`
    // elements from `first` on lie in it and are initialised. The slice borrows the tensor, whose `Arc` keeps the
    // storage alive, and nothing can write to it while this shared borrow lasts: dfdx writes through `&mut` with
    // copy-on-write only.
    Ok(unsafe { std::slice::from_raw_parts(first, rows * cols) })
}

/// As [`matrix`], to be written. Storage that another tensor shares is copied first (dfdx's copy-on-write).
pub(crate) fn matrix_mut<'a>(op: &'static str, tensor: &'a mut Rank2<NoneTape>) -> Result<&'a mut [f32], OpError> {
    let (rows, cols) = shape2(tensor);
    if rows == 0 || cols == 0 {
        return Ok(&mut []);
    }
    check2(op, tensor)?;
    let first: *mut f32 = &mut tensor[[0, 0]];
    // SAFETY: as in `matrix` for the extent. dfdx's `IndexMut` made the storage unique before it returned `first`
    // (`Arc::make_mut`), the pointer comes from that mutable borrow of the `Vec`'s buffer, and the slice holds the
    // tensor's `&mut` for its life.
    Ok(unsafe { std::slice::from_raw_parts_mut(first, rows * cols) })
}

/// Makes the storage this tensor's own; says whether it had to be copied because something else shared it.
pub(crate) fn unshare(op: &'static str, tensor: &mut Rank2<NoneTape>) -> Result<bool, OpError> {
    let before = matrix(op, tensor)?.as_ptr();
    Ok(matrix_mut(op, tensor)?.as_ptr() != before)
}

/// All numbers of a contiguous vector.
pub(crate) fn vector<'a, T>(op: &'static str, tensor: &'a Rank1<T>) -> Result<&'a [f32], OpError> {
    let len = shape1(tensor);
    if len == 0 {
        return Ok(&[]);
    }
    check1(op, tensor)?;
    let first: *const f32 = &tensor[[0]];
    // SAFETY: `check1` found elements 1 and len - 1 at their places, so the stride is 1; the rest as in `matrix`.
    Ok(unsafe { std::slice::from_raw_parts(first, len) })
}

/// As [`vector`], to be written, with copy-on-write.
pub(crate) fn vector_mut<'a>(op: &'static str, tensor: &'a mut Rank1<NoneTape>) -> Result<&'a mut [f32], OpError> {
    let len = shape1(tensor);
    if len == 0 {
        return Ok(&mut []);
    }
    check1(op, tensor)?;
    let first: *mut f32 = &mut tensor[[0]];
    // SAFETY: as in `vector` for the extent and in `matrix_mut` for uniqueness.
    Ok(unsafe { std::slice::from_raw_parts_mut(first, len) })
}

fn shape2<T>(tensor: &Rank2<T>) -> (usize, usize) {
    *HasShape::shape(tensor)
}

fn shape1<T>(tensor: &Rank1<T>) -> usize {
    HasShape::shape(tensor).0
}

/// Element distance of `there` from `here`; both lie in one allocation.
fn distance(here: &f32, there: &f32) -> usize {
    (std::ptr::from_ref(there).addr().wrapping_sub(std::ptr::from_ref(here).addr())) / size_of::<f32>()
}

fn check2<T>(op: &'static str, tensor: &Rank2<T>) -> Result<(), OpError> {
    let (rows, cols) = shape2(tensor);
    let first = &tensor[[0, 0]];
    let row_step = rows == 1 || distance(first, &tensor[[1, 0]]) == cols;
    let col_step = cols == 1 || distance(first, &tensor[[0, 1]]) == 1;
    let last = distance(first, &tensor[[rows - 1, cols - 1]]) == rows * cols - 1;
    if row_step && col_step && last {
        Ok(())
    } else {
        Err(OpError::NotContiguous { op, shape: format!("[{rows}, {cols}]") })
    }
}

fn check1<T>(op: &'static str, tensor: &Rank1<T>) -> Result<(), OpError> {
    let len = shape1(tensor);
    let first = &tensor[[0]];
    if len == 1 || (distance(first, &tensor[[1]]) == 1 && distance(first, &tensor[[len - 1]]) == len - 1) {
        Ok(())
    } else {
        Err(OpError::NotContiguous { op, shape: format!("[{len}]") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfdx::prelude::*;

    #[test]
    fn a_slice_holds_the_tensors_numbers_and_writes_reach_only_its_own_storage() {
        let dev = Cpu::default();
        let mut x = dev.tensor_from_vec(vec![1.0f32, 2., 3., 4., 5., 6.], (2usize, 3usize));
        assert_eq!(matrix("t", &x).unwrap(), &[1., 2., 3., 4., 5., 6.]);
        let before = matrix("t", &x).unwrap().as_ptr();
        matrix_mut("t", &mut x).unwrap()[4] = 50.0;
        assert_eq!(matrix("t", &x).unwrap().as_ptr(), before, "a tensor that nobody shares is written in place");
        let shared = x.clone();
        matrix_mut("t", &mut x).unwrap()[0] = 10.0;
        assert_eq!(shared.as_vec(), [1., 2., 3., 4., 50., 6.]);
        assert_eq!(x.as_vec(), [10., 2., 3., 4., 50., 6.]);
    }

    #[test]
    fn permuted_and_broadcast_tensors_are_refused_and_empty_ones_are_empty() {
        let dev = Cpu::default();
        let x = dev.tensor_from_vec(vec![1.0f32, 2., 3., 4., 5., 6.], (2usize, 3usize));
        let permuted: Tensor<(usize, usize), f32, Cpu> = x.permute::<_, Axes2<1, 0>>();
        assert!(matches!(matrix("t", &permuted), Err(OpError::NotContiguous { .. })));
        let row = dev.tensor_from_vec(vec![1.0f32, 2., 3.], (3usize,));
        let broadcast: Tensor<(usize, usize), f32, Cpu> = row.broadcast_like::<_, Axis<0>>(&(2usize, 3usize));
        assert!(matches!(matrix("t", &broadcast), Err(OpError::NotContiguous { .. })));
        let empty: Tensor<(usize, usize), f32, Cpu> = dev.tensor_from_vec(vec![], (0usize, 3usize));
        assert!(matrix("t", &empty).unwrap().is_empty());
    }
}
