//! Tests of the linear map: literals, twins, gradients, dropout, threads, errors; of several modules at once in `group`.

mod group;

use dfdx::prelude::{Cpu, Merge, PutTape, SplitTape};
use proptest::prelude::*;

use super::*;
use crate::add::add;
use crate::host::{act_from_vec, act_to_vec, matrix_from_vec, vector_from_vec, weight_from_vec};
use crate::param::ParamRef;
use crate::tape::{Grads, OpTape};
use crate::testing::{
    Leaf, backward, close, close_or, differences, numbers, on_every_device, stored, tolerance, wide, with_threads,
};

/// Sizes and values of one case.
#[derive(Clone)]
struct Case {
    rows: usize,
    width: usize,
    outs: usize,
    r: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    d: Vec<f32>,
}

const SCALING: f32 = 2.0;

impl Case {
    fn new(seed: u64, rows: usize, width: usize, outs: usize, r: usize) -> Self {
        Self {
            rows,
            width,
            outs,
            r,
            x: numbers(seed, rows * width),
            weight: numbers(seed ^ 1, outs * width),
            bias: numbers(seed ^ 2, outs),
            a: numbers(seed ^ 3, r * width),
            b: numbers(seed ^ 4, outs * r),
            d: numbers(seed ^ 5, rows * outs),
        }
    }

    /// With every matrix as `B` multiplies it.
    fn on<B: Backend>(mut self) -> Self {
        for values in [&mut self.x, &mut self.weight, &mut self.a, &mut self.b, &mut self.d] {
            *values = stored::<B>(std::mem::take(values));
        }
        self
    }

    fn without_signs(&self) -> Self {
        let mut case = self.clone();
        for values in [&mut case.x, &mut case.weight, &mut case.bias, &mut case.a, &mut case.b, &mut case.d] {
            values.iter_mut().for_each(|value| *value = value.abs());
        }
        case
    }

    fn layer<B: Backend>(&self, dev: &B, trainable: bool, dropout: f32) -> Linear<B> {
        let lora = |r: usize| Lora {
            a: matrix_from_vec(dev, self.a.clone(), r, self.width).unwrap(),
            b: matrix_from_vec(dev, self.b.clone(), self.outs, r).unwrap(),
            scaling: SCALING,
            dropout,
        };
        Linear {
            weight: weight_from_vec(dev, self.weight.clone(), self.outs, self.width).unwrap(),
            bias: Some(vector_from_vec(dev, self.bias.clone()).unwrap()),
            trainable,
            lora: (self.r > 0).then(|| lora(self.r)),
        }
    }

    /// The definition in f64, with `x` and the branch's input (after dropout) apart.
    fn exact(&self, x: &[f64], branch: &[f64], [weight, bias, a, b]: [&[f64]; 4]) -> Vec<f64> {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let mut out = Vec::new();
        for (x, branch) in x.chunks(self.width).zip(branch.chunks(self.width)) {
            let u: Vec<f64> = a.chunks(self.width).map(|a| dot(branch, a)).collect();
            for o in 0..self.outs {
                let low = if self.r == 0 { 0.0 } else { dot(&u, &b[o * self.r..][..self.r]) };
                out.push(dot(x, &weight[o * self.width..][..self.width]) + bias[o] + f64::from(SCALING) * low);
            }
        }
        out
    }
}

/// Output and gradients of x, weight, bias, A, B.
struct Run {
    out: Vec<f32>,
    x: Vec<f32>,
    params: [Vec<f32>; 4],
}

