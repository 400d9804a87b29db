//! The work lists of the CUDA kernels, from a layout: tiles of query rows, tiles of key rows and who sees them.
//!
//! `tiles.cuh` has the same structures. Tiles are cut from each segment's start, so that a row's numbers do not depend
//! on its neighbours in the batch; the longest come first, so that the GPU's last tiles are short. Unaware of heads and
//! of devices.

use super::{Layout, Segment};
use crate::OpError;

/// Query rows of a forward tile.
pub(super) const FORWARD_ROWS: usize = 128;
/// Rows of backward's tiles, of queries as of keys, for blocks of one warp's products.
pub(super) const LOW: usize = 64;
/// The same, for products of whole warpgroups.
pub(super) const TALL: usize = 128;

/// Where a list begins among a plan's values, and how many structures it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    /// Index of the first value.
    pub(super) at: usize,
    /// Number of structures.
    pub(super) count: usize,
}

/// The lists one after the other, as the device gets them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// All structures' fields.
    pub(super) values: Vec<i32>,
    /// `QueryTile`s of [`FORWARD_ROWS`].
    pub(super) forward: List,
    /// In tiles of [`LOW`] rows.
    pub(super) low: Backward,
    /// In tiles of [`TALL`] rows.
    pub(super) tall: Backward,
}

/// What backward goes over, in tiles of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backward {
    /// `QueryTile`s.
    pub(super) queries: List,
    /// `KeyTile`s.
    pub(super) keys: List,
    /// `KeyEntry`s.
    pub(super) entries: List,
}

/// Appends structures of `N` fields, those with the most work first.
fn append<const N: usize>(values: &mut Vec<i32>, mut list: Vec<(usize, [usize; N])>) -> List {
    list.sort_by_key(|(work, _)| std::cmp::Reverse(*work)); // stable
    let at = values.len();
    values.extend(list.iter().flat_map(|(_, fields)| fields).map(|field| *field as i32));
    List { at, count: list.len() }
}

/// Refuses row numbers that do not fit the kernels' i32; a block may look one tile further than there are rows.
fn check(rows: usize) -> Result<(), OpError> {
    if rows > i32::MAX as usize - FORWARD_ROWS {
        return Err(OpError::argument("attention", format!("{rows} rows at once are more than the CUDA kernels take")));
    }
    Ok(())
}

/// (first row, number of rows) of tiles that cut `len` rows.
fn cuts(len: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(rows).map(move |first| (first, rows.min(len - first)))
}

/// `QueryTile`s, and how many keys each sees.
fn query_tiles(layout: &Layout, rows: usize) -> Vec<(usize, [usize; 6])> {
    let of_segment = |segment: &Segment| {
        let (start, prefix, prefix_len) = (segment.start, segment.prefix_rows().start, segment.prefix_len());
        cuts(segment.len, rows).map(move |(first, n)| {
            (prefix_len + first + n, [start + first, n, start + first, prefix, prefix_len, start])
        })
    };
    layout.segments().iter().flat_map(of_segment).collect()
}

/// A tile of keys: its rows, and entries (first and last query row, first and last key row; ends excluded).
struct KeyTile {
    first: usize,
    rows: usize,
    entries: Vec<[usize; 4]>,
}

/// Tiles of keys in row order, each with its own segment's entry first and then those of later segments' prefixes.
fn key_tiles(layout: &Layout, rows: usize) -> Vec<KeyTile> {
    let mut tiles = Vec::new();
    for segment in layout.segments() {
        let end = segment.start + segment.len;
        for (first, rows) in cuts(segment.len, rows) {
            let first = segment.start + first;
            tiles.push(KeyTile { first, rows, entries: vec![[first, end, first, first + rows]] });
        }
    }
    for segment in layout.segments() {
        let prefix = segment.prefix_rows();
        let from = tiles.partition_point(|tile| tile.first + tile.rows <= prefix.start);
        for tile in tiles[from..].iter_mut().take_while(|tile| tile.first < prefix.end) {
            let seen = [tile.first.max(prefix.start), prefix.end.min(tile.first + tile.rows)];
            tile.entries.push([segment.start, segment.start + segment.len, seen[0], seen[1]]);
        }
    }
    tiles
}

impl Backward {
    fn new(values: &mut Vec<i32>, layout: &Layout, rows: usize) -> Self {
        let queries = append(values, query_tiles(layout, rows));
        let (mut keys, mut entries) = (Vec::new(), Vec::new());
        for tile in key_tiles(layout, rows) {
            let work = tile.entries.iter().map(|[first, end, ..]| end - first).sum();
            keys.push((work, [tile.first, tile.rows, entries.len(), tile.entries.len()]));
            entries.extend(tile.entries.into_iter().map(|entry| (0, entry))); // all alike: in this order
        }
        Self { queries, keys: append(values, keys), entries: append(values, entries) }
    }
}

