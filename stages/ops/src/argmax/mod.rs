//! The greedy choice: the largest of a row, the lowest index among equals. Unaware of tokens.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

#[cfg(feature = "cuda")]
pub(crate) use cuda_kernel::CudaIds;

use dfdx::shapes::HasShape;

use crate::OpError;
use crate::backend::{Act, Backend, Memory, Weight};
use crate::profile::span;

/// What a device does for [`argmax_rows`], [`linear_argmax`] and [`NextIds`]: an id a row, none for a row that holds a NaN. No size
/// is 0.
pub trait ArgmaxKernel: Sized {
    /// For each row of logits.
    fn argmax_kernel(&self, logits: &Act<Self>) -> Result<Vec<Option<u32>>, OpError>
    where
        Self: Memory;
    /// Ids where the device's own kernels read them.
    type Ids;
    /// Steps of decoding after which the host should read ids, because reading makes the device wait.
    const READ_EVERY: usize;
    /// For each row of `x W^T`, products and sums in f32. A row's id depends on that row only.
    fn linear_argmax_ids(&self, x: &Act<Self>, weight: &Weight<Self>) -> Result<Self::Ids, OpError>
    where
        Self: Memory;
    /// Ids on the host.
    fn read_ids(&self, ids: &Self::Ids) -> Result<Vec<Option<u32>>, OpError>;
}

/// Ids that [`linear_argmax_next`] chose, on the device: they can be embedded before anybody has read them.
pub struct NextIds<B: Backend> {
    pub(crate) ids: B::Ids,
    /// How many.
    pub(crate) rows: usize,
    dev: B,
}

impl<B: Backend> NextIds<B> {
    /// The ids, once the device has them; none for a row of logits that held a NaN.
    ///
    /// # Errors
    /// The device failed.
    pub fn read_each(&self) -> Result<Vec<Option<u32>>, OpError> {
        if self.rows == 0 { Ok(Vec::new()) } else { self.dev.read_ids(&self.ids) }
    }

    /// The ids, once the device has them.
    ///
    /// # Errors
    /// If a row of logits held a NaN; the first such row is named. The device failed.
    pub fn read(&self) -> Result<Vec<u32>, OpError> {
        checked(self.read_each()?)
    }
}

fn checked(ids: Vec<Option<u32>>) -> Result<Vec<u32>, OpError> {
    let known = |(row, id): (usize, Option<u32>)| {
        id.ok_or_else(|| OpError::argument("argmax", format!("row {row} holds a NaN")))
    };
    ids.into_iter().enumerate().map(known).collect()
}

/// [`argmax`] of each row of `logits [rows, vocabulary]`; only the ids come to the host.
///
/// # Errors
/// If there are rows without elements, or one holds a NaN; the first such row is named.
pub fn argmax_rows<B: Backend + ArgmaxKernel>(logits: &Act<B>) -> Result<Vec<u32>, OpError> {
    match *logits.shape() {
        (0, _) => Ok(Vec::new()),
        (_, 0) => Err(OpError::argument("argmax", "the rows are empty")),
        _ => checked(span(logits.device(), "argmax", || logits.device().argmax_kernel(logits))?),
    }
}

/// [`argmax`] of each row of the logits `x W^T`, for `x [rows, width]` and the head `weight [vocabulary, width]`.
/// Logits stay f32 and on the device, a chunk of rows at a time: rounding them to bf16 would make ties.
///
/// # Errors
/// If the widths differ or are 0, the head has no rows, or a row of logits holds a NaN; the first such row is named.
pub fn linear_argmax<B: Backend>(x: &Act<B>, weight: &Weight<B>) -> Result<Vec<u32>, OpError> {
    if x.shape().0 == 0 { Ok(Vec::new()) } else { linear_argmax_next(x, weight)?.read() }
}

/// As [`linear_argmax`], but the ids stay on the device; a NaN shows when they are read.
///
/// # Errors
/// If the widths differ or are 0, the head has no rows, or there is no row.
pub fn linear_argmax_next<B: Backend>(x: &Act<B>, weight: &Weight<B>) -> Result<NextIds<B>, OpError> {
    let (&(rows, width), &(vocabulary, inputs)) = (x.shape(), weight.shape());
    if width != inputs {
        return Err(OpError::shape("linear_argmax", ("x", x.shape()), ("weight", weight.shape())));
    }
    if rows == 0 {
        return Err(OpError::argument("linear_argmax", "there is no row"));
    }
    if width == 0 || vocabulary == 0 {
        return Err(OpError::argument("linear_argmax", "the head is empty"));
    }
    let dev = x.device().clone();
    let ids = span(&dev, "linear_argmax", || dev.linear_argmax_ids(x, weight))?;
    Ok(NextIds { ids, rows, dev })
}

