//! Tests of decoding: against attention over the whole, alone and beside others, with and without memory reserved.

use super::tests::{Case, heads};
use super::*;
use crate::host::{act_from_vec, act_to_vec};
use crate::testing::{close, on_every_device, tolerance, wide};

/// Rows of a case that a sequence has so far.
struct Sequence<B: Backend> {
    case: Case,
    cache: LayerCache<B>,
}

impl<B: Backend> Sequence<B> {
    /// With `len` rows in its cache.
    fn new(dev: &B, seed: u64, heads: Heads, len: usize, reserve: usize) -> Self {
        let case = Case::new::<B>(seed, heads, Layout::from_cu_seqlens(&[0, 400]).unwrap());
        let mut cache = LayerCache::new();
        cache.reserve(reserve);
        let mut sequence = Self { case, cache };
        if len > 0 {
            let [q, k, v] = sequence.rows(0..len).map(|(values, width)| act_from_vec(dev, values, len, width).unwrap());
            cached_attention(q, k, v, heads, &mut sequence.cache).unwrap();
        }
        sequence
    }

    fn rows(&self, rows: std::ops::Range<usize>) -> [(Vec<f32>, usize); 3] {
        let (q, kv) = (self.case.heads.q_width(), self.case.heads.kv_width());
        [(&self.case.q, q), (&self.case.k, kv), (&self.case.v, kv)]
            .map(|(values, width)| (values[rows.start * width..rows.end * width].to_vec(), width))
    }
}

/// One step of all sequences: a row of output each.
fn step<B: Backend>(dev: &B, sequences: &mut [Sequence<B>], table: &mut DecodeTable<B>) -> Vec<Vec<f32>> {
    let heads = sequences[0].case.heads;
    let inputs = [0, 1, 2].map(|which| {
        let rows = sequences.iter().map(|sequence| {
            let len = sequence.cache.len();
            sequence.rows(len..len + 1)[which].clone()
        });
        let rows: Vec<(Vec<f32>, usize)> = rows.collect();
        let width = rows[0].1;
        act_from_vec(dev, rows.iter().flat_map(|(row, _)| row.clone()).collect(), sequences.len(), width).unwrap()
    });
    let [q, k, v] = inputs;
    let mut caches: Vec<&mut LayerCache<B>> = sequences.iter_mut().map(|sequence| &mut sequence.cache).collect();
    let out = decode_attention(&q, &k, &v, heads, &mut caches, table).unwrap();
    act_to_vec::<B, _>(&out).chunks(heads.q_width()).map(<[f32]>::to_vec).collect()
}

fn check_decode<B: Backend>(dev: B, heads: Heads) {
    // Ends of parts and of memory are crossed within the steps; one begins empty.
    let lens = [0, 1, 120, 127, 128, 300, 15, 63, 64, 55];
    let make = || -> Vec<Sequence<B>> {
        let one =
            |(i, len): (usize, &usize)| Sequence::new(&dev, i as u64, heads, *len, if i % 2 == 0 { 400 } else { 0 });
        lens.iter().enumerate().map(one).collect()
    };
    let (mut together, mut table) = (make(), DecodeTable::default());
    let mut alone = make();
    let mut tables: Vec<DecodeTable<B>> = lens.iter().map(|_| DecodeTable::default()).collect();
    for _ in 0..12 {
        let rows = step(&dev, &mut together, &mut table);
        for (i, row) in rows.iter().enumerate() {
            let own = step(&dev, &mut alone[i..=i], &mut tables[i]);
            assert!(own[0] == *row, "a sequence has the bits that it has alone");
            let (seen, width) = (alone[i].cache.len(), heads.q_width());
            let [(q, _), (k, _), (v, _)] = alone[i].rows(0..seen).map(|(values, width)| (wide(&values), width));
            let want = reference::attention(&q, &k, &v, heads, &Layout::from_cu_seqlens(&[0, seen as u32]).unwrap());
            close("row", row, &want[(seen - 1) * width..], tolerance::<B>(1e-5));
        }
    }
    // Others in other places: the table follows.
    together.swap(0, 3);
    together.pop();
    alone.swap(0, 3);
    alone.pop();
    let rows = step(&dev, &mut together, &mut table);
    for (i, row) in rows.iter().enumerate() {
        assert!(step(&dev, &mut alone[i..=i], &mut DecodeTable::default())[0] == *row, "after a change");
    }
    // What a clone shares stays as it is when both go on.
    let mut other = Sequence {
        case: Case::new::<B>(2, heads, Layout::from_cu_seqlens(&[0, 400]).unwrap()),
        cache: together[2].cache.clone(),
    };
    let before = other.cache.len();
    let rows = step(&dev, &mut together[2..3], &mut DecodeTable::default());
    assert!(step(&dev, std::slice::from_mut(&mut other), &mut DecodeTable::default()) == rows);
    assert_eq!((other.cache.len(), together[2].cache.len()), (before + 1, before + 1));
}

