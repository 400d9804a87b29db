//! Questions and answers as people look at them: a sample by its number or uid, with its table, its text and its sample
//! answer; and what one model answers rightly and another does not. Unaware of stores, terminals and models.
mod difference;

use crate::data::DataError;
use crate::data::dataset::Rows;
use crate::data::instruct::Conversation;
use crate::data::prepared;
use crate::data::prompt::ResponseForm;
use crate::data::tatqa::{AnswerFrom, AnswerType, Context, Question};
use crate::data::token_set::Split;
use crate::metric::Gold;
use anneal_engine::Failure;
pub use difference::{Difference, Kind, Pair, essence};
use serde::Serialize;
use std::path::Path;

/// The samples of one split, in the order of its file.
#[derive(Debug)]
pub struct Samples {
    rows: Rows,
    gold: Vec<(String, Gold)>,
    /// By sample of TAT-QA: its context, and its place there.
    places: Vec<(usize, usize)>,
}

/// What a person reads of a sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page {
    /// Its place in the file, from 0.
    pub sid: u64,
    /// Its uid.
    pub uid: String,
    /// How the answer is made; only TAT-QA's own files know.
    pub answer_type: Option<AnswerType>,
    /// Where it is found; only TAT-QA's own files know.
    pub answer_from: Option<AnswerFrom>,
    /// Rows of cells; empty if the sample has no table.
    pub table: Vec<Vec<String>>,
    /// What each paragraph is called, and its text.
    pub paragraphs: Vec<(String, String)>,
    /// What is asked.
    pub question: String,
    /// The sample answer in the form that models are asked for.
    pub sample_answer: String,
    /// How a computed answer was computed, or "".
    pub derivation: String,
}

/// How many uids a message names.
const NAMED: usize = 5;

impl Samples {
    /// Reads a split of a dataset artifact; `None` if it has no such split.
    ///
    /// # Errors
    /// Those of the format's reader.
    pub fn read(dir: &Path, split: Split) -> Result<Option<Self>, DataError> {
        Ok(Rows::read(dir, split)?.map(Self::new))
    }

    /// The samples of these rows.
    #[must_use]
    pub fn new(rows: Rows) -> Self {
        let gold = Gold::of(&rows);
        let places = match &rows {
            Rows::TatQa(contexts) => {
                let places = |(at, context): (usize, &Context)| (0..context.questions.len()).map(move |i| (at, i));
                contexts.iter().enumerate().flat_map(places).collect()
            }
            Rows::Instruct(_) => Vec::new(),
        };
        Self { rows, gold, places }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.gold.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gold.is_empty()
    }

    /// Whether answers are scored as those of TAT-QA; else as free text.
    #[must_use]
    pub fn is_tat_qa(&self) -> bool {
        self.gold.iter().any(|(_, gold)| matches!(gold, Gold::Question(_)))
    }

    /// Uid and reference of a sample.
    #[must_use]
    pub fn gold(&self, sid: u64) -> Option<(&str, &Gold)> {
        let (uid, gold) = self.gold.get(usize::try_from(sid).ok()?)?;
        Some((uid, gold))
    }

