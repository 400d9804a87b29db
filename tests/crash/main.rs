//! Proves crash safety: random schedules of crashes and disk errors at the failpoints of the real program, with a
//! checker that shares no code with the store.
//!
//! ```text
//! crash-checker [--schedules N] [--seconds S] [--seed N] [--replay SEED:INDEX] [--jobs N] [--dir DIR] [--program FILE]
//! ```
//!
//! Ends with code 1 when anything was violated, or when some failpoint was never hit in all the schedules asked for: a
//! point that nobody passes is dead. Takes from the engine only the list of points. See CONTRIBUTING.md.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own, not a part of anneal")]
mod arguments;
mod inspect;
mod judge;
mod plan;
mod process;
mod random;
mod world;

use arguments::Arguments;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use world::World;

fn main() -> ExitCode {
    match Arguments::read().and_then(|arguments| check(&arguments).map_err(|e| e.to_string())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("crash-checker: {why}");
            ExitCode::from(2)
        }
    }
}

/// What all schedules came to.
#[derive(Default)]
struct Total {
    schedules: u64,
    crashed: u64,
    resumed: u64,
    violations: u64,
    points: BTreeMap<String, (u64, u64)>,
}

fn check(arguments: &Arguments) -> std::io::Result<bool> {
    let clock = Instant::now();
    let dir = arguments.dir.join(format!("crash-checker-{}", std::process::id()));
    println!("seed {}, {} schedules, in {}", arguments.seed, arguments.schedules, dir.display());
    let world = World::prepare(&dir.join("world"), &arguments.program)?;
    println!("undisturbed runs done in {:.1} s", clock.elapsed().as_secs_f64());
    let (next, total) = (AtomicU64::new(arguments.first), Mutex::new(Total::default()));
    let end = arguments.first + arguments.schedules;
    let outcome = std::thread::scope(|scope| {
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= end || clock.elapsed() > Duration::from_secs(arguments.seconds) {
                    return Ok(());
                }
                one(arguments, &world, &dir, index, &total)?;
            }
        };
        let threads: Vec<_> = (0..arguments.jobs).map(|_| scope.spawn(work)).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap_or(Err(std::io::Error::other("a bug"))));
        ends.collect::<std::io::Result<Vec<()>>>()
    });
    let total = total.into_inner().unwrap_or_default();
    let sound = summary(arguments, &total, clock.elapsed());
    outcome?;
    if total.violations == 0 {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(sound)
}

/// Plays one schedule and adds it up.
fn one(arguments: &Arguments, world: &World, dir: &Path, index: u64, total: &Mutex<Total>) -> std::io::Result<()> {
    let schedule = plan::schedule(arguments.seed, index);
    let dir = dir.join(format!("schedule-{index}"));
    let verdict = judge::play(world.of(schedule.work), &schedule, &dir)?;
    let Ok(mut total) = total.lock() else { return Err(std::io::Error::other("a bug")) };
    total.schedules += 1;
    total.crashed += u64::from(verdict.points.values().any(|(_, hit)| *hit > 0));
    total.resumed += u64::from(verdict.resumed);
    for (name, (passed, hit)) in verdict.points {
        let sum = total.points.entry(name).or_default();
        *sum = (sum.0 + passed, sum.1 + hit);
    }
    if verdict.wrong.is_empty() {
        if arguments.replay {
            println!("{schedule:#?}\nno violation");
        }
        return std::fs::remove_dir_all(&dir);
    }
    total.violations += verdict.wrong.len() as u64;
    println!("\nVIOLATION in schedule {index}: {schedule:?}");
    for wrong in verdict.wrong {
        println!("  {wrong}");
    }
    println!("  what is left: {}", dir.display());
    println!("  again: crash-checker --replay {}:{index}", arguments.seed);
    Ok(())
}

/// Prints what it came to; says whether all is well.
fn summary(arguments: &Arguments, total: &Total, time: Duration) -> bool {
    let all = plan::points();
    let hit = |name: &str| total.points.get(name).is_some_and(|(_, hit)| *hit > 0);
    let never: Vec<&str> = all.iter().map(|(_, name)| *name).filter(|name| !hit(name)).collect();
    let hits: u64 = total.points.values().map(|(_, hit)| hit).sum();
    println!(
        "{} schedules ({} of them disturbed, {} resumed training) with seed {} in {:.1} s: {} violations, {} of {} points hit, {hits} hits",
        total.schedules,
        total.crashed,
        total.resumed,
        arguments.seed,
        time.as_secs_f64(),
        total.violations,
        all.len() - never.len(),
        all.len(),
    );
    if arguments.replay {
        return total.violations == 0;
    }
    for name in &never {
        let passed = total.points.get(*name).map_or(0, |(passed, _)| *passed);
        println!("never hit: {name} (passed {passed} times)");
    }
    let unknown: Vec<&String> =
        total.points.keys().filter(|name| !all.iter().any(|(_, known)| known == name)).collect();
    if !unknown.is_empty() {
        println!("passed but not in the list of points: {unknown:?}");
    }
    // A run that time cut short proves nothing about points.
    let whole = total.schedules == arguments.schedules;
    total.violations == 0 && (never.is_empty() || !whole) && unknown.is_empty()
}
