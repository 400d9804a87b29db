//! Tests of the fused head: literals, the f64 twin, tied weights, chunks, threads, errors.

use dfdx::prelude::Cpu;
use proptest::prelude::*;

use super::*;
use crate::embedding::embedding;
use crate::host::{act_from_vec, weight_from_vec};
use crate::param::ParamRef;
use crate::tape::{Grads, OpTape};
use crate::testing::{Leaf, close, inputs, numbers, on_every_device, stored, tolerance, wide, with_threads};

/// Loss and gradients of x and the weight.
fn run<B: Backend>(
    dev: &B,
    (x, tokens): (&[f32], usize),
    (weight, vocabulary): (&[f32], usize),
    rows: &[u32],
    targets: &[u32],
    scale: f32,
) -> (LossSum, Vec<f32>, Vec<f32>) {
    let width = weight.len() / vocabulary;
    let (x, d_x) = Leaf::new(dev, x.to_vec(), tokens, width).split();
    let mut weight = weight_from_vec(dev, weight.to_vec(), vocabulary, width).unwrap();
    let (loss, tape) = linear_cross_entropy(x, rows, targets, &weight, true, scale).unwrap();
    let mut grads = Grads::default();
    tape.backward(&mut grads).unwrap();
    (loss, d_x.read(), ParamRef::<B>::Weight(&mut weight).read_grad(&mut grads).unwrap())
}

fn check_literals<B: Backend>(dev: B) {
    // logits (0, ln 3): probabilities 1/4 and 3/4, about, where ln 3 is rounded to 8 bits
    let ln3 = stored::<B>(vec![3f32.ln()])[0];
    let (loss, d_x, d_w) = run(&dev, (&[9.0, 1.0], 2), (&[0.0, ln3], 2), &[1], &[0], 2.0);
    let odds = f64::from(ln3).exp();
    let p = odds / (1.0 + odds);
    assert!((p - 0.75).abs() < 1e-3 && (loss.sum - (1.0 + odds).ln()).abs() < 1e-6, "{loss:?}");
    assert_eq!((loss.count, loss.first_non_finite), (1, None));
    close("d_x", &d_x, &[0.0, 2.0 * p * f64::from(ln3)], tolerance::<B>(1e-6));
    close("d_w", &d_w, &[-2.0 * p, 2.0 * p], tolerance::<B>(1e-6));
}

fn check_no_rows<B: Backend>(dev: B) {
    let (loss, d_x, d_w) = run(&dev, (&[1.0, 2.0], 2), (&[0.0, 1.0], 2), &[], &[], 1.0);
    assert_eq!(loss, LossSum::default());
    assert_eq!((d_x, d_w), (vec![0.0; 2], vec![0.0; 2]));
}

fn check_not_finite<B: Backend>(dev: B) {
    let (loss, ..) = run(&dev, (&[1.0, f32::NAN, f32::INFINITY], 3), (&[0.5, 1.0], 2), &[0, 2, 1], &[1, 0, 1], 1.0);
    assert_eq!((loss.count, loss.first_non_finite), (3, Some(1)));
    let x = stored::<B>(vec![7e9, 1e-20]);
    let (loss, d_x, _) = run(&dev, (&x, 2), (&[1.0, -1.0], 2), &[0, 1], &[1, 1], 1.0);
    assert!((loss.sum / (2.0 * f64::from(x[0])) - 1.0).abs() < 1e-6 && loss.first_non_finite.is_none(), "{loss:?}");
    close("d_x", &d_x, &[2.0, 1.0], tolerance::<B>(1e-6));
}

/// The head's weight is the embedding's: one gradient gets both contributions. x is used twice as well.
fn check_tied<B: Backend>(dev: B) {
    let values = inputs::<B>(1, 5 * 3);
    let mut weight = weight_from_vec(&dev, values.clone(), 5, 3).unwrap();
    let ids = [4, 0, 4];
    let x = embedding(&dev, &ids, &weight, true, OpTape::default()).unwrap();
    let again = x.retaped::<OpTape<B>>();
    let (first, tape) = linear_cross_entropy(x, &[0, 2, 2], &[1, 4, 0], &weight, true, 0.5).unwrap();
    let (second, tape2) = linear_cross_entropy(again, &[0, 1], &[1, 3], &weight, true, 0.5).unwrap();
    let mut grads = Grads::default();
    dfdx::prelude::Merge::merge(tape, tape2).backward(&mut grads).unwrap();
    let w = wide(&values);
    let x: Vec<f64> = ids.iter().flat_map(|id| w[*id as usize * 3..][..3].to_vec()).collect();
    let rows = [0, 2, 2, 0, 1];
    let (sum, d_x, mut want) = reference::linear_cross_entropy(&x, &w, 3, &rows, &[1, 4, 0, 1, 3], 0.5);
    for (id, d_x) in ids.iter().zip(d_x.chunks(3)) {
        want[*id as usize * 3..][..3].iter_mut().zip(d_x).for_each(|(w, d)| *w += d);
    }
    assert!((first.sum + second.sum - sum).abs() < 1e-5);
    // Three contributions and one through x, each rounded to the gradient's dtype before it is added.
    let of_f32 = 1e-5;
    let bound = tolerance::<B>(of_f32) * if tolerance::<B>(of_f32) > of_f32 { 2.0 } else { 1.0 };
    close("d_w", &ParamRef::<B>::Weight(&mut weight).read_grad(&mut grads).unwrap(), &want, bound);
}

