//! Tests of attention at sizes that fill tiles: every head size that kernels treat differently, ragged lengths around
//! tile boundaries, prefixes that begin and end within tiles. Against the f64 gradients of `reference`.

use super::tests::{Case, floor, heads, prefixed, run};
use super::*;
use crate::testing::{close, close_or, differences, numbers, on_every_device, tolerance, wide};

/// Segments of 1, 63, 130 and 150 rows, the last two with prefixes that straddle tiles and segments.
fn ragged() -> Layout {
    let segments = [(0, 1, None), (1, 63, None), (64, 130, Some((10, 50))), (194, 150, Some((40, 100)))];
    let segment = |(start, len, prefix): (usize, usize, Option<(usize, usize)>)| Segment {
        start,
        len,
        prefix: prefix.map(|(start, len)| Prefix { start, len }),
    };
    Layout::new(segments.map(segment).to_vec()).unwrap()
}

#[test]
fn the_reference_gradients_are_the_derivatives() {
    let (heads, layout) = (heads(4, 2, 3), prefixed());
    let n = layout.tokens();
    let [q, k, v] = [(1, 12), (2, 6), (3, 6)].map(|(seed, width)| wide(&numbers(seed, n * width)));
    let d = numbers(4, n * 12);
    let [d_q, d_k, d_v] = reference::gradients(&q, &k, &v, &wide(&d), heads, &layout).map(narrow);
    let exact = |q: &[f64], k: &[f64], v: &[f64]| reference::attention(q, k, v, heads, &layout);
    close("d_q", &d_q, &differences(&q, &d, |q| exact(q, &k, &v)), 1e-6);
    close("d_k", &d_k, &differences(&k, &d, |k| exact(&q, k, &v)), 1e-6);
    close("d_v", &d_v, &differences(&v, &d, |v| exact(&q, &k, v)), 1e-6);
}

fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.iter().map(|x| *x as f32).collect()
}

fn check_tiles<B: Backend>(dev: B, heads: Heads) {
    let case = Case::new::<B>(8, heads, ragged());
    let got = run(&dev, &case);
    assert!(got == run(&dev, &case), "the same bits again");
    let [q, k, v, d] = [&case.q, &case.k, &case.v, &case.d].map(|values| wide(values));
    let [d_q, d_k, d_v] = reference::gradients(&q, &k, &v, &d, heads, &case.layout);
    let out = reference::attention(&q, &k, &v, heads, &case.layout);
    let bound = tolerance::<B>(1e-5);
    for (what, got, want) in
        [("out", &got[0], out), ("d_q", &got[1], d_q), ("d_k", &got[2], d_k), ("d_v", &got[3], d_v)]
    {
        close_or(what, got, &want, bound, floor::<B>());
    }
}

#[test]
fn tiles_of_every_head_size_agree_with_the_reference() {
    for (n_heads, n_kv_heads, dim) in
        [(3, 1, 64), (2, 2, 80), (2, 1, 96), (4, 1, 128), (2, 1, 16), (1, 1, 120), (2, 1, 33), (1, 1, 256), (8, 1, 8)]
    {
        on_every_device!(check_tiles, heads(n_heads, n_kv_heads, dim));
    }
}

fn check_neighbours<B: Backend>(dev: B, heads: Heads) {
    // Rows 64.. of `ragged` with what they see, alone: without the first segment, whose row nobody else sees.
    let case = Case::new::<B>(9, heads, ragged());
    let rest = case.layout.segments()[1..].iter().map(|segment| Segment {
        start: segment.start - 1,
        len: segment.len,
        prefix: segment.prefix.map(|prefix| Prefix { start: prefix.start - 1, len: prefix.len }),
    });
    let (q, kv) = (heads.q_width(), heads.kv_width());
    let alone = Case {
        heads,
        layout: Arc::new(Layout::new(rest.collect()).unwrap()),
        q: case.q[q..].to_vec(),
        k: case.k[kv..].to_vec(),
        v: case.v[kv..].to_vec(),
        d: case.d[q..].to_vec(),
    };
    for ((all, alone), from) in run(&dev, &case).iter().zip(run(&dev, &alone)).zip([q, q, kv, kv]) {
        assert!(all[from..] == alone);
    }
}

#[test]
fn a_row_does_not_depend_on_what_else_is_in_the_batch() {
    on_every_device!(check_neighbours, heads(2, 1, 64));
    on_every_device!(check_neighbours, heads(4, 2, 20));
}
