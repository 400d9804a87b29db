//! Lines for people.
use super::lines::{Lines, count, duration};
use anneal_engine::event::{Device, Stamped, Step};
use anneal_engine::{Event, Failure};

fn at(stage: &str, event: Event) -> Stamped {
    Stamped { time: 0.0, stage: Some(stage.to_owned()), event }
}

fn step(step: u64, total: u64) -> Event {
    Event::Step(Step {
        step,
        total,
        loss: 0.5,
        learning_rate: 1e-4,
        grad_norm: 1.0,
        tokens: 100,
        labelled_tokens: 20,
        seconds: 2.0,
        tokens_per_second: 50.0,
        peak_mib: None,
    })
}

fn failed(failure: Failure) -> Event {
    Event::StageFailed { failure, seconds: 1.0, peak_mib: None, last_step: None }
}

#[test]
fn what_happens_is_told_in_lines() {
    let mut lines = Lines::new(6, true);
    let started = |reasons: &[&str]| Event::StageStarted {
        key: String::new(),
        pid: 1,
        reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
    };
    let events = [
        at("base", Event::StageCached { key: String::new(), output: String::new() }),
        at("lora", started(&["params.rank: 8 -> 16", "seed: 1 -> 2", "params.alpha: 1 -> 2"])),
        at("lora", Event::Checkpoint { step: 3, resumed: true }),
        at("lora", step(4, 312)),
        at("lora", step(5, 312)),
        at("lora", step(312, 312)),
        at("lora", Event::EvalLoss { step: 312, loss: 0.25, seconds: 0.05 }),
        at("lora", Event::Note { warning: true, message: "two\nlines\u{1b}[2J".to_owned() }),
        at("score", failed(Failure::user("no such sid").hint("use 0 to 9"))),
        at("after", Event::StageSkipped { because: "score".to_owned() }),
    ];
    let text: Vec<String> = events.iter().filter_map(|event| lines.line(event)).collect();
    insta::assert_snapshot!(text.join("\n"), @r"
    lora    begins: params.rank: 8 -> 16; seed: 1 -> 2; and 1 more
    lora    goes on after step 3
    lora    step 4/312, loss 0.5000, 50 tokens/s, 10 min 16 s left
    lora    step 312/312, loss 0.5000, 50 tokens/s, 0 ms left
    lora    step 312, eval loss 0.2500 (50 ms)
    lora    warning: two
    lora    lines�[2J
    score   failed, error: no such sid
    score   help: use 0 to 9
    after   skipped: score failed
    ");
}

fn device(used_mib: Option<f64>, utilisation_percent: Option<f64>, power_watts: Option<f64>) -> Event {
    let (name, total_mib, temperature_celsius) = ("Fake 9000".to_owned(), used_mib.map(|_| 81559.0), Some(50.0));
    Event::Device(Device { name, used_mib, total_mib, utilisation_percent, power_watts, temperature_celsius })
}

#[test]
fn a_device_is_told_beside_progress_as_far_as_it_tells() {
    let mut lines = Lines::new(4, true);
    let done = |metrics: &[(&str, f64)]| Event::StageFinished {
        key: String::new(),
        output: String::new(),
        seconds: 40.0,
        peak_mib: Some(1536.0),
        metrics: metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
    };
    let progress = |done| Event::Progress { done, total: 4, unit: "answers".to_owned() };
    let all = [("gpu_peak_mib", 9876.4), ("gpu_mean_utilisation", 95.2), ("gpu_mean_power_watts", 611.7)];
    let begins = |pid| Event::StageStarted { key: String::new(), pid, reasons: Vec::new() };
    let events = [
        at("lora", device(Some(31948.8), Some(98.0), Some(611.9))),
        at("lora", step(4, 4)),
        at("lora", done(&all)),
        at("base", step(4, 4)),
        at("lora", begins(1)),
        at("lora", step(4, 4)),
        at("mig", device(Some(1024.0), None, None)),
        at("mig", progress(1)),
        at("mig", device(None, None, None)),
        at("mig", progress(2)),
        at("mig", done(&all[..1])),
        at("cpu", done(&[("train_loss", 1.0)])),
    ];
    let text: Vec<String> = events.iter().filter_map(|event| lines.line(event)).collect();
    insta::assert_snapshot!(text.join("\n"), @r"
    lora  step 4/4, loss 0.5000, 50 tokens/s, 0 ms left, GPU 31.2/79.6 GiB, 98 %, 612 W
    lora  done in 40.0 s, peak 1536 MiB, GPU peak 9876 MiB, mean 95 %, 612 W
    base  step 4/4, loss 0.5000, 50 tokens/s, 0 ms left
    lora  begins: no result yet
    lora  step 4/4, loss 0.5000, 50 tokens/s, 0 ms left
    mig   1/4 answers, GPU 1.0/79.6 GiB
    mig   2/4 answers
    mig   done in 40.0 s, peak 1536 MiB, GPU peak 9876 MiB
    cpu   done in 40.0 s, peak 1536 MiB
    ");
    assert_eq!(lines.beside_device("mig", ""), "");
}

#[test]
fn a_thousand_steps_are_about_twenty_lines_and_none_beside_a_bar() {
    for (steps, expected) in [(true, 21), (false, 0)] {
        let mut lines = Lines::new(4, steps);
        let told = (1..=1000).filter(|i| lines.line(&at("lora", step(*i, 1000))).is_some()).count();
        assert_eq!(told, expected);
    }
}

#[test]
fn durations_and_counts_read_well() {
    let texts = [0.0, 0.0004, 0.9999, 12.34, 99.96, 3599.6, 7265.0].map(duration);
    assert_eq!(texts, ["0 ms", "0 ms", "1.0 s", "12.3 s", "1 min 40 s", "1 h 00 min", "2 h 01 min"]);
    assert_eq!((count(1, "stage").as_str(), count(0, "stage").as_str()), ("1 stage", "0 stages"));
}
