//! What the report looks like.
use super::*;
use anneal_engine::event::Step;
use anneal_engine::key::Digest;
use anneal_engine::report::{COLUMNS, ResultRow, StageRow};
use anneal_engine::{Failure, FailureClass};
use std::collections::BTreeMap;

fn example() -> Report {
    let names = ["train_loss", "peak_mib", "em"];
    let result = |label: &str, values: &[(&'static str, f64)], status| ResultRow {
        label: label.to_owned(),
        stage: label.to_owned(),
        trained_by: None,
        values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        cell: None,
        setting: BTreeMap::new(),
        status,
    };
    let stage = |name: &str, status, done: bool| StageRow {
        name: name.to_owned(),
        kind: "train-lora",
        status,
        seconds: done.then_some(12.34),
        peak_mib: done.then_some(567.8),
        last_step: None,
        key: done.then(|| Digest::new([0xab; 32])),
        output: done.then(|| Digest::new([0xcd; 32])),
        metrics: BTreeMap::new(),
    };
    Report {
        experiment: "a <b> & \"c\"".to_owned(),
        axes: Vec::new(),
        columns: COLUMNS.iter().filter(|column| names.contains(&&*column.name)).cloned().collect(),
        results: vec![
            result("base", &[("em", 0.0)], StageState::Done),
            result("lora|<i>", &[("train_loss", 0.3134), ("peak_mib", 58204.0), ("em", 41.25)], StageState::Done),
            result("fft", &[], StageState::Skipped("big".to_owned())),
        ],
        stages: vec![
            stage("lora", StageState::Done, true),
            stage("big", StageState::Failed(Failure::new(FailureClass::Oom, "killed")), false),
        ],
    }
}

fn step(step: u64, loss: f64) -> Step {
    let (learning_rate, grad_norm, seconds, tokens_per_second) = (0.0, 0.0, 0.0, 0.0);
    let (total, tokens, labelled_tokens, peak_mib) = (0, 0, 0, None);
    Step { step, total, loss, learning_rate, grad_norm, tokens, labelled_tokens, seconds, tokens_per_second, peak_mib }
}

#[test]
fn a_terminal_sees_two_tables() {
    insta::assert_snapshot!(both(&example(), Look::Text), @r"
     result     train loss   peak MiB      EM   state
    ────────────────────────────────────────────────────────────────
     base                -          -    0.00   done
     lora|<i>       0.3134     58,204   41.25   done
     fft                 -          -       -   skipped, big failed

     stage   kind         state   seconds   peak MiB            key         output
    ───────────────────────────────────────────────────────────────────────────────
     lora    train-lora   done       12.3      567.8   abababababab   cdcdcdcdcdcd
     big     train-lora   oom           -          -              -              -

    big: oom: killed
    ");
}

#[test]
fn memory_of_host_and_gpu_stand_side_by_side() {
    let mut report = example();
    report.stages[0].metrics.insert(GPU_PEAK.to_owned(), 9876.54);
    insta::assert_snapshot!(stages(&report, Look::Text), @r"
     stage   kind         state   seconds   host peak MiB   GPU peak MiB            key         output
    ───────────────────────────────────────────────────────────────────────────────────────────────────
     lora    train-lora   done       12.3           567.8         9876.5   abababababab   cdcdcdcdcdcd
     big     train-lora   oom           -               -              -              -              -
    ");
    let named = |name: &str| COLUMNS.iter().find(|column| column.name == name).cloned();
    report.columns = ["peak_mib", GPU_PEAK].into_iter().filter_map(named).collect();
    report.results[1].values.insert(GPU_PEAK.to_owned(), 9876.54);
    insta::assert_snapshot!(results(&report, Look::Markdown), @r"
    | result      | host peak MiB | GPU peak MiB | state               |
    |-------------|---------------|--------------|---------------------|
    | base        |             - |            - | done                |
    | lora\|\<i\> |        58,204 |        9,877 | done                |
    | fft         |             - |            - | skipped, big failed |
    ");
    assert!(html::page(&report, &[]).contains("<th class=\"number\">GPU peak MiB</th>"));
}

#[test]
fn markdown_keeps_text_text() {
    insta::assert_snapshot!(results(&example(), Look::Markdown), @r"
    | result      | train loss | peak MiB |    EM | state               |
    |-------------|------------|----------|-------|---------------------|
    | base        |          - |        - |  0.00 | done                |
    | lora\|\<i\> |     0.3134 |   58,204 | 41.25 | done                |
    | fft         |          - |        - |     - | skipped, big failed |
    ");
}

#[test]
fn a_page_is_whole_and_escaped() {
    let curves = vec![
        ("lora".to_owned(), (1..=2000).map(|i| step(i, 1.0 / i as f64)).collect()),
        ("flat <x>".to_owned(), vec![step(1, 0.5)]),
        ("broken".to_owned(), vec![step(1, f64::NAN)]),
        ("none".to_owned(), Vec::new()),
    ];
    let page = html::page(&example(), &curves);
    assert!(page.contains("<title>a &lt;b&gt; &amp; &quot;c&quot;</title>"));
    assert!(page.contains("<td>lora|&lt;i&gt;</td>"));
    assert!(page.contains("flat &lt;x&gt;: loss by step, last 0.5000"));
    assert_eq!(page.matches("<figure>").count(), 2);
    for bad in ["NaN", "inf", "<script", "http", "<b>", "<x>"] {
        assert!(!page.contains(bad), "{bad}");
    }
    for tag in ["table", "tr", "td", "th", "svg", "figure", "style", "h1", "h2", "div"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    let curve = page.split("class=\"curve\" d=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(curve.matches('L').count() <= 641, "a curve is thinned");
    insta::assert_snapshot!(curve.split('L').take(3).collect::<Vec<_>>().join("L"), @"M56.0 28.0L57.1 191.3L58.1 209.4");
}

#[test]
fn a_sweep_has_a_column_for_each_axis_and_names_its_best() {
    let mut report = example();
    report.axes = vec!["batch_size".to_owned()];
    for (i, row) in report.results.iter_mut().enumerate() {
        row.cell = Some(format!("0000000{i}"));
        row.setting.insert("batch_size".to_owned(), serde_json::json!(1 << i));
    }
    insta::assert_snapshot!(results(&report, Look::Text), @r"
     result         cell   batch_size   train loss   peak MiB      EM   state
    ────────────────────────────────────────────────────────────────────────────────────────
     base       00000000            1            -          -    0.00   done
     lora|<i>   00000001            2       0.3134     58,204   41.25   done
     fft        00000002            4            -          -       -   skipped, big failed
    ");
    insta::assert_snapshot!(best(&report, "em", report.results.get(1)), @"best em: lora|<i> [00000001] batch_size=2 (train loss 0.3134, peak MiB 58,204, EM 41.25)");
    insta::assert_snapshot!(best(&report, "em", None), @"best em: no result that is done has one");
}

#[test]
fn an_ablation_says_what_was_changed_and_what_came_of_it() {
    let mut report = example();
    report.axes = vec!["rank".to_owned(), "checkpointing".to_owned()];
    let base = report.results.swap_remove(1);
    report.results = vec![base.clone(), base.clone(), base];
    report.results[1].setting.insert("rank".to_owned(), serde_json::json!(4));
    report.results[1].values.insert("peak_mib".to_owned(), 43653.0);
    report.results[2].setting.insert("checkpointing".to_owned(), serde_json::json!("full"));
    report.results[2].values.remove("peak_mib");
    report.results[2].status = StageState::Failed(Failure::new(FailureClass::Oom, "killed"));
    insta::assert_snapshot!(results(&report, Look::Text), @r"
     result     cell   changed              train loss         peak MiB      EM   state
    ────────────────────────────────────────────────────────────────────────────────────
     lora|<i>      -   -                        0.3134           58,204   41.25   done
     lora|<i>      -   rank=4                   0.3134   43,653 (-25 %)   41.25   done
     lora|<i>      -   checkpointing=full       0.3134                -   41.25   oom
    ");
    // Another setting beside the first, and each has its column again.
    report.results[1].setting.insert("checkpointing".to_owned(), serde_json::json!("full"));
    assert!(results(&report, Look::Text).contains("rank   checkpointing"));
    // And where nothing was left as it was.
    report.results[1].setting.remove("checkpointing");
    report.results.remove(0);
    assert!(results(&report, Look::Text).contains("rank   checkpointing"));
}