#[test]
fn decoding_agrees_with_attention_over_the_whole_alone_and_beside_others() {
    // Groups of 1 to 18 heads, of every kernel's size and of sizes that leave room in it.
    let sizes = [
        [(4, 2, 64), (3, 3, 64), (8, 1, 128), (9, 3, 64), (4, 1, 16), (2, 1, 256), (5, 1, 80), (4, 2, 20)],
        [(8, 2, 128), (2, 2, 128), (18, 1, 64), (12, 2, 96), (7, 1, 72), (9, 1, 104), (5, 1, 136), (2, 2, 200)],
    ];
    for (n_heads, n_kv_heads, dim) in sizes.into_iter().flatten() {
        on_every_device!(check_decode, heads(n_heads, n_kv_heads, dim));
    }
}

fn check_cut<B: Backend>(dev: B, heads: Heads) {
    let case = Case::new::<B>(3, heads, Layout::from_cu_seqlens(&[0, 150]).unwrap());
    let feed = |cache: &mut LayerCache<B>, rows: std::ops::Range<usize>| {
        let act = |values: &[f32], width: usize| {
            act_from_vec(&dev, values[rows.start * width..rows.end * width].to_vec(), rows.len(), width).unwrap()
        };
        let (q, kv) = (heads.q_width(), heads.kv_width());
        act_to_vec::<B, _>(
            &cached_attention(act(&case.q, q), act(&case.k, kv), act(&case.v, kv), heads, cache).unwrap(),
        )
    };
    let mut cache = LayerCache::new();
    let whole = feed(&mut cache, 0..150);
    let aligned = <B as AttentionKernel>::ALIGNED_ROWS;
    for cut in [16, 48, 128, 144, 149, 7] {
        let cut = cut / aligned * aligned;
        let mut shared = cache.clone();
        shared.truncate(cut);
        let rest = feed(&mut shared, cut..150);
        assert!(rest == whole[cut * heads.q_width()..], "cut at {cut}");
    }
}

#[test]
fn a_cache_that_is_cut_and_filled_again_gives_the_same_bits() {
    on_every_device!(check_cut, heads(6, 2, 64));
    on_every_device!(check_cut, heads(2, 1, 128));
    on_every_device!(check_cut, heads(4, 2, 20));
}

fn check_errors<B: Backend>(dev: B) {
    let act = |rows: usize, width: usize| act_from_vec(&dev, vec![0.0; rows * width], rows, width).unwrap();
    let (h, mut table) = (heads(2, 1, 8), DecodeTable::default());
    let (mut one, mut two) = (LayerCache::<B>::new(), LayerCache::<B>::new());
    let mut say =
        |q, k, v| decode_attention(&q, &k, &v, h, &mut [&mut one, &mut two], &mut table).unwrap_err().to_string();
    assert_eq!(say(act(3, 16), act(3, 8), act(3, 8)), "decode_attention: 3 rows are not those of 2 caches, [1, 1]");
    assert_eq!(say(act(2, 16), act(2, 4), act(2, 4)), "decode_attention: k (2, 4) does not fit heads of width 8");
    assert!(one.is_empty() && two.is_empty());
    let none = decode_attention(&act(0, 16), &act(0, 8), &act(0, 8), h, &mut [], &mut table).unwrap();
    assert_eq!(act_to_vec::<B, _>(&none), []);
}

#[test]
fn decoding_refuses_what_does_not_fit() {
    on_every_device!(check_errors);
}