/// Random inputs against f64; the same bits again.
fn check_exact<B: Backend>(dev: B, tokens: usize, width: usize, vocabulary: usize) {
    let (x, weight) = (inputs::<B>(1, tokens * width), inputs::<B>(2, vocabulary * width));
    let rows: Vec<u32> = (0..tokens as u32).filter(|i| i % 7 != 3).collect();
    let targets: Vec<u32> = rows.iter().map(|i| i * 31 % vocabulary as u32).collect();
    let run = || run(&dev, (&x, tokens), (&weight, vocabulary), &rows, &targets, 0.01);
    let got = run();
    let (sum, d_x, d_w) = reference::linear_cross_entropy(&wide(&x), &wide(&weight), width, &rows, &targets, 0.01);
    assert!((got.0.sum / sum - 1.0).abs() < 1e-6, "{:?}, want {sum}", got.0);
    close("d_x", &got.1, &d_x, tolerance::<B>(1e-5));
    close("d_w", &got.2, &d_w, tolerance::<B>(1e-5));
    assert!(run() == got);
}

/// Rows listed twice get both gradients.
fn check_repeated_rows<B: Backend>(dev: B) {
    let (x, weight) = (inputs::<B>(3, 2 * 8), inputs::<B>(4, 6 * 8));
    let (rows, targets) = ([1, 0, 1, 1], [5, 2, 0, 5]);
    let (loss, d_x, d_w) = run(&dev, (&x, 2), (&weight, 6), &rows, &targets, 0.25);
    let (sum, want_x, want_w) = reference::linear_cross_entropy(&wide(&x), &wide(&weight), 8, &rows, &targets, 0.25);
    assert!((loss.sum - sum).abs() < 1e-5);
    close("d_x", &d_x, &want_x, tolerance::<B>(1e-5));
    close("d_w", &d_w, &want_w, tolerance::<B>(1e-5));
}

#[test]
fn literals_edges_and_tied_weights() {
    on_every_device!(check_literals);
    on_every_device!(check_no_rows);
    on_every_device!(check_not_finite);
    on_every_device!(check_tied);
    on_every_device!(check_repeated_rows);
    // Vocabularies that are multiples of 8, of 4 and odd; of one row of a block and more.
    for (tokens, width, vocabulary) in [(40, 24, 4104), (40, 9, 4100), (30, 16, 1001)] {
        on_every_device!(check_exact, tokens, width, vocabulary);
    }
}

/// The GPU's chunks are longer than tests of the CPU can wait for: its logits alone are 300 MB here.
#[cfg(cuda_backend)]
#[test]
fn a_large_vocabulary_takes_several_chunks_on_the_gpu() {
    let Some(dev) = crate::testing::gpu() else { return };
    assert!(chunk_rows(131_072, 600) < 514);
    check_exact(dev.clone(), 600, 2, 131_072);
    // So many rows that chunks are larger, and the last is not full: what two calls with small chunks give.
    let (tokens, vocabulary) = (1100usize, 1 << 19);
    assert!(chunk_rows(vocabulary, tokens) > chunk_rows(vocabulary, tokens / 2));
    let (x, weight) = (inputs::<dfdx::prelude::Cuda>(1, tokens * 2), inputs::<dfdx::prelude::Cuda>(2, vocabulary * 2));
    let rows: Vec<u32> = (0..tokens as u32).collect();
    let targets: Vec<u32> = rows.iter().map(|i| i * 31).collect();
    let of = |part: std::ops::Range<usize>| {
        run(&dev, (&x, tokens), (&weight, vocabulary), &rows[part.clone()], &targets[part], 0.01)
    };
    let (all, first, second) = (of(0..tokens), of(0..tokens / 2), of(tokens / 2..tokens));
    assert!((all.0.sum / (first.0.sum + second.0.sum) - 1.0).abs() < 1e-12);
    assert!(all.1[..tokens] == first.1[..tokens] && all.1[tokens..] == second.1[tokens..], "the input's gradient");
    let d_weight: Vec<f64> = first.2.iter().zip(&second.2).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
    close("d_w", &all.2, &d_weight, tolerance::<dfdx::prelude::Cuda>(1e-5));
}

