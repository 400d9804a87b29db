//! Keys and values of one layer, for generation. Unaware of layers above it and of positions.

use crate::backend::Backend;

/// The keys and values that a sequence has so far, `[len, n_kv_heads * head_dim]` each. Grows as needed.
pub struct LayerCache<B: Backend> {
    pub(super) store: B::Cache,
    pub(super) len: usize,
    /// Width of the rows it holds; meaningless while empty.
    pub(super) width: usize,
    /// Rows to make room for when it grows.
    pub(super) reserve: usize,
}

impl<B: Backend> Default for LayerCache<B> {
    fn default() -> Self {
        Self { store: B::Cache::default(), len: 0, width: 0, reserve: 0 }
    }
}

impl<B: Backend> Clone for LayerCache<B> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), len: self.len, width: self.width, reserve: self.reserve }
    }
}

impl<B: Backend> LayerCache<B> {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// When the cache next needs memory it takes enough for `rows` rows in all, so that it need not move again before.
    pub fn reserve(&mut self, rows: usize) {
        self.reserve = rows;
    }

    /// Forgets all rows from `len` on; keeps the memory. A longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}