fn run<B: Backend>(dev: &B, case: &Case, dropout: f32, key: Option<u64>) -> Run {
    let mut layer = case.layer(dev, true, dropout);
    let (x, d_x) = Leaf::new(dev, case.x.clone(), case.rows, case.width).split();
    let out = linear(x, &layer, key).unwrap();
    let (values, mut grads) = (act_to_vec::<B, _>(&out), Grads::default());
    backward(out, &case.d, &mut grads);
    let weight = ParamRef::<B>::Weight(&mut layer.weight).read_grad(&mut grads).unwrap();
    let bias = ParamRef::<B>::Vector(layer.bias.as_mut().unwrap()).read_grad(&mut grads).unwrap();
    let [a, b] = match &mut layer.lora {
        None => [vec![], vec![]],
        Some(lora) => [&mut lora.a, &mut lora.b].map(|m| ParamRef::<B>::Matrix(m).read_grad(&mut grads).unwrap()),
    };
    Run { out: values, x: d_x.read(), params: [weight, bias, a, b] }
}

/// What [`run`] gives, in f64, with its names; `mask` is what dropout multiplies the branch's input by.
fn expected(case: &Case, mask: &[f64]) -> [(&'static str, Vec<f64>); 6] {
    let (x, weight, bias) = (wide(&case.x), wide(&case.weight), wide(&case.bias));
    let (a, b) = (wide(&case.a), wide(&case.b));
    let drop = |x: &[f64]| -> Vec<f64> { x.iter().zip(mask).map(|(x, m)| x * m).collect() };
    let all = |x: &[f64]| case.exact(x, &drop(x), [&weight, &bias, &a, &b]);
    let dropped = drop(&x);
    let by = |i: usize, values: &[f64]| {
        differences(values, &case.d, |at| {
            let mut params: [&[f64]; 4] = [&weight, &bias, &a, &b];
            params[i] = at;
            case.exact(&x, &dropped, params)
        })
    };
    [
        ("out", all(&x)),
        ("d_x", differences(&x, &case.d, all)),
        ("d_w", by(0, &weight)),
        ("d_bias", by(1, &bias)),
        ("d_a", by(2, &a)),
        ("d_b", by(3, &b)),
    ]
}

/// How often a term of each sum of [`expected`] is rounded to bf16 at most: in u or e, as the branch, where the weight's
/// product is added to it, where the bias is. Gradients of A, B and the bias are sums in f32.
const ROUNDINGS: [i32; 6] = [4, 3, 1, 0, 1, 1];

/// Compares with f64; `mask` as in [`expected`].
///
/// In f32 an error is relative to the largest value. In bf16, whose roundings change a number by a factor within 1 +- 2^-8,
/// it is bounded term by term: by ((1 + 2^-8)^n - 1) of what the terms come to without their signs (Higham, Accuracy and
/// Stability of Numerical Algorithms, 2002, lemma 3.1), which holds where terms cancel too.
fn check_case<B: Backend>(case: &Case, run: &Run, mask: &[f64]) {
    let in_bf16 = B::NUMERICS.ends_with("bf16");
    let dropped = mask.iter().any(|factor| *factor != 1.0);
    let sizes = expected(&case.without_signs(), mask);
    let [weight, bias, a, b] = &run.params;
    let got = [&run.out, &run.x, weight, bias, a, b];
    for ((((name, want), got), (_, sizes)), n) in expected(case, mask).iter().zip(got).zip(&sizes).zip(ROUNDINGS) {
        assert_eq!(got.len(), want.len(), "{name}: lengths differ");
        // The input of A is rounded as well when it was dropped out.
        let n = if dropped && matches!(*name, "out" | "d_a" | "d_b") { n + 1 } else { n };
        let rounded = (1.0 + 1.0 / 256.0_f64).powi(n) - 1.0;
        let largest = want.iter().fold(0.1_f64, |largest, value| largest.max(value.abs()));
        for (i, ((got, want), size)) in got.iter().zip(want).zip(sizes).enumerate() {
            let (error, of_f32) = ((f64::from(*got) - want).abs(), 1e-5 * largest);
            let most = if in_bf16 { rounded * size + of_f32 } else { of_f32 };
            assert!(error <= most, "{name}[{i}]: {got}, want {want} (error {error}, at most {most})");
        }
    }
}

fn check_literals<B: Backend>(dev: B) {
    let layer = Linear {
        weight: weight_from_vec(&dev, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 2).unwrap(),
        bias: Some(vector_from_vec(&dev, vec![0.5, 0.0, -0.5]).unwrap()),
        trainable: false,
        lora: Some(Lora {
            a: matrix_from_vec(&dev, vec![1.0, -1.0], 1, 2).unwrap(),
            b: matrix_from_vec(&dev, vec![1.0, 0.0, 2.0], 3, 1).unwrap(),
            scaling: 0.5,
            dropout: 0.0,
        }),
    };
    let (x, d_x) = Leaf::new(&dev, vec![3.0, 1.0], 1, 2).split();
    let out = linear(x, &layer, None).unwrap();
    assert_eq!(act_to_vec::<B, _>(&out), [5.5 + 1.0, 13.0, 20.5 + 2.0]);
    let mut grads = Grads::default();
    backward(out, &[1.0, 0.0, 1.0], &mut grads);
    assert_eq!(d_x.read(), [6.0 + 1.5, 8.0 - 1.5]);
    let mut lora = layer.lora.unwrap();
    assert_eq!(ParamRef::<B>::Matrix(&mut lora.a).read_grad(&mut grads).unwrap(), [4.5, 1.5]);
    assert_eq!(ParamRef::<B>::Matrix(&mut lora.b).read_grad(&mut grads).unwrap(), [1.0, 0.0, 1.0]);
}

fn check_shared<B: Backend>(dev: B) {
    let case = Case::new(11, 3, 5, 5, 2).on::<B>();
    let layer = case.layer(&dev, true, 0.0);
    let leaf = Leaf::new(&dev, case.x.clone(), 3, 5);
    let again = leaf.again();
    let (x, d_x) = leaf.split();
    let mut grads = Grads::default();
    // x feeds two linears that share all their tensors: every gradient is twice that of one.
    let out = add(linear(x, &layer, None).unwrap(), linear(again, &layer, None).unwrap()).unwrap();
    backward(out, &case.d, &mut grads);
    let once = run(&dev, &case, 0.0, None);
    let double = |values: &[f32]| -> Vec<f64> { values.iter().map(|v| 2.0 * f64::from(*v)).collect() };
    close("d_x", &d_x.read(), &double(&once.x), tolerance::<B>(1e-6));
    let mut layer = layer;
    let d_weight = ParamRef::<B>::Weight(&mut layer.weight).read_grad(&mut grads).unwrap();
    close("d_w", &d_weight, &double(&once.params[0]), tolerance::<B>(1e-6));
}

#[test]
fn literals_and_shared_use() {
    on_every_device!(check_literals);
    on_every_device!(check_shared);
}

fn check_frozen<B: Backend>(dev: B) {
    let case = Case::new(3, 2, 3, 4, 1);
    let mut layer = case.layer(&dev, false, 0.0);
    let (x, _) = Leaf::new(&dev, case.x.clone(), 2, 3).split();
    let mut grads = Grads::default();
    backward(linear(x, &layer, None).unwrap(), &case.d, &mut grads);
    assert_eq!(ParamRef::<B>::Weight(&mut layer.weight).read_grad(&mut grads).unwrap(), [0.0; 12]);
    let bias = layer.bias.as_mut().unwrap();
    assert_eq!(ParamRef::<B>::Vector(bias).read_grad(&mut grads).unwrap(), [0.0; 4]);
}

#[test]
fn a_frozen_weight_gets_no_gradient() {
    on_every_device!(check_frozen);
}

fn check_dropout<B: Backend>(dev: B) {
    let case = Case::new(5, 70, 24, 9, 3).on::<B>();
    let dropped = run(&dev, &case, 0.3, Some(42));
    let mut mask = vec![1.0; case.x.len()];
    products::drop_out(&mut mask, Dropout { key: 42, probability: 0.3 });
    let mask = wide(&mask);
    assert!(mask.contains(&0.0) && mask.iter().any(|m| *m > 1.4));
    check_case::<B>(&case, &dropped, &mask);
    let other = run(&dev, &case, 0.3, Some(43));
    assert!(other.out != dropped.out);
    let eval = run(&dev, &case, 0.3, None);
    assert!(eval.out == run(&dev, &case, 0.0, Some(42)).out && eval.out != dropped.out);
}

#[test]
fn dropout_is_the_same_in_backward_on_any_number_of_threads_and_off_without_a_key() {
    on_every_device!(check_dropout);
    let dev = Cpu::default();
    let big = Case::new(6, 300, 300, 64, 4);
    let [one, three] = [1, 3].map(|n| with_threads(n, || run(&dev, &big, 0.3, Some(7))));
    assert!(one.out == three.out && one.x == three.x && one.params == three.params);
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    for (rows, width, outs, r) in [(1, 576, 1536, 16), (5, 577, 701, 3), (130, 200, 333, 8), (512, 96, 64, 0)] {
        let case = Case::new(9, rows, width, outs, r);
        let [one, two, three] = [1, 2, 3].map(|n| with_threads(n, || run(&Cpu::default(), &case, 0.0, None)));
        assert!(one.out == two.out && one.x == two.x && one.params == two.params, "{rows} {width} {outs}");
        assert!(one.out == three.out && one.x == three.x && one.params == three.params, "{rows} {width} {outs}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let dev = Cpu::default();
    let case = Case::new(1, 2, 3, 4, 2);
    let say = |change: &dyn Fn(&mut Linear<Cpu>)| {
        let mut layer = case.layer(&dev, false, 0.0);
        change(&mut layer);
        linear(act_from_vec(&dev, case.x.clone(), 2, 3).unwrap(), &layer, None).unwrap_err().to_string()
    };
    let matrix = |rows, cols| matrix_from_vec(&dev, vec![0.0; rows * cols], rows, cols).unwrap();
    let weight = weight_from_vec(&dev, vec![0.0; 20], 4, 5).unwrap();
    assert_eq!(say(&|l| l.weight = weight.clone()), "linear: x (2, 3) does not fit weight (4, 5)");
    let bias = vector_from_vec(&dev, vec![0.0; 5]).unwrap();
    assert_eq!(say(&|l| l.bias = Some(bias.clone())), "linear: bias (5,) does not fit weight (4, 3)");
    let lora = |l: &mut Linear<Cpu>, f: &dyn Fn(&mut Lora<Cpu>)| l.lora.iter_mut().for_each(f);
    assert_eq!(say(&|l| lora(l, &|l| l.a = matrix(2, 4))), "linear: lora A (2, 4) does not fit weight (4, 3)");
    assert_eq!(say(&|l| lora(l, &|l| l.b = matrix(3, 2))), "linear: lora B (3, 2) does not fit weight (4, 3)");
    assert_eq!(say(&|l| lora(l, &|l| l.b = matrix(4, 1))), "linear: lora A (2, 3) does not fit lora B (4, 1)");
    assert_eq!(say(&|l| lora(l, &|l| l.dropout = 1.0)), "linear: dropout 1 is not in [0, 1)");
}

fn check_empty_and_huge<B: Backend>(dev: B) {
    let none = run(&dev, &Case::new(1, 0, 3, 4, 2), 0.0, None);
    assert!(none.out.is_empty() && none.params[0] == [0.0; 12]);
    for factor in [1e-20, 7e9] {
        let mut case = Case::new(2, 9, 17, 5, 2);
        case.x.iter_mut().for_each(|x| *x *= factor);
        let mut case = case.on::<B>();
        case.bias.fill(0.0);
        let got = run(&dev, &case, 0.0, None).out;
        let (w, b0, a, b) = (wide(&case.weight), wide(&case.bias), wide(&case.a), wide(&case.b));
        let x = wide(&case.x);
        close("out", &got, &case.exact(&x, &x, [&w, &b0, &a, &b]), tolerance::<B>(1e-5));
    }
}

#[test]
fn empty_and_huge_inputs_work() {
    on_every_device!(check_empty_and_huge);
}

/// A second run gives the same bits; on a GPU, a row's bits depend neither on the other rows nor on their number.
fn check_rows<B: Backend>(dev: B) {
    let big = Case::new(7, 300, 96, 160, 8).on::<B>();
    let [all, again] = [0, 1].map(|_| run(&dev, &big, 0.3, Some(1)));
    assert!(all.out == again.out && all.x == again.x && all.params == again.params);
    if B::NUMERICS == "cpu-f32" {
        // The CPU takes another way for few rows.
        return;
    }
    let all = run(&dev, &big, 0.0, None);
    for rows in [9, 64, 129] {
        let few = Case { rows, x: big.x[..rows * 96].to_vec(), d: big.d[..rows * 160].to_vec(), ..big.clone() };
        let few = run(&dev, &few, 0.0, None);
        assert!(few.out == all.out[..rows * 160], "{rows} rows: output");
        assert!(few.x == all.x[..rows * 96], "{rows} rows: gradient");
    }
}

#[test]
fn runs_repeat_and_rows_do_not_depend_on_each_other() {
    on_every_device!(check_rows);
}

fn check_f64<B: Backend>(dev: B, case: Case) {
    let case = case.on::<B>();
    check_case::<B>(&case, &run(&dev, &case, 0.0, None), &vec![1.0; case.x.len()]);
}

/// Sums long enough to be cut into parts, over the input's width and over outputs.
fn check_long<B: Backend>(dev: B) {
    for (width, outs) in [(9_000, 40), (40, 9_000)] {
        let mut case = Case::new(51, 6, width, outs, 3).on::<B>();
        case.weight.fill(0.0);
        let got = run(&dev, &case, 0.0, None);
        let (x, a, b, d) = (wide(&case.x), wide(&case.a), wide(&case.b), wide(&case.d));
        let zero = vec![0.0; case.weight.len()];
        let want = case.exact(&x, &x, [&zero, &wide(&case.bias), &a, &b]);
        close_or("out", &got.out, &want, tolerance::<B>(1e-5), 0.1);
        let row = |d: &[f64]| {
            let e: Vec<f64> = (0..3).map(|j| (0..outs).map(|o| d[o] * b[o * 3 + j]).sum::<f64>()).collect();
            (0..width).map(|i| f64::from(SCALING) * (0..3).map(|j| e[j] * a[j * width + i]).sum::<f64>()).collect()
        };
        let want: Vec<f64> = d.chunks(outs).flat_map(|d| -> Vec<f64> { row(d) }).collect();
        close_or("d_x", &got.x, &want, tolerance::<B>(1e-5), 0.1);
    }
}

#[test]
fn long_sums_agree_with_f64() {
    on_every_device!(check_long);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn f64_and_the_twin_agree(
        rows in 1usize..20, width in 1usize..40, outs in 1usize..24, r in 0usize..5, seed: u64,
    ) {
        let dev = Cpu::default();
        let case = Case::new(seed, rows, width, outs, r);
        on_every_device!(check_f64, case);
        let got = run(&dev, &case, 0.0, None);
        let matrix = |values: &[f32], rows, cols| {
            matrix_from_vec(&dev, values.to_vec(), rows, cols).unwrap().put_tape(OpTape::<Cpu>::default())
        };
        let branch = (r > 0).then(|| (matrix(&case.a, r, width), matrix(&case.b, outs, r), SCALING));
        let bias = vector_from_vec(&dev, case.bias.clone()).unwrap().put_tape(OpTape::default());
        let (x, weight) = (matrix(&case.x, rows, width), matrix(&case.weight, outs, width));
        let twin = reference::linear(x, weight, Some(bias), branch);
        close_or("twin", &got.out, &wide(&act_to_vec::<Cpu, _>(&twin)), 1e-5, 0.1);
    }
}
