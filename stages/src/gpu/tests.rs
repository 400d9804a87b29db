//! Sampling, events and measurements, of a device that a test invents.
use super::choice::{Choice, choice};
use super::sample::Seen;
use super::*;
use anneal_engine::event::Event;
use anneal_engine::{Launch, StageContext};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

fn facts(used: f64, utilisation: f64, power: f64) -> Facts {
    Facts {
        used_mib: Some(used),
        total_mib: Some(81559.0),
        utilisation_percent: Some(utilisation),
        power_watts: Some(power),
        temperature_celsius: Some(40.0 + power / 100.0),
        energy_joules: None,
    }
}

/// Tells a list of facts, then no more.
struct Fake {
    rest: std::vec::IntoIter<Facts>,
    told: Arc<AtomicU32>,
}

impl Source for Fake {
    fn name(&self) -> String {
        "Fake 9000".to_owned()
    }
    fn sample(&mut self) -> Option<Facts> {
        let next = self.rest.next();
        self.told.fetch_add(1, Ordering::Relaxed);
        next
    }
}

/// A sampler that has asked for all facts and found their end.
fn sampler(facts: &[Facts]) -> Sampler {
    let (rest, told, all) = (Vec::from(facts).into_iter(), Arc::new(AtomicU32::new(0)), facts.len() as u32);
    let fake = Fake { rest, told: Arc::clone(&told) };
    let sampler = Sampler::every(Duration::from_millis(1), move || Some(Box::new(fake)));
    let until = Instant::now() + Duration::from_secs(20);
    while told.load(Ordering::Relaxed) <= all {
        assert!(Instant::now() < until, "the sampler asks");
        std::thread::sleep(Duration::from_millis(1));
    }
    sampler
}