    /// The sample of a uid, or of the beginning of one that no other has.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn sid_of(&self, uid: &str) -> Result<u64, Failure> {
        let named = || self.gold.iter().enumerate().map(|(at, (known, _))| (at as u64, known.as_str()));
        if let Some((sid, _)) = named().find(|(_, known)| *known == uid) {
            return Ok(sid);
        }
        let begins: Vec<(u64, &str)> = named().filter(|(_, known)| known.starts_with(uid) && !uid.is_empty()).collect();
        match begins.as_slice() {
            [(sid, _)] => Ok(*sid),
            [] => Err(Failure::user(format!("no sample has the uid {uid}"))
                .hint("a sid, its place in the file from 0, names a sample as well")),
            many => {
                let first: Vec<&str> = many.iter().take(NAMED).map(|(_, known)| *known).collect();
                let more = if many.len() > NAMED { ", ..." } else { "" };
                Err(Failure::user(format!("{} uids begin with {uid}", many.len()))
                    .hint(format!("write more of it: {}{more}", first.join(", "))))
            }
        }
    }

    /// Refuses a sample that is not there.
    ///
    /// # Errors
    /// The number, and which there are.
    pub fn require(&self, sid: u64, split: Split) -> Result<(), Failure> {
        if self.gold(sid).is_some() {
            return Ok(());
        }
        let (split, last) = (split.name(), self.len().saturating_sub(1));
        Err(Failure::user(format!("there is no sample {sid} in split `{split}`")).hint(format!(
            "its samples are 0 to {last}: a sid is the place of a question in the file, counted from 0; --uid finds one by its uid"
        )))
    }

    /// A sample as it is read; `form` is the one that models are asked for.
    #[must_use]
    pub fn page(&self, sid: u64, form: ResponseForm) -> Option<Page> {
        let at = usize::try_from(sid).ok()?;
        match &self.rows {
            Rows::TatQa(contexts) => {
                let (context, question) = *self.places.get(at)?;
                let context = contexts.get(context)?;
                Some(of_tat_qa(sid, context, context.questions.get(question)?, form))
            }
            Rows::Instruct(rows) => rows.get(at).map(|row| of_row(sid, row)),
        }
    }
}

fn of_tat_qa(sid: u64, context: &Context, question: &Question, form: ResponseForm) -> Page {
    Page {
        sid,
        uid: question.uid.clone(),
        answer_type: Some(question.answer_type),
        answer_from: Some(question.answer_from),
        table: context.table.clone(),
        paragraphs: context.paragraphs.iter().map(|part| (part.order.to_string(), part.text.clone())).collect(),
        question: question.question.clone(),
        sample_answer: form.render(question),
        derivation: question.derivation.clone(),
    }
}

