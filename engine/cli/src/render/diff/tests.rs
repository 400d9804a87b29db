//! What a difference looks like.
use super::*;
use anneal_engine::compare::{Presence, Rewired};

fn measured(stage: &str, metric: &str, old: f64, new: f64) -> Measured {
    let (difference, percent) = (Some(new - old), (old != 0.0).then(|| 100.0 * (new - old) / old));
    Measured { stage: stage.to_owned(), metric: metric.to_owned(), old: Some(old), new: Some(new), difference, percent }
}

fn equal() -> Comparison {
    Comparison {
        base: "20260101-x-aaaa".to_owned(),
        run: "20260102-x-bbbb".to_owned(),
        remarks: Vec::new(),
        parameters: Vec::new(),
        stages: Vec::new(),
        inputs: Vec::new(),
        results: Vec::new(),
        states: Vec::new(),
        keys: Vec::new(),
        outputs: Vec::new(),
    }
}

fn example() -> Comparison {
    let parameter = |stage: Option<&str>, name: &str, old: Option<&str>, new: Option<&str>| Parameter {
        stage: stage.map(str::to_owned),
        name: name.to_owned(),
        old: old.map(str::to_owned),
        new: new.map(str::to_owned),
    };
    let digest = |byte: u8| Digest::new([byte; 32]);
    let first = |path: &str, old: &str, new: &str| {
        Some(Change { path: path.to_owned(), old: Some(old.to_owned()), new: Some(new.to_owned()) })
    };
    let key = |stage: &str, first, more, same_output| KeyChange {
        stage: stage.to_owned(),
        old: digest(1),
        new: digest(2),
        first,
        more,
        same_output,
    };
    let ended = |stage: &str| StateChange {
        stage: stage.to_owned(),
        old: "done".to_owned(),
        new: "oom".to_owned(),
        why: Some("killed\nat <step> 3".to_owned()),
    };
    Comparison {
        remarks: vec!["these are different experiments: `x` and `y|z`".to_owned()],
        parameters: vec![
            parameter(None, "seed", Some("1"), Some("2")),
            parameter(Some("lora"), "batch_size", Some("4"), Some("each of 4, 8")),
            parameter(Some("lora"), "note", None, Some(&format!("\"a|b {}\"", "x".repeat(80)))),
        ],
        stages: vec![Presence { stage: "fft".to_owned(), kind: "train-fft".to_owned(), added: true }],
        inputs: vec![Rewired {
            stage: "score".to_owned(),
            port: "answers".to_owned(),
            old: Some("a".to_owned()),
            new: Some("b".to_owned()),
        }],
        results: vec![
            measured("lora", "train_loss", 2.5, 2.25),
            measured("lora", "tokens_per_second", 10_000.0, 12_500.0),
            measured("lora", "seconds", 20.0, 10.0),
            measured("quick", "seconds", 0.1, 0.2),
            measured("quick", "peak_mib", 10.0, 20.0),
            measured("score[a|b]", "em", 0.0, 12.5),
            Measured { old: None, difference: None, percent: None, ..measured("score[a|b]", "f1", 0.0, 12.5) },
        ],
        states: (0..10).map(|i| ended(&format!("big{i}"))).collect(),
        keys: vec![
            key("lora", first("params.batch_size", "4", "8"), 2, false),
            key(
                "merged",
                first("inputs.adapter", &format!("\"{}\"", digest(1)), &format!("\"{}\"", digest(2))),
                0,
                true,
            ),
            key("old", None, 0, false),
        ],
        outputs: vec!["tokens".to_owned()],
        ..equal()
    }
}

#[test]
fn a_terminal_sees_only_what_differs() {
    insta::assert_snapshot!(text(&equal()), @r"
    base  20260101-x-aaaa
    run   20260102-x-bbbb

    no differences
    ");
    insta::assert_snapshot!(text(&example()), @r#"
    base  20260101-x-aaaa
    run   20260102-x-bbbb
    note: these are different experiments: `x` and `y|z`

    parameters
      experiment.seed       1 -> 2
      lora.batch_size       4 -> each of 4, 8
      lora.note             (absent) -> "a|b xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...
      score.inputs.answers  a -> b

    results
       stage        metric                base   this run             change
      ───────────────────────────────────────────────────────────────────────
       lora         train_loss          2.5000     2.2500   -0.2500 (-10.0%)
                    tokens_per_second   10,000     12,500    +2,500 (+25.0%)
                    seconds               20.0       10.0     -10.0 (-50.0%)
       score[a|b]   em                    0.00      12.50             +12.50
                    f1                       -      12.50                  -

    states
      big0, big1, big2, big3, big4, big5, big6, big7 and 2 more  done -> oom: killed�at <step> 3

    stages
      fft  added (train-fft)

    other keys
      lora    params.batch_size: 4 -> 8 and 2 more
      merged  inputs.adapter: 010101010101 -> 020202020202; the same output
      old     the reason is no longer in the store

    other bytes for the same key
      tokens
    "#);
}

#[test]
fn a_pull_request_sees_the_metrics_first() {
    insta::assert_snapshot!(markdown(&equal()), @r"
    **20260102-x-bbbb** against base 20260101-x-aaaa

    No differences.
    ");
    insta::assert_snapshot!(markdown(&example()), @r#"
    **20260102-x-bbbb** against base 20260101-x-aaaa

    > these are different experiments: \`x\` and \`y\|z\`

    | stage         | metric            |   base | this run |           change |
    |---------------|-------------------|--------|----------|------------------|
    | lora          | train_loss        | 2.5000 |   2.2500 | -0.2500 (-10.0%) |
    | lora          | tokens_per_second | 10,000 |   12,500 |  +2,500 (+25.0%) |
    | lora          | seconds           |   20.0 |     10.0 |   -10.0 (-50.0%) |
    | score\[a\|b\] | em                |   0.00 |    12.50 |           +12.50 |
    | score\[a\|b\] | f1                |      - |    12.50 |                - |

    **States**

    - big0, big1, big2, big3, big4, big5, big6, big7 and 2 more: done -> oom: killed at \<step\> 3

    **Parameters**

    - experiment.seed: 1 -> 2
    - lora.batch_size: 4 -> each of 4, 8
    - lora.note: (absent) -> "a\|b xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...
    - score.inputs.answers: a -> b

    <details><summary>3 stages with another key</summary>

    - fft: added (train-fft)
    - lora: params.batch_size: 4 -> 8 and 2 more
    - merged: inputs.adapter: 010101010101 -> 020202020202; the same output
    - old: the reason is no longer in the store
    - other bytes for the same key: tokens

    </details>
    "#);
}

#[test]
fn long_lists_are_cut_and_that_is_said() {
    let results = (0..20_000).map(|i| measured(&format!("lora[rank={i}]"), "train_loss", 2.0, 1.0)).collect();
    let states = (0..20_000).map(|i| StateChange {
        stage: format!("s{i}"),
        old: "done".to_owned(),
        new: "bug".to_owned(),
        why: Some(format!("message {i}")),
    });
    let all = Comparison { results, states: states.collect(), ..equal() };
    for text in [text(&all), markdown(&all)] {
        assert_eq!(text.matches("and 19900 more; --json has all").count(), 2, "{text}");
        assert!(text.len() < 60_000, "{}", text.len());
    }
}
