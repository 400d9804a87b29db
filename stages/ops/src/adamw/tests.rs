//! Tests of AdamW: torch's literals, the f64 twin, storage in place, bitwise checkpoints, threads.

use dfdx::prelude::Cpu;
use proptest::prelude::*;

use super::*;
use crate::cpu::slice;
use crate::host::{matrix_from_vec, weight_from_vec};
use crate::testing::{Owned, close, group, inputs, numbers, on_every_device, stored, tolerance, wide, with_threads};

const HYPER: AdamwHyper =
    AdamwHyper { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 1, grad_scale: 1.0 };

/// A step of one parameter.
fn one<B: Backend>(
    param: &mut ParamRef<B>,
    grads: &mut Grads<B>,
    state: &mut AdamwState<B>,
    hyper: &AdamwHyper,
) -> Result<(), OpError> {
    step(&mut [AdamwPart { param: param.reborrow(), state, decays: true }], grads, hyper)
}

fn steps<B: Backend>(dev: &B, p: &[f32], grads: &[Vec<f32>], hyper: AdamwHyper) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut param = vector_from_vec(dev, p.to_vec()).unwrap();
    let (mut state, mut all) = (AdamwState::<B>::new(dev, p.len()).unwrap(), Grads::default());
    for (i, grad) in grads.iter().enumerate() {
        let mut param = ParamRef::Vector(&mut param);
        param.write_grad(&mut all, grad).unwrap();
        one(&mut param, &mut all, &mut state, &AdamwHyper { step: i as u64 + 1, ..hyper }).unwrap();
        assert_eq!(param.read_grad(&mut all).unwrap(), vec![0.0; p.len()], "a gradient is used up");
    }
    let (m, v) = state.read();
    (vector_to_vec::<B>(&param), m, v)
}

fn check_literals<B: Backend>(dev: B) {
    // By hand, as torch.optim.AdamW(lr=1e-3) does it: the first step moves by lr against the sign of the gradient.
    let (p, m, v) = steps(&dev, &[1.0, -2.0, 0.5], &[vec![0.5, -0.25, 0.0]], HYPER);
    for (got, want) in p.iter().zip([0.99899, -1.99898, 0.499995]) {
        assert!((got - want).abs() < 2e-7, "{p:?}");
    }
    assert_eq!(m, [0.05, -0.025, 0.0]);
    for (got, want) in v.iter().zip([2.5e-4, 6.25e-5, 0.0]) {
        assert!((got - want).abs() < 1e-10, "{v:?}");
    }
}

/// Four steps of `param` along `grad`; with `resume`, everything goes out to the host and back in after two, as a
/// checkpoint does it.
fn four_steps<B: Backend>(dev: &B, param: &mut ParamRef<B>, grad: &[f32], dtype: StateDtype, resume: bool) -> Vec<f32> {
    let mut grads = Grads::default();
    let mut state = AdamwState::for_param(dev, param, dtype).unwrap();
    for t in 1..=4 {
        if resume && t == 3 {
            let (p, (m, v), master) = (param.read(), state.read(), state.read_master());
            state = AdamwState::for_param(dev, param, dtype).unwrap();
            state.write(&m, &v).unwrap();
            master.into_iter().for_each(|master| state.write_master(dev, &master).unwrap());
            param.write(&p).unwrap();
        }
        param.write_grad(&mut grads, grad).unwrap();
        one(param, &mut grads, &mut state, &AdamwHyper { step: t, ..HYPER }).unwrap();
    }
    param.read()
}

fn check_kinds_and_resume<B: Backend>(dev: B) {
    let (values, grad) = (inputs::<B>(1, 21), inputs::<B>(2, 21));
    let (vector, ..) = steps(&dev, &values, &vec![grad.clone(); 4], HYPER);
    for resume in [false, true] {
        let mut weight = weight_from_vec(&dev, values.clone(), 7, 3).unwrap();
        let mut matrix = matrix_from_vec(&dev, values.clone(), 7, 3).unwrap();
        let [weight, matrix] = [ParamRef::<B>::Weight(&mut weight), ParamRef::Matrix(&mut matrix)]
            .map(|mut param| four_steps(&dev, &mut param, &grad, StateDtype::F32, resume));
        assert_eq!(matrix, vector, "resume: {resume}");
        assert_eq!(weight, stored::<B>(vector.clone()), "a weight is its master, rounded; resume: {resume}");
    }
    let short = |resume| {
        let mut weight = weight_from_vec(&dev, values.clone(), 7, 3).unwrap();
        four_steps(&dev, &mut ParamRef::<B>::Weight(&mut weight), &grad, StateDtype::Bf16, resume)
    };
    assert_eq!(short(false), short(true), "a resumed run has the bits of an uninterrupted one");
    close("short states", &short(false), &wide(&vector), tolerance::<B>(1e-6));
    let mut vector = vector_from_vec(&dev, vec![1.0; 3]).unwrap();
    let state = AdamwState::for_param(&dev, &ParamRef::<B>::Vector(&mut vector), StateDtype::Bf16).unwrap();
    assert!(matches!(state.moments, Moments::F32 { .. }), "an f32 parameter's states are f32");
}

