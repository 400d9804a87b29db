//! The slow twin of AdamW: one element in f64, straight from torch's `_single_tensor_adamw`. For tests.

use super::AdamwHyper;

/// One step of `(p, m, v)` along gradient `g`.
pub fn step(p: &mut f64, m: &mut f64, v: &mut f64, g: f64, hyper: &AdamwHyper) {
    let (g, t) = (g * f64::from(hyper.grad_scale), hyper.step as f64);
    *p *= 1.0 - hyper.lr * hyper.weight_decay;
    *m += (1.0 - hyper.beta1) * (g - *m);
    *v = *v * hyper.beta2 + (1.0 - hyper.beta2) * g * g;
    let correction1 = 1.0 - hyper.beta1.powf(t);
    let correction2 = (1.0 - hyper.beta2.powf(t)).sqrt();
    *p -= hyper.lr / correction1 * *m / (v.sqrt() / correction2 + hyper.eps);
}