/// Of a prepared sample the parts of its prompt, else the turns before the last question.
fn of_row(sid: u64, row: &Conversation) -> Page {
    let (asked, answer) = row.last();
    let mut page = Page {
        sid,
        uid: row.uid.clone(),
        answer_type: None,
        answer_from: None,
        table: Vec::new(),
        paragraphs: Vec::new(),
        question: asked.to_owned(),
        sample_answer: answer.to_owned(),
        derivation: String::new(),
    };
    if let Some(parts) = prepared::sections(asked) {
        page.table = parts.table;
        page.paragraphs = parts.paragraphs;
        page.question = parts.question;
    }
    let earlier = row.pairs.len().saturating_sub(1);
    let turns =
        row.pairs.iter().take(earlier).flat_map(|(user, assistant)| {
            [("user".to_owned(), user.clone()), ("assistant".to_owned(), assistant.clone())]
        });
    page.paragraphs.splice(0..0, turns);
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{instruct, tatqa};

    fn tat_qa() -> Samples {
        let question = |uid: &str, answer: &str| {
            format!(
                "{{\"uid\": \"{uid}\", \"question\": \"What of {uid}?\", \"answer\": {answer}, \"derivation\": \"7-9\", \
                 \"answer_type\": \"arithmetic\", \"answer_from\": \"table\", \"scale\": \"percent\"}}"
            )
        };
        let context = |table: &str, questions: &[String]| {
            format!(
                "{{\"table\": {{\"uid\": \"{table}\", \"table\": [[\"\", \"2019\"], [\"Sales\", \"7\"]]}}, \"paragraphs\": \
                 [{{\"uid\": \"p\", \"order\": 1, \"text\": \"First.\"}}], \"questions\": [{}]}}",
                questions.join(",")
            )
        };
        let contexts =
            [context("t", &[question("ab-1", "-2"), question("ab-2", "3")]), context("u", &[question("c", "4")])];
        Samples::new(Rows::TatQa(tatqa::parse(&format!("[{}]", contexts.join(",")), Path::new("d.json")).unwrap()))
    }

    #[test]
    fn samples_are_found_by_number_uid_and_the_beginning_of_one() {
        let samples = tat_qa();
        assert_eq!((samples.len(), samples.is_tat_qa(), samples.is_empty()), (3, true, false));
        let page = samples.page(2, ResponseForm::TatQa).unwrap();
        assert_eq!((page.uid.as_str(), page.question.as_str()), ("c", "What of c?"));
        assert_eq!(page.sample_answer, "The answer is: 4 #### and its corresponding scale is: percent");
        assert_eq!((page.table.len(), page.paragraphs), (2, vec![("1".to_owned(), "First.".to_owned())]));
        let sid = |uid: &str| samples.sid_of(uid).map_err(|failure| failure.to_string());
        assert_eq!((sid("ab-2"), sid("c")), (Ok(1), Ok(2)));
        assert_eq!(sid("ab"), Err("2 uids begin with ab".to_owned()));
        assert_eq!(sid("x"), Err("no sample has the uid x".to_owned()));
        assert_eq!(sid(""), Err("no sample has the uid ".to_owned()));
        let failure = samples.require(3, Split::Eval).unwrap_err();
        assert!(failure.message.contains("no sample 3 in split `eval`") && failure.hint.unwrap().contains("0 to 2"));
        assert!(samples.require(2, Split::Eval).is_ok() && samples.page(u64::MAX, ResponseForm::TatQa).is_none());
    }

    #[test]
    fn two_models_that_were_asked_for_other_forms_are_compared_each_in_its_own() {
        use crate::infer::Answer;
        let samples = tat_qa();
        let says = |form: ResponseForm, numbers: [&str; 3]| -> Vec<Answer> {
            let answer = |(sid, number): (usize, &str)| Answer {
                sid: sid as u64,
                uid: String::new(),
                prompt: String::new(),
                answer: form.render_answer(&[number.to_owned()], "percent"),
                gold: serde_json::Value::Null,
                ended: true,
                new_tokens: 1,
                gold_nll: None,
                gold_tokens: None,
            };
            numbers.into_iter().enumerate().map(answer).collect()
        };
        let plain = says(ResponseForm::Plain, ["-2", "3", "9"]);
        let sentence = says(ResponseForm::TatQa, ["-2", "8", "4"]);
        let compared = |forms, first: &[Answer], second: &[Answer]| {
            Difference::new(&samples, crate::metric::Metric::Official, forms, ("a", first), ("b", second)).unwrap()
        };
        for found in [
            compared([ResponseForm::Plain, ResponseForm::TatQa], &plain, &sentence),
            compared([ResponseForm::TatQa, ResponseForm::Plain], &sentence, &plain),
        ] {
            let counts = (found.both_right, found.comparison.gained, found.comparison.lost, found.neither);
            assert_eq!(counts, (1, 1, 1, 0));
        }
    }

    #[test]
    fn a_prepared_sample_is_read_like_the_one_it_was_made_of() {
        let samples = tat_qa();
        let Rows::TatQa(contexts) = &samples.rows else { panic!("TAT-QA") };
        let rows: Vec<String> = contexts
            .iter()
            .flat_map(|context| context.questions.iter().map(move |question| (context, question)))
            .map(|(context, question)| {
                let prompt = crate::data::prompt::PromptTemplate::TatQa.render(context, question, 9);
                let resp = ResponseForm::TatQa.render(question);
                serde_json::json!({"id": question.uid, "user_prompt": prompt, "resp": resp}).to_string()
            })
            .collect();
        let list = format!("[{}]", rows.join(","));
        let prepared = Samples::new(Rows::Instruct(instruct::parse(&list, Path::new("d.json")).unwrap()));
        assert!(prepared.is_tat_qa());
        for sid in 0..3 {
            let page = |samples: &Samples| samples.page(sid, ResponseForm::TatQa).unwrap();
            let expected = Page { answer_type: None, answer_from: None, derivation: String::new(), ..page(&samples) };
            assert_eq!(page(&prepared), expected);
        }
        let turns = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
        let rows = instruct::parse(&turns.replace('\n', " "), Path::new("d.jsonl")).unwrap();
        let samples = Samples::new(Rows::Instruct(rows));
        let page = samples.page(0, ResponseForm::TatQa).unwrap();
        assert_eq!((page.question.as_str(), page.sample_answer.as_str()), ("c", "d"));
        assert_eq!(page.paragraphs, [("user".into(), "a".into()), ("assistant".into(), "b".into())]);
        assert!(!samples.is_tat_qa());
    }
}
