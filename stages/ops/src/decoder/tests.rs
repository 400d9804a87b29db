//! Tests of a block: against its parts for many rows, and alone against beside others.

use super::*;
use crate::attention::cached_attention;
use crate::host::{act_from_vec, act_to_vec, matrix_from_vec, vector_from_vec, weight_from_vec};
use crate::linear::{Lora, linear_rows};
use crate::swiglu::swiglu;
use crate::testing::{close, inputs, numbers, on_every_device, tolerance, wide};

/// Hidden size, inner size, heads, rank of every module's branch, biases of q, k and v.
#[derive(Clone, Copy)]
struct Case {
    hidden: usize,
    inner: usize,
    heads: Heads,
    rank: usize,
    bias: bool,
}

fn heads(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Heads {
    Heads { n_heads, n_kv_heads, head_dim }
}

/// Like [`inputs`], scaled as an initialised model's weights are.
fn drawn<B: Backend>(seed: u64, len: usize, width: usize) -> Vec<f32> {
    let scale = 1.0 / (width as f32).sqrt();
    inputs::<B>(seed, len).into_iter().map(|x| x * scale).collect()
}

fn weights<B: Backend>(dev: &B, case: Case) -> BlockWeights<B> {
    let Case { hidden, inner, heads, rank, bias } = case;
    let norm = |seed| {
        let values = numbers(seed, hidden).into_iter().map(|x| 1.0 + 0.3 * x).collect();
        vector_from_vec(dev, values).unwrap()
    };
    let map = |seed: u64, from: usize, to: usize, bias: bool| Linear {
        weight: weight_from_vec(dev, drawn::<B>(seed, to * from, from), to, from).unwrap(),
        bias: bias.then(|| vector_from_vec(dev, numbers(seed + 1, to)).unwrap()),
        trainable: false,
        lora: (rank > 0).then(|| Lora {
            a: matrix_from_vec(dev, drawn::<B>(seed + 2, rank * from, from), rank, from).unwrap(),
            b: matrix_from_vec(dev, numbers(seed + 3, to * rank), to, rank).unwrap(),
            scaling: 0.5,
            dropout: 0.1,
        }),
    };
    let (q, kv, half) = (heads.q_width(), heads.kv_width(), heads.head_dim / 2);
    let inv_freq: Vec<f32> = (0..half).map(|i| 100f32.powf(-(i as f32) / half as f32)).collect();
    BlockWeights {
        input_norm: norm(1),
        qkv: [map(10, hidden, q, bias), map(20, hidden, kv, bias), map(30, hidden, kv, bias)],
        o: map(40, q, hidden, false),
        post_norm: norm(2),
        gate: map(50, hidden, inner, false),
        up: map(60, hidden, inner, false),
        down: map(70, inner, hidden, false),
        heads,
        eps: 1e-5,
        rope: RopeTable::new(dev, &inv_freq, 300).unwrap(),
    }
}

/// A sequence's residual stream, row after row.
fn stream<B: Backend>(seed: u64, rows: usize, hidden: usize) -> Vec<f32> {
    inputs::<B>(100 + seed, rows * hidden)
}

/// The block on all rows of a sequence at once, as prefill has it.
fn whole<B: Backend>(dev: &B, weights: &BlockWeights<B>, x: &[f32], cache: &mut LayerCache<B>) -> Vec<f32> {
    let hidden = weights.input_norm.shape().0;
    let (rows, seen) = (x.len() / hidden, cache.len() as u32);
    let positions: Vec<u32> = (seen..seen + rows as u32).collect();
    let x = act_from_vec(dev, x.to_vec(), rows, hidden).unwrap();
    let h = rms_norm(x.clone(), &weights.input_norm, weights.eps, false).unwrap();
    let [q, k, v] = linear_rows(&h, weights.qkv.each_ref(), None).unwrap();
    let turned = |x| rope(x, weights.heads.head_dim, &weights.rope, &positions).unwrap();
    let mixed = cached_attention(turned(q), turned(k), v, weights.heads, cache).unwrap();
    let [x] = linear_rows(&mixed, [&weights.o], Some(&x)).unwrap();
    let h = rms_norm(x.clone(), &weights.post_norm, weights.eps, false).unwrap();
    let [gate, up] = linear_rows(&h, [&weights.gate, &weights.up], None).unwrap();
    let [out] = linear_rows(&swiglu(gate, up).unwrap(), [&weights.down], Some(&x)).unwrap();
    act_to_vec::<B, _>(&out)
}

/// Rows `seen[i]..seen[i] + steps` of some sequences, decoded together behind what `whole` has put into their caches.
fn decoded<B: Backend>(dev: &B, case: Case, which: &[usize], steps: usize) -> Vec<Vec<f32>> {
    let hidden = case.hidden;
    let given = weights(dev, case);
    let mut caches: Vec<LayerCache<B>> = Vec::new();
    for index in which {
        let mut cache = LayerCache::new();
        if seen(*index) > 0 {
            let x = stream::<B>(*index as u64, 250, hidden);
            whole(dev, &given, &x[..seen(*index) * hidden], &mut cache);
        }
        caches.push(cache);
    }
    let mut block = DecoderBlock::new(given).unwrap();
    let mut outs = vec![Vec::new(); which.len()];
    for step in 0..steps {
        let positions: Vec<u32> = caches.iter().map(|cache| cache.len() as u32).collect();
        let row = |index: &usize| {
            let at = (seen(*index) + step) * hidden;
            stream::<B>(*index as u64, 250, hidden)[at..at + hidden].to_vec()
        };
        let x = act_from_vec(dev, which.iter().flat_map(row).collect(), which.len(), hidden).unwrap();
        let mut each: Vec<&mut LayerCache<B>> = caches.iter_mut().collect();
        let out = block.step(x, &positions, &mut each).unwrap();
        for (out, row) in outs.iter_mut().zip(act_to_vec::<B, _>(&out).chunks(hidden)) {
            out.extend_from_slice(row);
        }
    }
    outs
}

/// Rows that sequence `index` has before it decodes.
fn seen(index: usize) -> usize {
    [0, 5, 127, 130, 64, 1][index % 6]
}

fn check_block<B: Backend>(dev: B, case: Case) {
    const STEPS: usize = 3;
    let all: Vec<usize> = (0..11).collect();
    let together = decoded(&dev, case, &all, STEPS);
    let given = weights(&dev, case);
    for (index, got) in together.iter().enumerate() {
        let x = stream::<B>(index as u64, 250, case.hidden);
        let x = &x[..(seen(index) + STEPS) * case.hidden];
        let want = whole(&dev, &given, x, &mut LayerCache::new());
        // Two sums of rounded numbers on the way, each with its own rounding.
        close("block", got, &wide(&want[seen(index) * case.hidden..]), 3.0 * tolerance::<B>(1e-5));
    }
    for which in [vec![3], vec![10, 2], (1..9).collect(), (0..10).rev().collect()] {
        for (index, got) in which.iter().zip(decoded(&dev, case, &which, STEPS)) {
            assert!(got == together[*index], "sequence {index} beside {which:?}");
        }
    }
}

#[test]
fn a_block_that_decodes_agrees_with_its_parts_and_rows_do_not_mix() {
    let cases = [
        Case { hidden: 64, inner: 96, heads: heads(4, 2, 16), rank: 0, bias: false },
        Case { hidden: 96, inner: 160, heads: heads(6, 2, 16), rank: 4, bias: true },
        Case { hidden: 192, inner: 200, heads: heads(3, 1, 64), rank: 16, bias: false },
        Case { hidden: 128, inner: 64, heads: heads(1, 1, 128), rank: 0, bias: true },
        // The ways of devices that have no block for these sizes.
        Case { hidden: 40, inner: 30, heads: heads(5, 1, 8), rank: 2, bias: false },
    ];
    for case in cases {
        on_every_device!(check_block, case);
    }
}

fn check_errors<B: Backend>(dev: B) {
    let case = Case { hidden: 64, inner: 96, heads: heads(4, 2, 16), rank: 0, bias: false };
    let mut odd = weights(&dev, case);
    odd.heads = heads(4, 4, 16);
    assert!(DecoderBlock::new(odd).is_err());
    let mut block = DecoderBlock::new(weights(&dev, case)).unwrap();
    let row = |rows: usize, width: usize| act_from_vec(&dev, vec![0.5; rows * width], rows, width).unwrap();
    let mut cache = LayerCache::new();
    assert!(block.step(row(1, 32), &[0], &mut [&mut cache]).is_err());
    assert!(block.step(row(1, 64), &[0, 1], &mut [&mut cache]).is_err());
    assert!(block.step(row(2, 64), &[0, 1], &mut [&mut cache]).is_err());
    let error = block.step(row(1, 64), &[300], &mut [&mut cache]).unwrap_err().to_string();
    assert!(error.contains("position") && cache.is_empty(), "{error}");
    block.step(row(1, 64), &[0], &mut [&mut cache]).unwrap();
    assert_eq!(cache.len(), 1);
    let none = block.step(row(0, 64), &[], &mut []).unwrap();
    assert_eq!(act_to_vec::<B, _>(&none), []);
}

#[test]
fn what_does_not_fit_a_block_is_refused() {
    on_every_device!(check_errors);
}
