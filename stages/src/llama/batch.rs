//! Packed sequences: what one forward pass sees. No padding, no batch dimension.
//!
//! Unaware of models and of where the tokens came from.
use crate::failure::OrFail;
use anneal_engine::Failure;
use anneal_ops::Layout;
use std::sync::Arc;

/// Packed sequences: no padding, no batch dimension.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token ids of all sequences, one after the other.
    pub ids: Vec<u32>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    /// Which rows may see which.
    pub layout: Arc<Layout>,
    /// Rows whose next token is labelled.
    pub rows: Vec<u32>,
    /// The labelled next token of each of these rows.
    pub targets: Vec<u32>,
}

impl Batch {
    /// Packs sequences of (ids, labelled): `labelled[t]` says that token t is an answer's, so that row t-1 is scored.
    ///
    /// # Errors
    /// There is no sequence, or an empty one.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [u8])>) -> Result<Self, Failure> {
        let (mut ids, mut positions, mut rows, mut targets) = (vec![], vec![], vec![], vec![]);
        let mut cu_seqlens = vec![0_u32];
        for (tokens, labelled) in sequences {
            let start = ids.len() as u32;
            for (t, (id, label)) in tokens.iter().zip(labelled).enumerate().skip(1) {
                if *label != 0 {
                    rows.push(start + t as u32 - 1);
                    targets.push(*id);
                }
            }
            ids.extend_from_slice(tokens);
            positions.extend(0..tokens.len() as u32);
            cu_seqlens.push(ids.len() as u32);
        }
        let layout = Arc::new(Layout::from_cu_seqlens(&cu_seqlens).or_fail()?);
        Ok(Self { ids, positions, layout, rows, targets })
    }
}
