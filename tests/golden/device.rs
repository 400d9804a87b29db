//! Every device from one body: the CPU, and the GPU where the build has the feature `cuda` and the machine a device.
//!
//! Without a GPU a test says `skipped:`; with `ANNEAL_TEST_GPU=1` that is a failure. Unaware of what is compared.
use anneal_ops::{BackendVisitor, backend_names, with_backend};

/// Runs `check(device)`, generic over `B: Backend`, on the CPU and on the GPU.
macro_rules! on_every_device {
    ($check:path) => {{
        crate::device::visitor!($check);
        crate::device::run_on_cpu(Visitor);
        crate::device::run_on_gpu(Visitor);
    }};
}
pub(crate) use on_every_device;

/// Runs `check(device)` on the GPU only: for what the CPU is itself the reference of.
macro_rules! on_gpu {
    ($check:path) => {{
        crate::device::visitor!($check);
        crate::device::run_on_gpu(Visitor);
    }};
}
pub(crate) use on_gpu;

macro_rules! visitor {
    ($check:path) => {
        struct Visitor;
        impl anneal_ops::BackendVisitor for Visitor {
            type Out = ();
            fn visit<B: anneal_ops::Backend>(self, device: B) {
                $check(device)
            }
        }
    };
}
pub(crate) use visitor;

pub(crate) fn run_on_cpu(visitor: impl BackendVisitor<Out = ()>) {
    with_backend("cpu-f32", visitor).unwrap();
}

pub(crate) fn run_on_gpu(visitor: impl BackendVisitor<Out = ()>) {
    let found = backend_names().iter().find(|name| name.starts_with("cuda"));
    let missing = match found {
        Some(name) => match with_backend(name, visitor) {
            Ok(()) => return,
            Err(error) => error.to_string(),
        },
        None => "this build lacks the feature `cuda`".to_owned(),
    };
    assert!(std::env::var_os("ANNEAL_TEST_GPU").is_none(), "ANNEAL_TEST_GPU is set, but {missing}");
    println!("skipped: no GPU: {missing}");
}
