//! Tests of attention: literals, the f64 twin, gradients, prefixes, caches, threads, errors.

use dfdx::prelude::Cpu;
use proptest::prelude::*;

use super::*;
use crate::add::add;
use crate::backend::Memory;
use crate::host::{act_from_vec, act_to_vec};
use crate::tape::Grads;
use crate::testing::{
    Leaf, backward, close, close_or, differences, numbers, on_every_device, stored, tolerance, wide, with_threads,
};

/// Values of one case, as `B` stores them.
pub(super) struct Case {
    pub(super) heads: Heads,
    pub(super) layout: Arc<Layout>,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) d: Vec<f32>,
}

pub(super) fn heads(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Heads {
    Heads { n_heads, n_kv_heads, head_dim }
}

impl Case {
    pub(super) fn new<B: Memory>(seed: u64, heads: Heads, layout: Layout) -> Self {
        let (q, kv) = (layout.tokens() * heads.q_width(), layout.tokens() * heads.kv_width());
        Self {
            heads,
            layout: Arc::new(layout),
            q: stored::<B>(numbers(seed, q).iter().map(|x| 3.0 * x).collect()),
            k: stored::<B>(numbers(seed ^ 1, kv)),
            v: stored::<B>(numbers(seed ^ 2, kv)),
            d: stored::<B>(numbers(seed ^ 3, q)),
        }
    }
}

/// Output and gradients of q, k and v.
pub(super) fn run<B: Backend>(dev: &B, case: &Case) -> [Vec<f32>; 4] {
    let tokens = case.layout.tokens();
    let (q, d_q) = Leaf::new(dev, case.q.clone(), tokens, case.heads.q_width()).split();
    let (k, d_k) = Leaf::new(dev, case.k.clone(), tokens, case.heads.kv_width()).split();
    let (v, d_v) = Leaf::new(dev, case.v.clone(), tokens, case.heads.kv_width()).split();
    let out = attention(q, k, v, case.heads, &case.layout).unwrap();
    let values = act_to_vec::<B, _>(&out);
    backward(out, &case.d, &mut Grads::default());
    [values, d_q.read(), d_k.read(), d_v.read()]
}

/// The least size of a gradient that errors are measured against. A row that sees one key only has no gradient for q
/// and k: what is left is the rounding of terms of size 1, and in bf16 of the output (up to 1, times q, up to 3).
pub(super) fn floor<B: Memory>() -> f64 {
    if tolerance::<B>(0.0) > 0.0 { 2.0 } else { 0.1 }
}

fn check_case<B: Backend>(dev: B, seed: u64, heads: Heads, layout: Layout) {
    let case = Case::new::<B>(seed, heads, layout);
    let [out, d_q, d_k, d_v] = run(&dev, &case);
    let (q, k, v) = (wide(&case.q), wide(&case.k), wide(&case.v));
    let exact = |q: &[f64], k: &[f64], v: &[f64]| reference::attention(q, k, v, case.heads, &case.layout);
    let (bound, floor) = (tolerance::<B>(1e-5), floor::<B>());
    close_or("out", &out, &exact(&q, &k, &v), bound, 0.1);
    close_or("d_q", &d_q, &differences(&q, &case.d, |q| exact(q, &k, &v)), bound, floor);
    close_or("d_k", &d_k, &differences(&k, &case.d, |k| exact(&q, k, &v)), bound, floor);
    close_or("d_v", &d_v, &differences(&v, &case.d, |v| exact(&q, &k, v)), bound, 0.1);
}

pub(super) fn prefixed() -> Layout {
    let segment = |start, len, prefix: Option<(usize, usize)>| Segment {
        start,
        len,
        prefix: prefix.map(|(start, len)| Prefix { start, len }),
    };
    let segments =
        vec![segment(0, 5, None), segment(5, 2, Some((0, 5))), segment(7, 7, Some((1, 3))), segment(14, 1, None)];
    Layout::new(segments).unwrap()
}

fn check_literals<B: Backend>(dev: B) {
    // One head of size 1; the second row weighs values 1 and 3 by e^0 and e^(2 * 1).
    let case = Case {
        heads: heads(1, 1, 1),
        layout: Arc::new(Layout::from_cu_seqlens(&[0, 2, 3]).unwrap()),
        q: vec![5.0, 2.0, 1.0],
        k: vec![0.0, 1.0, 9.0],
        v: vec![1.0, 3.0, 7.0],
        d: vec![1.0; 3],
    };
    let [out, _, _, d_v] = run(&dev, &case);
    let p = 2f64.exp() / (1.0 + 2f64.exp());
    close("out", &out, &[1.0, (1.0 - p) + 3.0 * p, 7.0], tolerance::<B>(1e-6));
    close("d_v", &d_v, &[1.0 + (1.0 - p), p, 1.0], tolerance::<B>(1e-6));
}

fn check_shared<B: Backend>(dev: B) {
    // q, k and v are one tensor, used once more after.
    let (heads, layout) = (heads(2, 2, 3), Arc::new(Layout::from_cu_seqlens(&[0, 4]).unwrap()));
    let (values, d) = (stored::<B>(numbers(3, 24)), stored::<B>(numbers(4, 24)));
    let leaf = Leaf::new(&dev, values.clone(), 4, 6);
    let (k, v, more) = (leaf.again(), leaf.again(), leaf.again());
    let (q, d_x) = leaf.split();
    let out = add(attention(q, k, v, heads, &layout).unwrap(), more).unwrap();
    backward(out, &d, &mut Grads::default());
    let want = differences(&wide(&values), &d, |x| {
        reference::attention(x, x, x, heads, &layout).iter().zip(x).map(|(o, x)| o + x).collect()
    });
    close("d_x", &d_x.read(), &want, tolerance::<B>(1e-5));
}

#[test]
fn literals_shared_use_and_prefixes() {
    on_every_device!(check_literals);
    on_every_device!(check_shared);
    on_every_device!(check_case, 1, heads(4, 2, 3), prefixed());
    on_every_device!(check_case, 1, heads(4, 2, 8), prefixed());
}

fn check_prefix<B: Backend>(dev: B) {
    // Rows 5..7 see the prefix 0..5, so they are rows 5 and 6 of one sequence of 7.
    let heads = heads(2, 1, 4);
    let case = Case::new::<B>(2, heads, prefixed());
    let [out, ..] = run(&dev, &case);
    let mut whole = Case::new::<B>(2, heads, Layout::from_cu_seqlens(&[0, 7]).unwrap());
    whole.q = case.q[..7 * 8].to_vec();
    whole.k = case.k[..7 * 4].to_vec();
    whole.v = case.v[..7 * 4].to_vec();
    let [want, ..] = run(&dev, &whole);
    close("rows", &out[..7 * 8], &wide(&want), tolerance::<B>(1e-6));
}

#[test]
fn a_prefix_gives_the_numbers_of_the_whole_sequence() {
    on_every_device!(check_prefix);
}

fn check_extremes<B: Backend>(dev: B, dim: usize) {
    let mut case = Case::new::<B>(4, heads(1, 1, dim), Layout::from_cu_seqlens(&[0, 90]).unwrap());
    case.q.iter_mut().for_each(|q| *q *= 7e9);
    assert!(run(&dev, &case).iter().flatten().all(|x| x.is_finite()));
    case.k[3] = f32::NAN;
    assert!(run(&dev, &case)[0].iter().any(|x| x.is_nan()));
}

#[test]
fn huge_scores_stay_finite_and_nan_stays_visible() {
    on_every_device!(check_extremes, 8);
    on_every_device!(check_extremes, 20);
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    for (heads, layout) in [
        (heads(3, 1, 16), Layout::from_cu_seqlens(&[0, 150, 333]).unwrap()),
        (heads(9, 3, 64), Layout::from_cu_seqlens(&[0, 200]).unwrap()),
        (heads(4, 2, 3), prefixed()),
    ] {
        let case = Case::new::<Cpu>(5, heads, layout);
        let [one, two, three] = [1, 2, 3].map(|n| with_threads(n, || run(&Cpu::default(), &case)));
        assert!(one == two && one == three);
    }
}

fn check_waves<B: Backend>(dev: B, heads: Heads) {
    let ends: Vec<u32> = (0..=5).map(|i| i * 1000).collect();
    let case = Case::new::<B>(6, heads, Layout::from_cu_seqlens(&ends).unwrap());
    let all = run(&dev, &case);
    let (q, kv) = (4000 * heads.q_width(), 4000 * heads.kv_width());
    let last = Case {
        heads,
        layout: Arc::new(Layout::from_cu_seqlens(&[0, 1000]).unwrap()),
        q: case.q[q..].to_vec(),
        k: case.k[kv..].to_vec(),
        v: case.v[kv..].to_vec(),
        d: case.d[q..].to_vec(),
    };
    for ((all, last), from) in all.iter().zip(run(&dev, &last)).zip([q, q, kv, kv]) {
        assert!(all[from..] == last);
    }
}

#[test]
fn many_segments_in_several_waves_agree_with_each_alone() {
    on_every_device!(check_waves, heads(1, 1, 2));
    on_every_device!(check_waves, heads(2, 1, 8));
}

fn feed<B: Backend>(dev: &B, case: &Case, cache: &mut LayerCache<B>, rows: std::ops::Range<usize>) -> Vec<f32> {
    let act = |values: &[f32], width: usize| {
        act_from_vec(dev, values[rows.start * width..rows.end * width].to_vec(), rows.len(), width).unwrap()
    };
    let (q, kv) = (case.heads.q_width(), case.heads.kv_width());
    act_to_vec::<B, _>(
        &cached_attention(act(&case.q, q), act(&case.k, kv), act(&case.v, kv), case.heads, cache).unwrap(),
    )
}

fn check_cache<B: Backend>(dev: B, heads: Heads) {
    let case = Case::new::<B>(7, heads, Layout::from_cu_seqlens(&[0, 150]).unwrap());
    let [want, ..] = run(&dev, &case);
    let mut cache = LayerCache::<B>::new();
    assert!(cache.is_empty());
    close("prefill", &feed(&dev, &case, &mut cache, 0..150), &wide(&want), tolerance::<B>(1e-6));
    cache.truncate(70);
    cache.truncate(100);
    assert_eq!(cache.len(), 70);
    let width = case.heads.q_width();
    let mut row = 70;
    for rows in [1, 1, 3, 40, 1, 34] {
        let got = feed(&dev, &case, &mut cache, row..row + rows);
        close("step", &got, &wide(&want[row * width..(row + rows) * width]), tolerance::<B>(1e-6));
        row += rows;
    }
    assert_eq!((row, cache.len()), (150, 150));
    // A clone shares what there is and goes its own way.
    cache.truncate(149);
    let mut other = cache.clone();
    feed(&dev, &case, &mut other, 0..1);
    let got = feed(&dev, &case, &mut cache, 149..150);
    close("after a clone", &got, &wide(&want[149 * width..]), tolerance::<B>(1e-6));
}

#[test]
fn a_cache_agrees_with_attention_over_the_whole() {
    on_every_device!(check_cache, heads(6, 2, 20));
    on_every_device!(check_cache, heads(6, 1, 64));
}

fn check_errors<B: Backend>(dev: B) {
    let layout = Arc::new(Layout::from_cu_seqlens(&[0, 2]).unwrap());
    let act = |rows: usize, width: usize| act_from_vec(&dev, vec![0.0; rows * width], rows, width).unwrap();
    let say = |q, k, v, heads| attention(q, k, v, heads, &layout).unwrap_err().to_string();
    let h = heads(2, 1, 4);
    assert_eq!(say(act(2, 7), act(2, 4), act(2, 4), h), "attention: q (2, 7) does not fit heads of width 8");
    assert_eq!(say(act(2, 8), act(2, 8), act(2, 8), h), "attention: k (2, 8) does not fit heads of width 4");
    assert_eq!(say(act(2, 8), act(2, 4), act(3, 4), h), "attention: q, k ((2, 8), (2, 4)) does not fit v (3, 4)");
    assert_eq!(say(act(3, 8), act(3, 4), act(3, 4), h), "attention: q (3, 8) does not fit layout of tokens 2");
    let odd = say(act(2, 12), act(2, 8), act(2, 8), heads(3, 2, 4));
    assert!(odd.ends_with("do not divide"), "{odd}");
    let mut cache = LayerCache::<B>::new();
    cached_attention(act(2, 8), act(2, 4), act(2, 4), h, &mut cache).unwrap();
    assert!(cached_attention(act(1, 8), act(1, 5), act(1, 5), h, &mut cache).is_err());
    let narrow = cached_attention(act(1, 6), act(1, 3), act(1, 3), heads(2, 1, 3), &mut cache).unwrap_err();
    assert_eq!(narrow.to_string(), "cached_attention: k (1, 3) does not fit cache of width 4");
    assert_eq!(cache.len(), 2);
    cached_attention(act(1, 8), act(1, 4), act(1, 4), h, &mut cache).unwrap();
}

#[test]
fn errors_name_what_does_not_fit_and_leave_the_cache_alone() {
    on_every_device!(check_errors);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_twin_agrees(
        lens in prop::collection::vec(1u32..9, 1..4), kv in 1usize..3, group in 1usize..4, dim in 1usize..20, seed: u64,
    ) {
        let mut ends = vec![0];
        for len in lens {
            ends.push(ends[ends.len() - 1] + len);
        }
        let layout = Layout::from_cu_seqlens(&ends).unwrap();
        on_every_device!(check_case, seed, heads(kv * group, kv, dim), layout);
    }
}