impl Plan {
    /// Work lists for all of a batch.
    ///
    /// # Errors
    /// If the batch has more rows than fit i32.
    pub(super) fn new(layout: &Layout) -> Result<Self, OpError> {
        check(layout.tokens())?;
        let mut values = Vec::new();
        let forward = append(&mut values, query_tiles(layout, FORWARD_ROWS));
        let [low, tall] = [LOW, TALL].map(|rows| Backward::new(&mut values, layout, rows));
        check(low.entries.count)?;
        Ok(Self { values, forward, low, tall })
    }

    /// Forward tiles of `rows` queries that follow `len` rows of a cache.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(super) fn cached(len: usize, rows: usize) -> Result<(Vec<i32>, List), OpError> {
        check(len.saturating_add(rows))?;
        let mut values = Vec::new();
        let tiles = cuts(rows, FORWARD_ROWS).map(|(first, n)| (len + first + n, [first, n, len + first, 0, 0, 0]));
        let list = append(&mut values, tiles.collect());
        Ok((values, list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Prefix;

    fn layout(segments: &[(usize, Option<(usize, usize)>)]) -> Layout {
        let mut start = 0;
        let segment = |(len, prefix): &(usize, Option<(usize, usize)>)| {
            let prefix = prefix.map(|(start, len)| Prefix { start, len });
            start += len;
            Segment { start: start - len, len: *len, prefix }
        };
        Layout::new(segments.iter().map(segment).collect()).unwrap()
    }

    fn list<const N: usize>(plan: &Plan, list: List) -> Vec<[i32; N]> {
        let (fields, _) = plan.values[list.at..list.at + N * list.count].as_chunks::<N>();
        fields.to_vec()
    }

    #[test]
    fn tiles_begin_at_their_segments_and_the_longest_come_first() {
        let plan = Plan::new(&layout(&[(3, None), (130, None), (2, Some((1, 40)))])).unwrap();
        assert_eq!(
            list::<6>(&plan, plan.forward),
            [[131, 2, 131, 0, 0, 3], [3, 128, 3, 0, 0, 3], [133, 2, 133, 1, 40, 133], [0, 3, 0, 0, 0, 0]]
        );
        assert_eq!([plan.low, plan.tall].map(|backward| backward.queries.count), [5, 4]);
    }

    #[test]
    fn every_pair_of_rows_is_met_once() {
        let layout = layout(&[(70, None), (130, Some((3, 60))), (65, Some((50, 100))), (1, None)]);
        let plan = Plan::new(&layout).unwrap();
        let n = layout.tokens();
        let mut want = vec![0; n * n];
        for segment in layout.segments() {
            for row in segment.rows() {
                segment.prefix_rows().chain(segment.start..=row).for_each(|key| want[row * n + key] += 1);
            }
        }
        for (backward, tile_rows) in [(plan.low, LOW), (plan.tall, TALL)] {
            let mut by_query = vec![0; n * n];
            for [first, rows, key_first, prefix, prefix_rows, own] in list::<6>(&plan, backward.queries) {
                assert!(rows as usize <= tile_rows);
                for i in 0..rows {
                    let seen = (prefix..prefix + prefix_rows).chain(own..=key_first + i);
                    seen.for_each(|key| by_query[(first + i) as usize * n + key as usize] += 1);
                }
            }
            let entries = list::<4>(&plan, backward.entries);
            let mut by_key = vec![0; n * n];
            for [first, rows, entry, count] in list::<4>(&plan, backward.keys) {
                assert!(rows as usize <= tile_rows);
                for [query, end, from, to] in &entries[entry as usize..(entry + count) as usize] {
                    assert!(*from >= first && *to <= first + rows && from < to);
                    for (query, key) in (*query..*end).flat_map(|query| (*from..*to).map(move |key| (query, key))) {
                        by_key[query as usize * n + key as usize] += i32::from(key <= query);
                    }
                }
            }
            assert!(by_query == want && by_key == want);
        }
    }

    #[test]
    fn a_cache_has_tiles_behind_its_rows() {
        let (values, list) = Plan::cached(10, 129).unwrap();
        assert_eq!((values, list.count), (vec![128, 1, 138, 0, 0, 0, 0, 128, 10, 0, 0, 0], 2));
        assert!(Plan::cached(usize::MAX, 2).is_err());
        assert_eq!(Plan::new(&Layout::new(Vec::new()).unwrap()).unwrap().values, []);
    }
}
