//! Pages at two widths.
use super::*;
use anneal_stages::data::tatqa::{AnswerFrom, AnswerType};

fn sample() -> Page {
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
    Page {
        sid: 100,
        uid: "3ffd9053-a45d-491c-957a-1b2fa0af0570".to_owned(),
        answer_type: Some(AnswerType::Arithmetic),
        answer_from: Some(AnswerFrom::TableText),
        table: vec![
            row(&["", "2019", "2018"]),
            row(&["Appliances", "$1,680", "$1,774"]),
            row(&["Sensors and other parts of industrial machines", "914", "(18)"]),
            row(&["Total", "—", ""]),
        ],
        paragraphs: vec![
            ("1".to_owned(), "The following table provides a summary of net sales by industry.".to_owned()),
            ("2".to_owned(), "Sales fell. ".repeat(12)),
        ],
        question: "What was the change in the amount for Appliances in 2019 from 2018?".to_owned(),
        sample_answer: "The answer is: -94 #### and its corresponding scale is: million".to_owned(),
        derivation: "680 - 774".to_owned(),
    }
}

fn answer(text: &str, ended: bool) -> Answer {
    Answer {
        sid: 100,
        uid: String::new(),
        prompt: String::new(),
        answer: text.to_owned(),
        gold: serde_json::Value::Null,
        ended,
        new_tokens: 48,
        gold_nll: None,
        gold_tokens: None,
    }
}

fn told(width: usize, color: bool) -> String {
    let long = "The change in the amount for Appliances was a decrease of $94 million,\nwhich is 5.3 %";
    let (base, lora) =
        (answer(long, false), answer("The answer is: -94 #### and its corresponding scale is: million", true));
    let mark = |em: f64, formed: bool| Mark { em, f1: em, scale: Some(em), formed: Some(formed), prediction: None };
    let said = [
        Said { model: "base", answer: Some((&base, mark(0.0, false))), lacking: None },
        Said { model: "LoRA", answer: Some((&lora, mark(1.0, true))), lacking: None },
        Said { model: "full fine-tuning", answer: None, lacking: Some("stage `fft` has no result yet") },
    ];
    page(&sample(), "eval", "Answers, EM and F1 by the official TAT-QA metric", &said, &Look { width, color })
}

#[test]
fn answers_stand_side_by_side_where_there_is_room() {
    let text = told(140, false);
    assert!(text.lines().all(|line| line.chars().count() <= 140), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn answers_stand_below_one_another_where_there_is_not() {
    let text = told(80, false);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn colour_adds_nothing_but_colour_and_hostile_text_moves_no_cursor() {
    let colored = told(140, true);
    let plain: String = colored
        .split('\u{1b}')
        .map(|part| part.split_once('m').filter(|_| part.starts_with('[')).map_or(part, |(_, rest)| rest))
        .collect();
    let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    assert_eq!(trimmed(&plain), trimmed(&told(140, false)));
    let hostile = answer("\u{1b}[2J\u{7}", true);
    let mark = Mark { em: 0.0, f1: 0.0, scale: None, formed: None, prediction: None };
    let said = [Said { model: "m\u{1b}", answer: Some((&hostile, mark)), lacking: None }];
    let text = page(&sample(), "eval", "Answers", &said, &Look { width: 60, color: false });
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
}
