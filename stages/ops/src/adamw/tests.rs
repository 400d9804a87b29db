//! Tests of AdamW: torch's literals, the f64 twin, storage in place, bitwise checkpoints, threads.

use dfdx::prelude::Cpu;
use proptest::prelude::*;

use super::*;
use crate::cpu::slice;
use crate::host::{matrix_from_vec, weight_from_vec};
use crate::testing::{numbers, with_threads};

const HYPER: AdamwHyper =
    AdamwHyper { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 1, grad_scale: 1.0 };

fn steps<B: Backend>(dev: &B, p: &[f32], grads: &[Vec<f32>], hyper: AdamwHyper) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut param = vector_from_vec(dev, p.to_vec()).unwrap();
    let (mut state, mut all) = (AdamwState::<B>::new(dev, p.len()).unwrap(), Grads::default());
    for (i, grad) in grads.iter().enumerate() {
        let mut param = ParamRef::Vector(&mut param);
        param.write_grad(&mut all, grad).unwrap();
        step(&mut param, &mut all, &mut state, &AdamwHyper { step: i as u64 + 1, ..hyper }).unwrap();
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

fn check_kinds_and_resume<B: Backend>(dev: B) {
    let (values, grad) = (numbers(1, 6), numbers(2, 6));
    let mut weight = weight_from_vec(&dev, values.clone(), 2, 3).unwrap();
    let mut matrix = matrix_from_vec(&dev, values.clone(), 2, 3).unwrap();
    let mut results = Vec::new();
    for mut param in [ParamRef::<B>::Weight(&mut weight), ParamRef::Matrix(&mut matrix)] {
        let mut grads = Grads::default();
        let mut state = AdamwState::new(&dev, 6).unwrap();
        for t in 1..=4 {
            if t == 3 {
                // What a checkpoint does: everything out to the host and back in.
                let (p, (m, v)) = (param.read(), state.read());
                state = AdamwState::new(&dev, 6).unwrap();
                state.write(&m, &v).unwrap();
                param.write(&p).unwrap();
            }
            param.write_grad(&mut grads, &grad).unwrap();
            step(&mut param, &mut grads, &mut state, &AdamwHyper { step: t, ..HYPER }).unwrap();
        }
        results.push(param.read());
    }
    let (vector, ..) = steps(&dev, &values, &vec![grad; 4], HYPER);
    assert_eq!(results[1], vector, "a resumed run has the bits of an uninterrupted one");
    if B::NUMERICS == "cpu-f32" {
        assert_eq!(results[0], vector);
    }
}

#[test]
fn literals_kinds_and_resume() {
    check_literals(Cpu::default());
    check_kinds_and_resume(Cpu::default());
}

#[test]
fn clipping_by_grad_scale_is_scaling_the_gradient() {
    let dev = Cpu::default();
    let (p, grad) = (numbers(1, 9), numbers(2, 9));
    let half: Vec<f32> = grad.iter().map(|g| g * 0.5).collect();
    let clipped = steps(&dev, &p, &[grad], AdamwHyper { grad_scale: 0.5, ..HYPER });
    assert_eq!(clipped, steps(&dev, &p, &[half], HYPER));
}

#[test]
fn an_unshared_parameter_is_updated_in_place() {
    let dev = Cpu::default();
    let mut weight = weight_from_vec(&dev, vec![1.0; 4], 2, 2).unwrap();
    let before = slice::matrix("t", &weight).unwrap().as_ptr();
    let (mut grads, mut state) = (Grads::<Cpu>::default(), AdamwState::new(&dev, 4).unwrap());
    let mut param = ParamRef::Weight(&mut weight);
    param.write_grad(&mut grads, &[1.0; 4]).unwrap();
    step(&mut param, &mut grads, &mut state, &HYPER).unwrap();
    assert_eq!(slice::matrix("t", &weight).unwrap().as_ptr(), before);
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let (p, grad) = (numbers(1, 200_001), numbers(2, 200_001));
    let [one, three] = [1, 3].map(|n| with_threads(n, || steps(&Cpu::default(), &p, &vec![grad.clone(); 2], HYPER)));
    assert!(one == three);
}

#[test]
fn a_state_of_another_size_and_step_zero_are_refused() {
    let dev = Cpu::default();
    let mut vector = vector_from_vec(&dev, vec![1.0; 3]).unwrap();
    let (mut grads, mut state) = (Grads::<Cpu>::default(), AdamwState::new(&dev, 4).unwrap());
    let error = step(&mut ParamRef::Vector(&mut vector), &mut grads, &mut state, &HYPER).unwrap_err();
    assert_eq!(error.to_string(), "adamw: parameter [3] does not fit state [4]");
    assert!(state.write(&[0.0; 3], &[0.0; 4]).is_err());
    let mut state = AdamwState::new(&dev, 3).unwrap();
    let zero = AdamwHyper { step: 0, ..HYPER };
    let error = step(&mut ParamRef::Vector(&mut vector), &mut grads, &mut state, &zero).unwrap_err();
    assert_eq!(error.to_string(), "adamw: steps are counted from 1");
}

proptest! {
    #[test]
    fn the_twin_agrees(len in 1usize..40, count in 1usize..6, seed: u64, size in prop::sample::select(vec![1e-20f32, 1.0, 1e9])) {
        let p = numbers(seed, len);
        let grads: Vec<Vec<f32>> = (0..count).map(|i| {
            numbers(seed ^ (i as u64 + 1), len).iter().map(|g| g * size).collect()
        }).collect();
        let (got, ..) = steps(&Cpu::default(), &p, &grads, HYPER);
        for i in 0..len {
            let (mut want, mut m, mut v) = (f64::from(p[i]), 0.0, 0.0);
            for (t, grad) in grads.iter().enumerate() {
                let hyper = AdamwHyper { step: t as u64 + 1, ..HYPER };
                reference::step(&mut want, &mut m, &mut v, f64::from(grad[i]), &hyper);
            }
            // A step moves by about lr; the second moment of 1e-20 underflows in f32 as it does in torch.
            let tolerance = if size < 1e-10 { 2.0 * HYPER.lr * count as f64 } else { 1e-6 };
            prop_assert!((f64::from(got[i]) - want).abs() <= tolerance, "{} {}", got[i], want);
        }
    }
}
