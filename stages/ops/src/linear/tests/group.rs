//! Tests of modules that share an input, and of a residual that the product adds.

use super::*;

/// q, k and v of one input as the tests of a group have them: of different widths, one without a branch.
fn three<B: Backend>(dev: &B, dropout: f32) -> ([Linear<B>; 3], Vec<f32>) {
    let cases = [(16, 3), (5, 0), (9, 2)].map(|(outs, r)| Case::new(20 + outs as u64, 33, 24, outs, r).on::<B>());
    let x = cases[0].x.clone();
    (cases.map(|case| case.layer(dev, true, dropout)), x)
}

/// Gradients of everything that the modules hold.
fn read_all<B: Backend>(modules: &mut [Linear<B>; 3], grads: &mut Grads<B>) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for Linear { weight, bias, lora, .. } in modules {
        all.push(ParamRef::<B>::Weight(weight).read_grad(grads).unwrap());
        all.push(ParamRef::<B>::Vector(bias.as_mut().unwrap()).read_grad(grads).unwrap());
        if let Some(Lora { a, b, .. }) = lora {
            all.extend([a, b].map(|m| ParamRef::<B>::Matrix(m).read_grad(grads).unwrap()));
        }
    }
    all
}

/// A group is its modules one by one: same outputs, same gradients. `recomputed`: with the input made again in backward.
fn check_group<B: Backend>(dev: B, dropout: f32, recomputed: bool) {
    let (mut modules, x) = three(&dev, dropout);
    let d = [16, 5, 9].map(|outs| stored::<B>(numbers(outs as u64, 33 * outs)));
    let keys = [Some(1), Some(2), Some(3)];
    let join = |outs: [Act<B, OpTape<B>>; 3]| {
        let values = outs.each_ref().map(|out| act_to_vec::<B, _>(out));
        let mut grads = Grads::default();
        let mut tape = OpTape::default();
        for (out, d) in outs.into_iter().zip(&d) {
            let (out, own) = out.split_tape();
            tape = tape.merge(own);
            dev.write_buffer(grads.acts.get_or_alloc_mut(&out).unwrap(), d).unwrap();
        }
        tape.backward(&mut grads).unwrap();
        (values, grads)
    };
    let leaf = Leaf::new(&dev, x.clone(), 33, 24);
    let (second, third) = (leaf.again(), leaf.again());
    let (first, d_x) = leaf.split();
    let [q, k, v] = &modules;
    let single = [linear(first, q, keys[0]), linear(second, k, keys[1]), linear(third, v, keys[2])];
    let (want, mut grads) = join(single.map(Result::unwrap));
    let (want_x, want_grads) = (d_x.read(), read_all(&mut modules, &mut grads));

    let (leaf, d_x) = Leaf::new(&dev, x, 33, 24).split();
    let kept = leaf.retaped::<dfdx::prelude::NoneTape>();
    let again = recomputed.then(|| Again::new(move || Ok(kept.clone())));
    let [q, k, v] = &modules;
    let (got, mut grads) =
        join(linear_group(leaf, [(q, keys[0]), (k, keys[1]), (v, keys[2])], again.as_ref()).unwrap());
    assert!(got == want, "outputs are those of single modules");
    // Sums over modules are rounded in another order.
    let bound = tolerance::<B>(1e-6);
    close_or("d_x", &d_x.read(), &wide(&want_x), bound, 0.1);
    for (i, (got, want)) in read_all(&mut modules, &mut grads).iter().zip(&want_grads).enumerate() {
        close_or(&format!("gradient {i}"), got, &wide(want), bound, 0.1);
    }
}

#[test]
fn a_group_is_its_modules() {
    on_every_device!(check_group, 0.0, false);
    on_every_device!(check_group, 0.3, true);
}

/// `linear_onto` is `add(linear(x), residual)` within a rounding, and the residual's gradient is the output's, whether or
/// not something gave it one before.
fn check_onto<B: Backend>(dev: B, r: usize, used_again: bool) {
    let case = Case::new(31, 12, 10, 8, r).on::<B>();
    let layer = case.layer(&dev, true, 0.0);
    let residual = stored::<B>(numbers(77, 12 * 8));
    let plain = run(&dev, &case, 0.0, None);
    let (x, d_x) = Leaf::new(&dev, case.x.clone(), 12, 10).split();
    let leaf = Leaf::new(&dev, residual.clone(), 12, 8);
    let again = leaf.again();
    let (base, d_residual) = leaf.split();
    let (base, base_tape) = base.split_tape();
    let (x, x_tape) = x.split_tape();
    let out = linear_onto(x.put_tape(x_tape.merge(base_tape)), base, &layer, None, None).unwrap();
    let want: Vec<f64> = plain.out.iter().zip(&residual).map(|(y, r)| f64::from(*y) + f64::from(*r)).collect();
    close("out", &act_to_vec::<B, _>(&out), &want, tolerance::<B>(1e-6));
    let out = if used_again { add(out, again).unwrap() } else { out };
    backward(out, &case.d, &mut Grads::default());
    assert!(d_x.read() == plain.x, "the input's gradient is that of the product alone");
    let factor = if used_again { 2.0 } else { 1.0 };
    let want: Vec<f64> = case.d.iter().map(|d| factor * f64::from(*d)).collect();
    close("d_residual", &d_residual.read(), &want, 0.0);
}

#[test]
fn a_residual_is_added_by_the_product() {
    for (r, used_again) in [(0, false), (3, false), (3, true)] {
        on_every_device!(check_onto, r, used_again);
    }
    let dev = Cpu::default();
    let case = Case::new(1, 2, 3, 4, 0);
    let [x, residual] = [3, 5].map(|width| act_from_vec(&dev, vec![0.0; 2 * width], 2, width).unwrap());
    let error = linear_onto(x, residual, &case.layer(&dev, false, 0.0), None, None).unwrap_err();
    assert_eq!(error.to_string(), "linear: residual (2, 5) does not fit output (2, 4)");
}
