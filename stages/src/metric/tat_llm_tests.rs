//! TAT-LLM's metric on single answers. The expected values were computed in Python, by a transcription of its published
//! evaluation (repository fengbinzhu/TAT-LLM, commit 506932e, `parse_pred_answer` and `TATEmAndF1` for data set `tatqa`).

use super::*;
use crate::data::tatqa;
use std::path::Path;

/// `gold` is "answer scale" with the answer in JSON.
fn check(answer_type: &str, gold: (&str, &str), response: &str, expected: (f64, f64, f64)) {
    let text = format!(
        "[{{\"table\":{{\"uid\":\"t\",\"table\":[]}},\"questions\":[{{\"uid\":\"u\",\"question\":\"q\",\
         \"answer\":{},\"answer_type\":\"{answer_type}\",\"answer_from\":\"table\",\"scale\":\"{}\"}}]}}]",
        gold.0, gold.1
    );
    let question = tatqa::parse(&text, Path::new("gold.json")).unwrap().remove(0).questions.remove(0);
    let score = score_response(&question, response);
    assert_eq!((score.em, score.f1, score.scale), expected, "{gold:?} {response:?}");
}

#[test]
fn agrees_with_the_published_evaluation() {
    for (answer_type, gold, response, expected) in [
        (
            "arithmetic",
            ("-94", "million"),
            "The answer is: -94 #### and its corresponding scale is: million",
            (1.0, 1.0, 1.0),
        ),
        (
            "arithmetic",
            ("-94", "million"),
            "The answer is: 94 #### and its corresponding scale is: million",
            (1.0, 1.0, 1.0),
        ),
        (
            "arithmetic",
            ("-94", "million"),
            "The answer is: (94) #### and its corresponding scale is: none",
            (0.0, 0.0, 0.0),
        ),
        ("arithmetic", ("-94", "million"), "It fell by 94 million, from 774 to 680.", (0.0, 0.0, 0.0)),
        ("arithmetic", ("-94", "million"), "The answer is: 680 - 774 = -94 million", (1.0, 1.0, 1.0)),
        (
            "arithmetic",
            ("12.14", "percent"),
            "The answer is: 0.1214 #### and its corresponding scale is: percent",
            (1.0, 1.0, 1.0),
        ),
        (
            "arithmetic",
            ("12.14", "percent"),
            "The answer is: 12.2 #### and its corresponding scale is: percent",
            (1.0, 1.0, 1.0),
        ),
        (
            "arithmetic",
            ("12.14", "percent"),
            "The answer is: 12.3 #### and its corresponding scale is: percent",
            (0.0, 0.0, 1.0),
        ),
        (
            "arithmetic",
            ("1234.5", ""),
            "The answer is: 1234 #### and its corresponding scale is: none",
            (1.0, 1.0, 1.0),
        ),
        (
            "arithmetic",
            ("1234.5", ""),
            "The answer is: 1,235.4 #### and its corresponding scale is: none",
            (1.0, 1.0, 1.0),
        ),
        ("arithmetic", ("0", ""), "The answer is: 0 #### and its corresponding scale is: none", (1.0, 1.0, 1.0)),
        ("arithmetic", ("0.5", ""), "The answer is: 0.504 #### and its corresponding scale is: none", (1.0, 1.0, 1.0)),
        ("arithmetic", ("0.5", ""), "The answer is: 0.508 #### and its corresponding scale is: none", (0.0, 0.0, 1.0)),
        ("arithmetic", ("22.12", ""), "", (0.0, 0.0, 1.0)),
        ("arithmetic", ("22.12", ""), "none of it", (0.0, 0.0, 1.0)),
        (
            "arithmetic",
            ("22.12", ""),
            "The answer is: 1 and 2 #### and its corresponding scale is: none",
            (0.0, 0.0, 1.0),
        ),
        ("arithmetic", ("7", ""), "about 123456789012345678901 or so", (0.0, 0.0, 1.0)),
        (
            "arithmetic",
            ("13.29", "percent"),
            "| step | output |\n| 1 | arithmetic |\n| 2 | 784#692 |\n| 3 | (784-692)/692*100 |\n| 4 | 13.29 |\n| 5 | percent |\nThe answer is: 99 #### and its corresponding scale is: percent",
            (1.0, 1.0, 1.0),
        ),
        (
            "arithmetic",
            ("13.29", "percent"),
            "| 1 | arithmetic |\n| 3 | (784-692)/0 |\nThe answer is: 13.29 #### and its corresponding scale is: percent",
            (1.0, 1.0, 1.0),
        ),
        (
            "arithmetic",
            ("13.29", "percent"),
            "| 1 |\n| 3 | 1+1 |\nThe answer is: 13.29 #### and its corresponding scale is: percent",
            (1.0, 1.0, 1.0),
        ),
        ("count", ("\"4\"", ""), "The answer is: 4 #### and its corresponding scale is: none", (1.0, 1.0, 1.0)),
        ("count", ("\"4\"", ""), "The answer is: four #### and its corresponding scale is: none", (0.0, 0.0, 1.0)),
        ("count", ("\"4\"", ""), "| 1 | count |\n| 2 | a#b#c#d |\n", (1.0, 1.0, 1.0)),
        ("count", ("\"4\"", ""), "The answer is: 400 #### and its corresponding scale is: none", (1.0, 1.0, 1.0)),
        (
            "span",
            ("[\"$1,496.5\"]", "million"),
            "The answer is: 1,496.5 #### and its corresponding scale is: million",
            (1.0, 1.0, 1.0),
        ),
        ("span", ("[\"$1,496.5\"]", "million"), "The answer is: 1,496.5 million", (0.0, 0.0, 1.0)),
        ("span", ("[\"$1,496.5\"]", "million"), "1,496.5 million", (1.0, 1.0, 0.0)),
        (
            "span",
            ("[\"(7.9%)\"]", "percent"),
            "The answer is: -7.9% #### and its corresponding scale is: percent",
            (1.0, 1.0, 1.0),
        ),
        (
            "span",
            ("[\"The Fixed-Price type\"]", ""),
            "The answer is: fixed price type #### and its corresponding scale is: none",
            (0.0, 0.4, 1.0),
        ),
        ("span", ("[\"weak exports\"]", ""), "The answer is: Weak Exports</s>", (1.0, 1.0, 1.0)),
        (
            "span",
            ("[\"weak exports\"]", ""),
            "| 1 | single span |\n| 2 | weak exports |\nThe answer is: strong #### and its corresponding scale is: none",
            (1.0, 1.0, 1.0),
        ),
        ("span", ("[\"weak exports\"]", ""), "weak exports", (1.0, 1.0, 1.0)),
        (
            "multi-span",
            ("[\"2019\", \"2018\"]", ""),
            "The answer is: 2018#2019 #### and its corresponding scale is: none",
            (1.0, 1.0, 1.0),
        ),
        (
            "multi-span",
            ("[\"Sales\", \"costs\"]", ""),
            "The answer is: costs # sales #### and its corresponding scale is: none",
            (0.0, 1.0, 1.0),
        ),
        (
            "multi-span",
            ("[\"Sales\", \"costs\"]", ""),
            "The answer is: costs #### and its corresponding scale is: none",
            (0.0, 0.67, 1.0),
        ),
        ("multi-span", ("[\"Sales\", \"costs\"]", ""), "| 1 | multiple spans |\n| 2 | sales#costs |", (1.0, 1.0, 1.0)),
        (
            "multi-span",
            ("[\"31,421\", \"28,541\"]", "thousand"),
            "The answer is: 31421#28541 #### and its corresponding scale is: thousand",
            (1.0, 1.0, 1.0),
        ),
    ] {
        check(answer_type, gold, response, expected);
    }
}