/// Runs a stage's body; its events and metrics.
fn stage(body: impl FnOnce(&StageContext<'_>)) -> (Vec<Event>, BTreeMap<String, f64>) {
    let events = RefCell::new(Vec::new());
    let (params, inputs) = (serde_json::Value::Null, BTreeMap::new());
    let emit = |event| events.borrow_mut().push(event);
    let context = StageContext {
        name: "lora",
        params: &params,
        seed: 0,
        numerics: "cpu-f32",
        device_memory_limit_mib: None,
        inputs: &inputs,
        sources: &[],
        out: Path::new("."),
        checkpoints: Path::new("."),
        launch: Launch { root: Path::new("."), scratch: Path::new("."), log: Path::new("."), adopt: None },
        emit: &emit,
        stop: &|| false,
        programs_mib: std::cell::Cell::new(None),
        metrics: RefCell::default(),
        references: RefCell::default(),
    };
    body(&context);
    let metrics = context.metrics.into_inner();
    (events.into_inner(), metrics)
}

#[test]
fn peaks_and_means_are_of_all_samples() {
    let totals = sampler(&[facts(1000.0, 0.0, 100.0), facts(3000.0, 90.0, 700.0), facts(2000.0, 60.0, 400.0)]).finish();
    assert_eq!(totals.name, "Fake 9000");
    assert_eq!(totals.last, Some(facts(2000.0, 60.0, 400.0)));
    assert_eq!((totals.peak_used_mib, totals.peak_temperature), (Some(3000.0), Some(47.0)));
    assert_eq!((totals.mean_utilisation, totals.mean_power_watts), (Some(50.0), Some(400.0)));
    assert!(totals.energy_joules.is_some_and(|joules| joules > 0.0));
}

#[test]
fn energy_is_the_counters_difference_or_mean_power_times_time() {
    let joules = |counters: &[Option<f64>]| {
        let mut seen = Seen::default();
        counters.iter().for_each(|joules| seen.add(Facts { energy_joules: *joules, ..facts(0.0, 0.0, 300.0) }));
        seen.totals(2.0).energy_joules
    };
    assert_eq!(joules(&[Some(5000.0), Some(5400.0), Some(5900.0)]), Some(900.0));
    assert_eq!(joules(&[None, None]), Some(600.0));
    assert_eq!(joules(&[Some(5000.0), Some(10.0)]), Some(600.0), "a counter that began anew");
    assert_eq!(joules(&[]), None);
}

#[test]
fn what_a_device_keeps_to_itself_is_absent() {
    let some = Facts { used_mib: Some(10.0), ..Facts::default() };
    let totals = sampler(&[some, Facts::default()]).finish();
    assert_eq!((totals.peak_used_mib, totals.mean_utilisation, totals.energy_joules), (Some(10.0), None, None));
    assert_eq!(totals.last, Some(Facts::default()));
    assert_eq!(Sampler::start(|| None).finish(), Totals::default());
    let broken = Sampler::start(|| panic!("a broken library"));
    assert_eq!(broken.finish(), Totals::default());
}

#[test]
fn a_long_period_does_not_delay_the_end() {
    let started = Instant::now();
    let rest = vec![facts(1.0, 1.0, 1.0); 9].into_iter();
    let fake = Fake { rest, told: Arc::default() };
    let sampler = Sampler::every(Duration::from_secs(600), move || Some(Box::new(fake)));
    while sampler.totals().last.is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    sampler.finish();
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_stage_emits_at_most_once_a_second_and_measures_at_its_end() {
    let (events, metrics) = stage(|context| {
        let watch = Watch::new(context, Some(sampler(&[facts(1000.0, 50.0, 300.0), facts(2000.0, 100.0, 600.0)])));
        (0..1000).for_each(|_| watch.poll());
        watch.finish(None);
    });
    // The first poll's and the last at the end, unless the thousand took seconds.
    assert!((2..5).contains(&events.len()), "{}", events.len());
    let Event::Device(device) = &events[0] else { panic!("{:?}", events[0]) };
    assert_eq!((device.name.as_str(), device.used_mib, device.power_watts), ("Fake 9000", Some(2000.0), Some(600.0)));
    let value = |name: &str| metrics.get(name).copied();
    assert_eq!((value("gpu_peak_used_mib"), value("gpu_mean_utilisation")), (Some(2000.0), Some(75.0)));
    assert_eq!((value("gpu_mean_power_watts"), value("gpu_peak_temperature_celsius")), (Some(450.0), Some(46.0)));
    assert!(value("gpu_energy_joules").is_some_and(|joules| joules > 0.0));
    assert_eq!(value("gpu_peak_mib"), None, "the CPU counts no pool");
}

#[test]
fn a_stage_that_fails_tells_the_last_facts_and_a_stage_on_the_cpu_nothing() {
    let (events, metrics) = stage(|context| drop(Watch::new(context, Some(sampler(&[facts(5.0, 1.0, 1.0)])))));
    assert!(matches!(&events[..], [Event::Device(device)] if device.used_mib == Some(5.0)), "{events:?}");
    assert!(metrics.is_empty());
    let (events, metrics) = stage(|context| {
        let watch = watch(context);
        watch.poll();
        watch.finish(None);
    });
    assert!(events.is_empty() && metrics.is_empty());
}

#[test]
fn the_first_entry_of_the_list_is_the_device() {
    let id = |id: &str| Choice::Id(id.to_owned());
    for (list, expected) in [
        (None, Choice::Index(0)),
        (Some("3"), Choice::Index(3)),
        (Some(" 2 ,0"), Choice::Index(2)),
        (Some("GPU-8932f937-d72c,1"), id("GPU-8932f937-d72c")),
        (Some("MIG-1f2e"), id("MIG-1f2e")),
        (Some(""), Choice::Nothing),
        (Some("-1"), Choice::Nothing),
        (Some("none,0"), Choice::Nothing),
    ] {
        assert_eq!(choice(list), expected, "{list:?}");
    }
}
