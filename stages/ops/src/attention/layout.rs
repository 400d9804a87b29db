//! Which rows of a packed batch may see which: segments, each causal in itself, each with at most one shared prefix.
//!
//! Unaware of heads and numbers.

#[cfg(feature = "cuda")]
use std::any::Any;
use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

use crate::OpError;

/// A range of earlier rows that a segment sees in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
}

/// Consecutive rows: row i of a segment sees all of the prefix, and rows `0..=i` of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
    /// Rows before the segment that all of it sees.
    pub prefix: Option<Prefix>,
}

impl Segment {
    /// Number of prefix rows.
    pub fn prefix_len(&self) -> usize {
        self.prefix.map_or(0, |prefix| prefix.len)
    }

    /// The prefix's rows; empty if there is none.
    pub fn prefix_rows(&self) -> Range<usize> {
        self.prefix.map_or(0..0, |prefix| prefix.start..prefix.start + prefix.len)
    }

    /// The segment's rows.
    pub fn rows(&self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// The segments of a packed batch, in row order, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    segments: Vec<Segment>,
    tokens: usize,
    #[cfg(feature = "cuda")]
    kept: Kept,
}

/// What a device made of a layout, kept for the next layer. No part of what the layout is: all are equal, and a clone
/// begins without it.
#[cfg(feature = "cuda")]
#[derive(Default)]
struct Kept(OnceLock<Box<dyn Any + Send + Sync>>);

#[cfg(feature = "cuda")]
impl Clone for Kept {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(feature = "cuda")]
impl PartialEq for Kept {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(feature = "cuda")]
impl Eq for Kept {}

#[cfg(feature = "cuda")]
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.get().is_some() { "Kept" } else { "Nothing" })
    }
}

impl Layout {
    /// Segments that cover rows `0..n` in order; a prefix must end where its segment begins or earlier.
    ///
    /// # Errors
    /// On a gap, an overlap, an empty segment, or a prefix that is empty or reaches into its segment.
    pub fn new(segments: Vec<Segment>) -> Result<Self, OpError> {
        let mut tokens = 0usize;
        for (i, segment) in segments.iter().enumerate() {
            if segment.start != tokens {
                let message = format!("segment {i} begins at row {}, not {tokens}", segment.start);
                return Err(OpError::argument("layout", message));
            }
            if segment.len == 0 {
                return Err(OpError::argument("layout", format!("segment {i} is empty")));
            }
            if let Some(prefix) = segment.prefix {
                let end = prefix.start.checked_add(prefix.len);
                if prefix.len == 0 || end.is_none_or(|end| end > segment.start) {
                    let message = format!(
                        "the prefix of segment {i} ({} rows from {}) must hold rows before row {}",
                        prefix.len, prefix.start, segment.start
                    );
                    return Err(OpError::argument("layout", message));
                }
            }
            tokens = tokens
                .checked_add(segment.len)
                .ok_or_else(|| OpError::argument("layout", format!("segment {i} is too long")))?;
        }
        Ok(Self {
            segments,
            tokens,
            #[cfg(feature = "cuda")]
            kept: Kept::default(),
        })
    }

    /// Independent sequences from cumulative lengths `[0, n1, n1 + n2, ...]`, as varlen kernels take them.
    ///
    /// # Errors
    /// If the list does not begin with 0 or does not rise.
    pub fn from_cu_seqlens(cu_seqlens: &[u32]) -> Result<Self, OpError> {
        if cu_seqlens.first() != Some(&0) {
            return Err(OpError::argument("layout", "cu_seqlens must begin with 0"));
        }
        if let Some(pair) = cu_seqlens.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(OpError::argument(
                "layout",
                format!("cu_seqlens does not rise from {} to {}", pair[0], pair[1]),
            ));
        }
        let segment =
            |pair: &[u32]| Segment { start: pair[0] as usize, len: (pair[1] - pair[0]) as usize, prefix: None };
        Self::new(cu_seqlens.windows(2).map(segment).collect())
    }

    /// Number of rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// What `make` returns, made at the first call only. Nobody else may keep another type.
    #[cfg(feature = "cuda")]
    pub(super) fn keep<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Result<T, OpError>) -> Result<&T, OpError> {
        if self.kept.0.get().is_none() {
            let _ = self.kept.0.set(Box::new(make()?)); // another thread's is as good
        }
        let kept = self.kept.0.get().and_then(|kept| kept.downcast_ref());
        kept.ok_or_else(|| OpError::argument("layout", "two devices keep work lists in one layout"))
    }

    /// The segments in row order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cumulative_lengths_become_segments() {
        let layout = Layout::from_cu_seqlens(&[0, 3, 4]).unwrap();
        assert_eq!(layout.tokens(), 4);
        assert_eq!(layout.segments()[1], Segment { start: 3, len: 1, prefix: None });
        assert_eq!(Layout::from_cu_seqlens(&[0]).unwrap().tokens(), 0);
    }

    #[test]
    fn bad_layouts_say_where() {
        let say = |segments| Layout::new(segments).unwrap_err().to_string();
        let segment = |start, len, prefix: Option<(usize, usize)>| Segment {
            start,
            len,
            prefix: prefix.map(|(start, len)| Prefix { start, len }),
        };
        assert_eq!(say(vec![segment(1, 2, None)]), "layout: segment 0 begins at row 1, not 0");
        assert_eq!(say(vec![segment(0, 0, None)]), "layout: segment 0 is empty");
        let prefix = "layout: the prefix of segment 1 (3 rows from 0) must hold rows before row 2";
        assert_eq!(say(vec![segment(0, 2, None), segment(2, 2, Some((0, 3)))]), prefix);
        assert_eq!(say(vec![segment(0, 2, None), segment(2, 2, Some((1, 0)))]).len(), prefix.len());
        let cu = |list: &[u32]| Layout::from_cu_seqlens(list).unwrap_err().to_string();
        assert_eq!(cu(&[]), "layout: cu_seqlens must begin with 0");
        assert_eq!(cu(&[0, 2, 2]), "layout: cu_seqlens does not rise from 2 to 2");
    }
}
