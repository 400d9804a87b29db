//! The greedy choice: the largest of a row, the lowest index among equals. Unaware of tokens.

use crate::OpError;

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

    #[test]
    fn the_lowest_index_wins_a_tie_and_nan_is_refused() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]).unwrap(), 0);
        assert_eq!(argmax(&[-7e9, -1e-20]).unwrap(), 1);
        assert_eq!(argmax(&[]).unwrap_err().to_string(), "argmax: the row is empty");
        assert_eq!(argmax(&[0.0, f32::NAN]).unwrap_err().to_string(), "argmax: element 1 is NaN");
    }
}