#[test]
fn literals_kinds_and_resume() {
    on_every_device!(check_literals);
    on_every_device!(check_kinds_and_resume);
}

fn check_clipping<B: Backend>(dev: B) {
    let (p, grad) = (numbers(1, 9), numbers(2, 9));
    let half: Vec<f32> = grad.iter().map(|g| g * 0.5).collect();
    let clipped = steps(&dev, &p, &[grad], AdamwHyper { grad_scale: 0.5, ..HYPER });
    assert_eq!(clipped, steps(&dev, &p, &[half], HYPER));
}

#[test]
fn clipping_by_grad_scale_is_scaling_the_gradient() {
    on_every_device!(check_clipping);
}

#[test]
fn an_unshared_parameter_is_updated_in_place() {
    let dev = Cpu::default();
    let mut weight = weight_from_vec(&dev, vec![1.0; 4], 2, 2).unwrap();
    let before = slice::matrix("t", &weight).unwrap().as_ptr();
    let (mut grads, mut state) = (Grads::<Cpu>::default(), AdamwState::new(&dev, 4).unwrap());
    let mut param = ParamRef::Weight(&mut weight);
    param.write_grad(&mut grads, &[1.0; 4]).unwrap();
    one(&mut param, &mut grads, &mut state, &HYPER).unwrap();
    assert_eq!(slice::matrix("t", &weight).unwrap().as_ptr(), before);
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let (p, grad) = (numbers(1, 200_001), numbers(2, 200_001));
    let [one, three] = [1, 3].map(|n| with_threads(n, || steps(&Cpu::default(), &p, &vec![grad.clone(); 2], HYPER)));
    assert!(one == three);
}

/// Two steps of [`group`], so many parameters at a time; all that is left of it, as bits.
fn two_steps<B: Backend>(dev: &B, dtype: StateDtype, at_a_time: usize) -> Vec<Vec<u32>> {
    let (mut params, mut grads) = (group(dev), Grads::default());
    let state = |param: &mut Owned<B>| AdamwState::for_param(dev, &param.param(), dtype).unwrap();
    let mut states: Vec<_> = params.iter_mut().map(state).collect();
    for t in 1..=2 {
        for (i, param) in params.iter_mut().enumerate().skip(1) {
            let param = param.param();
            param.write_grad(&mut grads, &inputs::<B>(i as u64 ^ t, param.len())).unwrap();
        }
        let both = params.iter_mut().zip(&mut states).enumerate();
        let mut parts: Vec<_> =
            both.map(|(i, (param, state))| AdamwPart { param: param.param(), state, decays: i % 2 == 0 }).collect();
        let hyper = AdamwHyper { step: t, grad_scale: 0.7, lr: 0.1, weight_decay: 0.3, ..HYPER };
        parts.chunks_mut(at_a_time).for_each(|parts| step(parts, &mut grads, &hyper).unwrap());
    }
    let all = params.iter_mut().zip(&states).flat_map(|(param, state)| {
        let (param, (m, v)) = (param.param(), state.read());
        let grad = param.read_grad(&mut grads).unwrap();
        assert!(grad.iter().all(|g| g.to_bits() == 0));
        [param.read(), m, v, state.read_master().unwrap_or_default()]
    });
    all.map(|values| values.into_iter().map(f32::to_bits).collect()).collect()
}

fn check_groups<B: Backend>(dev: B) {
    for dtype in [StateDtype::F32, StateDtype::Bf16] {
        let alone = two_steps(&dev, dtype, 1);
        assert!(alone == two_steps(&dev, dtype, usize::MAX), "{dtype:?}");
        assert!(alone == two_steps(&dev, dtype, 35), "{dtype:?}");
    }
    // Nor does an element's place matter: alone, in a vector of eight, among what is left of one.
    let (p, grad) = (numbers(1, 21), numbers(2, 21));
    let (whole, ..) = steps(&dev, &p, &vec![grad.clone(); 3], HYPER);
    for i in 0..p.len() {
        let (alone, ..) = steps(&dev, &p[i..=i], &vec![vec![grad[i]]; 3], HYPER);
        assert_eq!(alone[0].to_bits(), whole[i].to_bits(), "{i}");
    }
}