/// Index of the largest element, the lowest among equals: `argmax_i row[i]`, as torch's `argmax` picks on the CPU.
///
/// An empty row or a NaN in it is an error: a model that returns NaN has no greedy choice.
pub fn argmax(row: &[f32]) -> Result<usize, OpError> {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if x.is_nan() {
            return Err(OpError::argument("argmax", format!("element {i} is NaN")));
        }
        if *x > row[best] {
            best = i;
        }
    }
    if row.is_empty() { Err(OpError::argument("argmax", "the row is empty")) } else { Ok(best) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::embedding_next;
    use crate::host::{act_from_vec, act_to_vec, weight_from_vec};
    use crate::testing::{inputs, on_every_device};

    fn check_rows<B: Backend + ArgmaxKernel>(dev: B) {
        let (low, high) = (f32::NEG_INFINITY, 7e9);
        let rows = vec![1.0, 3.0, 3.0, 2.0, low, low, low, low, -high, -1e-20, -1.0, -high, 0.0, 0.0, 0.0, 0.5];
        let logits = act_from_vec(&dev, rows, 4, 4).unwrap();
        assert_eq!(argmax_rows(&logits).unwrap(), [1, 0, 1, 3]);
        let logits = act_from_vec(&dev, vec![0.0, 1.0, f32::NAN, 9.0], 2, 2).unwrap();
        assert_eq!(argmax_rows(&logits).unwrap_err().to_string(), "argmax: row 1 holds a NaN");
        let none = act_from_vec(&dev, vec![0.0; 6], 3, 2).unwrap();
        assert_eq!(argmax_rows(&none).unwrap(), [0, 0, 0]);
        // Longer than a block has threads; the largest stands twice.
        let mut long = vec![0.0; 2 * 5000];
        (long[4321], long[4999], long[5000 + 1]) = (1.0, 1.0, 2.0);
        assert_eq!(argmax_rows(&act_from_vec(&dev, long, 2, 5000).unwrap()).unwrap(), [4321, 1]);
    }

    fn check_head<B: Backend + ArgmaxKernel>(dev: B) {
        // Rows 1 and 3 of the head are equal: the lower wins.
        let weight = weight_from_vec(&dev, vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.5, 0.0, 1.0], 4, 2).unwrap();
        let x = act_from_vec(&dev, vec![2.0, 1.0, 0.0, 1.0, -3.0, 1.0], 3, 2).unwrap();
        assert_eq!(linear_argmax(&x, &weight).unwrap(), [0, 1, 2]);
        // More rows than one chunk of the CPU; logits that bf16 could not tell apart.
        let weight = weight_from_vec(&dev, vec![1.0, 0.0, 1.0, 1.0 / 1024.0], 2, 2).unwrap();
        let x = act_from_vec(&dev, vec![1.0; 2 * 130], 130, 2).unwrap();
        assert_eq!(linear_argmax(&x, &weight).unwrap(), [1; 130]);
        assert_eq!(linear_argmax(&act_from_vec(&dev, vec![], 0, 2).unwrap(), &weight).unwrap(), []);
        // Ids may be used before they are read; a NaN shows when they are.
        let weight = weight_from_vec(&dev, vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.5], 3, 2).unwrap();
        let x = act_from_vec(&dev, vec![0.0, 1.0, f32::NAN, 1.0, -3.0, 1.0], 3, 2).unwrap();
        let next = linear_argmax_next(&x, &weight).unwrap();
        let rows = act_to_vec::<B, _>(&embedding_next(&next, &weight).unwrap());
        assert_eq!(rows, [0.0, 1.0, 1.0, 0.0, -1.0, 0.5]);
        assert_eq!(next.read().unwrap_err().to_string(), "argmax: row 1 holds a NaN");
        let small = weight_from_vec(&dev, vec![1.0, 0.0], 1, 2).unwrap();
        assert!(embedding_next(&next, &small).is_err());
        let narrow = act_from_vec(&dev, vec![1.0; 3], 1, 3).unwrap();
        let error = linear_argmax(&narrow, &weight).unwrap_err();
        assert_eq!(error.to_string(), "linear_argmax: x (1, 3) does not fit weight (3, 2)");
    }

    /// A head of many rows and whole vectors: the largest logit by f64, and the same beside any other rows.
    fn check_wide_head<B: Backend + ArgmaxKernel>(dev: B) {
        let (rows, width, vocabulary) = (70, 72, 1000);
        let (x, head) = (inputs::<B>(1, rows * width), inputs::<B>(2, vocabulary * width));
        let weight = weight_from_vec(&dev, head.clone(), vocabulary, width).unwrap();
        let choose = |x: &[f32]| {
            let x = act_from_vec(&dev, x.to_vec(), x.len() / width, width).unwrap();
            linear_argmax(&x, &weight).unwrap()
        };
        let all = choose(&x);
        for (row, id) in x.chunks(width).zip(&all) {
            let logit =
                |head: &[f32]| -> f64 { row.iter().zip(head).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum() };
            let logits: Vec<f64> = head.chunks(width).map(logit).collect();
            let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert!(logits[*id as usize] >= most - 1e-5 * most.abs(), "{id}: {} of {most}", logits[*id as usize]);
        }
        for each in [1, 7, 64] {
            let parts: Vec<u32> = x.chunks(each * width).flat_map(choose).collect();
            assert_eq!(parts, all, "by {each}");
        }
    }

    #[test]
    fn rows_are_chosen_where_they_are() {
        on_every_device!(check_wide_head);
        on_every_device!(check_rows);
        on_every_device!(check_head);
    }

    #[test]
    fn the_lowest_index_wins_a_tie_and_nan_is_refused() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]).unwrap(), 0);
        assert_eq!(argmax(&[-7e9, -1e-20]).unwrap(), 1);
        assert_eq!(argmax(&[]).unwrap_err().to_string(), "argmax: the row is empty");
        assert_eq!(argmax(&[0.0, f32::NAN]).unwrap_err().to_string(), "argmax: element 1 is NaN");
    }
}