#[test]
fn many_chunks_agree_with_f64_and_on_any_number_of_threads() {
    let (tokens, width, vocabulary) = (600, 20, 301);
    let (x, weight) = (numbers(1, tokens * width), numbers(2, vocabulary * width));
    let rows: Vec<u32> = (0..tokens as u32).filter(|i| i % 7 != 3).collect();
    let targets: Vec<u32> = rows.iter().map(|i| i * 31 % vocabulary as u32).collect();
    let run = || run(&Cpu::default(), (&x, tokens), (&weight, vocabulary), &rows, &targets, 0.01);
    let one = with_threads(1, run);
    assert!(one == with_threads(2, run) && one == with_threads(3, run));
    let (sum, d_x, d_w) = reference::linear_cross_entropy(&wide(&x), &wide(&weight), width, &rows, &targets, 0.01);
    assert!((one.0.sum / sum - 1.0).abs() < 1e-6);
    close("d_x", &one.1, &d_x, 1e-5);
    close("d_w", &one.2, &d_w, 1e-5);
}

fn check_bare_and_frozen<B: Backend>(dev: B) {
    let mut weight = weight_from_vec(&dev, numbers(1, 12), 4, 3).unwrap();
    let values = numbers(2, 6);
    let bare = act_from_vec(&dev, values.clone(), 2, 3).unwrap();
    let (loss, _) = linear_cross_entropy(bare, &[0, 1], &[3, 2], &weight, true, 1.0).unwrap();
    let (x, _) = Leaf::new(&dev, values, 2, 3).split();
    let (taped, tape) = linear_cross_entropy(x, &[0, 1], &[3, 2], &weight, false, 1.0).unwrap();
    assert_eq!(loss, taped);
    let mut grads = Grads::default();
    tape.backward(&mut grads).unwrap();
    assert_eq!(ParamRef::<B>::Weight(&mut weight).read_grad(&mut grads).unwrap(), [0.0; 12]);
}

#[test]
fn without_a_tape_the_loss_is_the_same_and_a_frozen_head_gets_no_gradient() {
    on_every_device!(check_bare_and_frozen);
}

fn check_errors<B: Backend>(dev: B) {
    let weight = weight_from_vec(&dev, vec![0.0; 12], 4, 3).unwrap();
    let say = |width: usize, rows: &[u32], targets: &[u32]| {
        let x = act_from_vec(&dev, vec![0.0; 2 * width], 2, width).unwrap();
        linear_cross_entropy(x, rows, targets, &weight, false, 1.0).unwrap_err().to_string()
    };
    assert_eq!(say(5, &[], &[]), "linear_cross_entropy: x (2, 5) does not fit weight (4, 3)");
    assert_eq!(say(3, &[0], &[]), "linear_cross_entropy: rows [1] does not fit targets [0]");
    assert_eq!(say(3, &[2], &[0]), "linear_cross_entropy: row 2 is out of range: there are 2");
    assert_eq!(say(3, &[1], &[4]), "linear_cross_entropy: target 4 is out of range: there are 4");
}

#[test]
fn errors_name_the_index() {
    on_every_device!(check_errors);
}

fn check_twin<B: Backend>(dev: B, (tokens, width, vocabulary): (usize, usize, usize), seed: u64, factor: f32) {
    let x = stored::<B>(numbers(seed, tokens * width).iter().map(|x| x * factor).collect());
    let weight = inputs::<B>(seed ^ 1, vocabulary * width);
    let rows: Vec<u32> = (0..tokens as u32).rev().collect();
    let target = |i: &u32| (u64::from(*i) * 7 + seed % 97) as u32 % vocabulary as u32;
    let targets: Vec<u32> = rows.iter().map(target).collect();
    let (loss, d_x, d_w) = run(&dev, (&x, tokens), (&weight, vocabulary), &rows, &targets, 0.7);
    let scale = f64::from(0.7f32);
    let (sum, want_x, want_w) =
        reference::linear_cross_entropy(&wide(&x), &wide(&weight), width, &rows, &targets, scale);
    assert!((loss.sum - sum).abs() <= 1e-5 * sum.max(1.0), "{} {}", loss.sum, sum);
    // A row that is certain of its target has a gradient that cancels to rounding: compare with the terms' size. In
    // bf16 the probabilities are rounded before they are multiplied: every term of a sum is off by its own 1/512. Those
    // of d_x add up to one weight at most, those of d_W to one x a row.
    let bound = tolerance::<B>(1e-5);
    let (of_x, of_w) = if bound > 1e-5 { (1.0, tokens as f64) } else { (0.1, 0.1) };
    let size = |want: &[f64], part: f64, terms: &[f32]| {
        let largest = terms.iter().fold(0.0f64, |m, t| m.max(f64::from(t.abs())));
        want.iter().fold(0.0f64, |m, w| m.max(w.abs())).max(part * largest)
    };
    for (got, want, size) in [(&d_x, &want_x, size(&want_x, of_x, &weight)), (&d_w, &want_w, size(&want_w, of_w, &x))] {
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() <= bound * size, "{got} {want}");
        }
    }
}

proptest! {
    #[test]
    fn the_twin_agrees(
        tokens in 1usize..9, width in 1usize..20, vocabulary in 1usize..40, seed: u64, factor in 0.1f32..8.0,
    ) {
        on_every_device!(check_twin, (tokens, width, vocabulary), seed, factor);
    }
}
