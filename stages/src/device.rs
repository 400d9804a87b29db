//! The device that a stage computes on, held to what the stage may take of it.
//!
//! Unaware of what is computed.
use crate::failure::OrFail;
use anneal_engine::{Failure, StageContext};
use anneal_ops::{Backend, BackendVisitor, with_backend};

/// Opens the device of the stage's numerics class and runs `visitor` on it, within the stage's memory limit.
///
/// # Errors
/// The device cannot be opened; those of the visitor are in what it returns.
pub(crate) fn on_device<V: BackendVisitor>(context: &StageContext<'_>, visitor: V) -> Result<V::Out, Failure> {
    let limit = context.device_memory_limit_mib;
    with_backend(context.numerics, Limited { limit, visitor }).or_fail()
}

/// A visitor whose device has a limit, MiB.
struct Limited<V> {
    limit: Option<u64>,
    visitor: V,
}

impl<V> Limited<V> {
    fn hold<B: Backend>(self, device: &B) -> V {
        if let Some(mib) = self.limit {
            device.limit_memory(usize::try_from(mib.saturating_mul(1 << 20)).unwrap_or(usize::MAX));
        }
        self.visitor
    }
}

impl<V: BackendVisitor> BackendVisitor for Limited<V> {
    type Out = V::Out;

    fn visit<B: Backend>(self, device: B) -> V::Out {
        self.hold(&device).visit(device)
    }

    fn visit_threads<B: Backend + Send + Sync>(self, device: B) -> V::Out {
        self.hold(&device).visit_threads(device)
    }
}
