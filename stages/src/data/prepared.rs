//! Prepared samples of TAT-QA: rows that hold a whole prompt and the answer in TAT-QA's form, as TAT-LLM publishes them.
//! Recovers what scoring and reading need. Unaware of models and of terminals.

use super::instruct::Conversation;
use super::number::Number;
use super::prompt::ResponseForm;
use super::tatqa::{Answer, AnswerFrom, AnswerType, Question};

/// The headings of a prompt, in order.
const HEADINGS: [&str; 4] = ["### Table", "### Text", "### Question", "### Response"];

/// The question of a row whose answer has TAT-QA's form. Its type follows from the answer: a lone number counts as
/// computed. Where it is found is not known, and stands for both.
#[must_use]
pub fn question(row: &Conversation) -> Option<Question> {
    let (prompt, answer) = row.last();
    let (items, scale) = ResponseForm::TatQa.parse_answer(answer)?;
    let number = match items.as_slice() {
        [item] => Number::parse(item),
        _ => None,
    };
    let (answer_type, answer) = match number {
        Some(number) => (AnswerType::Arithmetic, Answer::Number(number)),
        None if items.len() == 1 => (AnswerType::Span, Answer::Spans(items)),
        None => (AnswerType::MultiSpan, Answer::Spans(items)),
    };
    let asked = sections(prompt).map_or_else(|| prompt.to_owned(), |sections| sections.question);
    Some(Question {
        uid: row.uid.clone(),
        order: 1,
        question: asked,
        answer,
        derivation: String::new(),
        answer_type,
        answer_from: AnswerFrom::TableText,
        scale,
    })
}

/// The parts of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sections {
    /// Rows of cells.
    pub table: Vec<Vec<String>>,
    /// Number and text.
    pub paragraphs: Vec<(String, String)>,
    /// What is asked.
    pub question: String,
}

/// The parts of a prompt that has TAT-LLM's headings.
#[must_use]
pub fn sections(prompt: &str) -> Option<Sections> {
    let [table, text, question, response] = HEADINGS;
    let (_, rest) = prompt.split_once(table)?;
    let (table, rest) = rest.split_once(text)?;
    let (text, rest) = rest.split_once(question)?;
    let question = rest.rsplit_once(response).map_or(rest, |(question, _)| question);
    let cells = |line: &str| {
        let line = line.trim_end().strip_prefix('|')?;
        let line = line.strip_suffix('|').unwrap_or(line);
        Some(line.split('|').map(|cell| cell.trim_end().to_owned()).collect())
    };
    let paragraph = |line: &str| match line.split_once(' ') {
        Some((number, text)) if number.bytes().all(|b| b.is_ascii_digit()) => (number.to_owned(), text.to_owned()),
        _ => (String::new(), line.to_owned()),
    };
    Some(Sections {
        table: table.lines().filter_map(cells).collect(),
        paragraphs: text.lines().filter(|line| !line.trim().is_empty()).map(paragraph).collect(),
        question: question.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prompt::PromptTemplate;
    use crate::data::tatqa;
    use std::path::Path;

    #[test]
    fn what_was_rendered_is_recovered() {
        let text = r#"[{"table": {"uid": "t", "table": [["", "2019"], ["Sales", "$  1.5"]]},
            "paragraphs": [{"uid": "p", "order": 1, "text": "First."}, {"uid": "q", "order": 2, "text": "2 of 3."}],
            "questions": [{"uid": "u", "order": 1, "question": "How much?", "answer": ["$1.5", "2"],
                "answer_type": "multi-span", "answer_from": "table", "scale": "million"},
                {"uid": "v", "order": 2, "question": "How many?", "answer": -94, "answer_type": "arithmetic",
                "answer_from": "table", "scale": ""}]}]"#;
        let context = tatqa::parse(text, Path::new("d.json")).unwrap().remove(0);
        for asked in &context.questions {
            let prompt = PromptTemplate::TatQa.render(&context, asked, 9);
            let found = sections(&prompt).unwrap();
            assert_eq!(found.table, context.table);
            assert_eq!(found.paragraphs, [("1".into(), "First.".into()), ("2".into(), "2 of 3.".into())]);
            let row = Conversation {
                uid: asked.uid.clone(),
                system: None,
                pairs: vec![(prompt, ResponseForm::TatQa.render(asked))],
            };
            let again = question(&row).unwrap();
            assert_eq!((again.question, again.scale), (asked.question.clone(), asked.scale.clone()));
            assert_eq!((again.answer.items(), again.answer_type), (asked.answer.items(), asked.answer_type));
        }
        let plain = Conversation { uid: "u".into(), system: None, pairs: vec![("q".into(), "r".into())] };
        assert_eq!(question(&plain), None);
        assert_eq!(sections("### Table only"), None);
    }
}
