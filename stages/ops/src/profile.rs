//! Time by op: while a [`Profiler`] of this thread runs, every op's forward and backward is timed under its name.
//!
//! The device is synchronised before and after each, so these are the times of ops one after the other, without the
//! overlap of an ordinary step: their sum exceeds its time. Off, a span costs one relaxed load. A span is also where
//! an op's lack of memory gets its category. Unaware of what the ops compute.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::OpError;
use crate::backend::{Backend, Memory};
use crate::category::Category;
use crate::tape::Grads;

/// Profilers of all threads together: what a span looks at first.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

#[derive(Default)]
struct Recorder {
    /// Calls and time by name.
    ops: BTreeMap<&'static str, (u64, Duration)>,
    /// Time of spans within the one that runs, so that none is counted twice.
    inner: Duration,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// What one op took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OpTime {
    /// Its name, such as `linear.backward`.
    pub op: &'static str,
    /// Times it ran.
    pub calls: u64,
    /// Seconds in all of them.
    pub seconds: f64,
}

/// Times the ops that this thread runs from [`Profiler::start`] to [`Profiler::finish`].
pub struct Profiler {
    /// Belongs to its thread.
    here: PhantomData<*const ()>,
}

impl Profiler {
    /// Starts; one that ran on this thread begins again from nothing.
    pub fn start() -> Self {
        RUNNING.fetch_add(1, Ordering::Relaxed);
        RECORDER.set(Some(Recorder::default()));
        Self { here: PhantomData }
    }

    /// Ends: what each op took, the longest first.
    pub fn finish(self) -> Vec<OpTime> {
        let ops = RECORDER.take().unwrap_or_default().ops;
        let mut times: Vec<OpTime> =
            ops.into_iter().map(|(op, (calls, time))| OpTime { op, calls, seconds: time.as_secs_f64() }).collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        times
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        RECORDER.set(None);
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn on() -> bool {
    RUNNING.load(Ordering::Relaxed) > 0 && RECORDER.with_borrow(Option::is_some)
}

/// Runs an op's `work`. Lack of memory that says nothing else is for activations.
///
/// # Errors
/// Those of `work`; with a profiler also those of the device.
pub fn span<B: Memory, R>(dev: &B, op: &'static str, work: impl FnOnce() -> Result<R, OpError>) -> Result<R, OpError> {
    if !on() {
        return work().map_err(|error| error.lacking(Category::Activations));
    }
    dev.synchronize()?;
    let outer = RECORDER.with_borrow_mut(|r| r.as_mut().map(|r| std::mem::take(&mut r.inner))).unwrap_or_default();
    let started = Instant::now();
    let result = work().map_err(|error| error.lacking(Category::Activations));
    // A failed device fails here too, with a later and less telling error.
    let ended = dev.synchronize();
    let took = started.elapsed();
    RECORDER.with_borrow_mut(|recorder| {
        let Some(recorder) = recorder else { return };
        let (calls, time) = recorder.ops.entry(op).or_default();
        *calls += 1;
        *time += took.saturating_sub(recorder.inner);
        recorder.inner = outer + took;
    });
    result.and_then(|value| ended.map(|()| value))
}

/// A backward node that runs as a [`span`].
pub(crate) fn node<B: Backend>(
    dev: B,
    op: &'static str,
    work: impl FnOnce(&mut Grads<B>) -> Result<(), OpError> + 'static,
) -> impl FnOnce(&mut Grads<B>) -> Result<(), OpError> + 'static {
    move |grads| span(&dev, op, || work(grads))
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::{Cpu, PutTape};

    use super::*;
    use crate::host::{act_from_vec, weight_from_vec};
    use crate::linear::{Linear, linear};
    use crate::swiglu::swiglu;
    use crate::tape::OpTape;
    use crate::testing::backward;

    #[test]
    fn forward_and_backward_are_counted_by_name_and_only_while_it_runs() {
        let dev = Cpu::default();
        let step = || {
            let weight = weight_from_vec(&dev, vec![0.5; 4], 2, 2).unwrap();
            let layer = Linear { weight, bias: None, trainable: true, lora: None };
            let x = || act_from_vec(&dev, vec![1.0; 4], 2, 2).unwrap().put_tape(OpTape::default());
            let out = swiglu(linear(x(), &layer, None).unwrap(), linear(x(), &layer, None).unwrap()).unwrap();
            backward(out, &[1.0; 4], &mut Grads::default());
        };
        step();
        let profiler = Profiler::start();
        step();
        step();
        let times = profiler.finish();
        step();
        let mut calls: Vec<(&str, u64)> = times.iter().map(|time| (time.op, time.calls)).collect();
        calls.sort();
        let expected = [("linear.backward", 4), ("linear.forward", 4), ("swiglu.backward", 2), ("swiglu.forward", 2)];
        assert_eq!(calls, expected);
        assert!(times.windows(2).all(|pair| pair[0].seconds >= pair[1].seconds));
        assert_eq!(Profiler::start().finish(), []);
    }

    #[test]
    fn a_span_within_another_is_counted_once() {
        let dev = Cpu::default();
        let pause = || -> Result<(), OpError> {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        };
        let profiler = Profiler::start();
        let started = Instant::now();
        let work = || {
            pause()?;
            span(&dev, "inner", pause)?;
            span(&dev, "inner", pause)
        };
        span(&dev, "outer", work).unwrap();
        let all = started.elapsed().as_secs_f64();
        let times = profiler.finish();
        let of = |op: &str| times.iter().find(|time| time.op == op).map_or(0.0, |time| time.seconds);
        assert!(of("inner") >= 0.04 && of("outer") >= 0.02, "{times:?}");
        assert!(of("inner") + of("outer") <= all, "{times:?} of {all}");
    }

    #[test]
    fn another_threads_ops_are_not_this_ones() {
        let profiler = Profiler::start();
        let other = std::thread::spawn(|| span(&Cpu::default(), "other", || Ok(on())));
        assert!(!other.join().unwrap().unwrap());
        assert_eq!(profiler.finish(), []);
    }

    #[test]
    fn lack_of_memory_gets_a_category_and_keeps_the_one_it_has() {
        let dev = Cpu::default();
        let fail = |error: OpError| span(&dev, "t", || Err::<(), _>(error)).unwrap_err().to_string();
        let bytes = Some(4096);
        assert_eq!(
            fail(OpError::OutOfMemory { bytes }),
            "the device is out of memory for activations: 4096 more bytes were asked for"
        );
        let named = OpError::OutOfMemory { bytes }.lacking(Category::Logits);
        assert_eq!(fail(named), "the device is out of memory for logits: 4096 more bytes were asked for");
        assert_eq!(fail(OpError::argument("t", "no")), "t: no");
    }
}