#[test]
fn a_group_has_the_bits_of_one_parameter_after_the_other() {
    on_every_device!(check_groups);
}

fn check_errors<B: Backend>(dev: B) {
    let mut vector = vector_from_vec(&dev, vec![1.0; 3]).unwrap();
    let (mut grads, mut state) = (Grads::<B>::default(), AdamwState::new(&dev, 4).unwrap());
    let error = one(&mut ParamRef::Vector(&mut vector), &mut grads, &mut state, &HYPER).unwrap_err();
    assert_eq!(error.to_string(), "adamw: parameter [3] does not fit state [4]");
    assert!(state.write(&[0.0; 3], &[0.0; 4]).is_err());
    assert!(state.write_master(&dev, &[0.0; 3]).is_err());
    let mut state = AdamwState::new(&dev, 3).unwrap();
    let zero = AdamwHyper { step: 0, ..HYPER };
    let error = one(&mut ParamRef::Vector(&mut vector), &mut grads, &mut state, &zero).unwrap_err();
    assert_eq!(error.to_string(), "adamw: steps are counted from 1");
    step::<B>(&mut [], &mut grads, &HYPER).unwrap();

    // One part that does not fit, and none is changed.
    let mut weight = weight_from_vec(&dev, vec![1.0; 3], 1, 3).unwrap();
    let mut short = AdamwState::for_param(&dev, &ParamRef::<B>::Weight(&mut weight), StateDtype::Bf16).unwrap();
    let mut other = vector_from_vec(&dev, vec![1.0; 3]).unwrap();
    let mut parts = [
        AdamwPart { param: ParamRef::Vector(&mut vector), state: &mut state, decays: true },
        AdamwPart { param: ParamRef::Vector(&mut other), state: &mut short, decays: true },
    ];
    let error = step(&mut parts, &mut grads, &HYPER).unwrap_err();
    assert_eq!(error.to_string(), "adamw: the state of a big weight came with an f32 parameter");
    assert_eq!(vector_to_vec::<B>(&vector), [1.0; 3]);

    if B::NUMERICS.starts_with("cuda") {
        let (mut clone, mut second) = (vector.clone(), AdamwState::new(&dev, 3).unwrap());
        let mut parts = [
            AdamwPart { param: ParamRef::Vector(&mut vector), state: &mut state, decays: true },
            AdamwPart { param: ParamRef::Vector(&mut clone), state: &mut second, decays: true },
        ];
        assert_eq!(step(&mut parts, &mut grads, &HYPER).unwrap_err().to_string(), "adamw: a parameter came twice");
    }
}

#[test]
fn a_state_of_another_size_and_step_zero_are_refused() {
    on_every_device!(check_errors);
}

fn check_twin<B: Backend>(dev: B, len: usize, count: usize, seed: u64, size: f32) {
    let p = numbers(seed, len);
    let grad = |i: usize| numbers(seed ^ (i as u64 + 1), len).iter().map(|g| g * size).collect();
    let grads: Vec<Vec<f32>> = (0..count).map(grad).collect();
    let (got, ..) = steps(&dev, &p, &grads, HYPER);
    for i in 0..len {
        let (mut want, mut m, mut v) = (f64::from(p[i]), 0.0, 0.0);
        for (t, grad) in grads.iter().enumerate() {
            let hyper = AdamwHyper { step: t as u64 + 1, ..HYPER };
            reference::step(&mut want, &mut m, &mut v, f64::from(grad[i]), &hyper);
        }
        // A step moves by about lr; the second moment of 1e-20 underflows in f32 as it does in torch.
        let tolerance = if size < 1e-10 { 2.0 * HYPER.lr * count as f64 } else { 1e-6 };
        assert!((f64::from(got[i]) - want).abs() <= tolerance, "{} {}", got[i], want);
    }
}

proptest! {
    #[test]
    fn the_twin_agrees(
        len in 1usize..40, count in 1usize..6, seed: u64, size in prop::sample::select(vec![1e-20f32, 1.0, 1e9]),
    ) {
        on_every_device!(check_twin, len, count, seed, size);
    }
}
