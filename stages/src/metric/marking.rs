//! Marks one answer against what it should have been, whatever the data set and the metric.
//! Unaware of files, of totals and of models.

use super::exact::score_text;
use super::predictions::Prediction;
use super::score::score_one;
use super::tat_llm::score_response;
use crate::data::dataset::Rows;
use crate::data::prepared;
use crate::data::prompt::ResponseForm;
use crate::data::tatqa::Question;

anneal_engine::choices! {
    /// How answers to TAT-QA's questions are scored.
    pub enum Metric {
        /// The data set's own evaluator: the answer in the asked form counts, nothing else.
        Official = "official",
        /// TAT-LLM's lenient evaluation: the whole text counts, read by the kind of the gold answer; numbers may be off by a little, by their sign or by a factor of 100.
        TatLlm = "tat-llm",
    }
}

impl Metric {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Official, Self::TatLlm];

    /// As manifests spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Official => "official",
            Self::TatLlm => "tat-llm",
        }
    }
}

/// What an answer is held against.
#[derive(Debug, Clone, PartialEq)]
pub enum Gold {
    /// A question of TAT-QA, or a prepared sample of one.
    Question(Question),
    /// Free text.
    Text(String),
}

/// What an answer is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Exact match, 0 or 1.
    pub em: f64,
    /// F1, 0 to 1.
    pub f1: f64,
    /// Whether the scale is right, 0 or 1; free text has none.
    pub scale: Option<f64>,
    /// Whether the answer has the asked form; free text has none.
    pub formed: Option<bool>,
    /// What the answer says in that form, empty if it has another; free text has none.
    pub prediction: Option<Prediction>,
}

impl Gold {
    /// What answers to these rows are held against, by uid and in the file's order. Rows whose references all have
    /// TAT-QA's form are samples of TAT-QA.
    #[must_use]
    pub fn of(rows: &Rows) -> Vec<(String, Self)> {
        match rows {
            Rows::TatQa(contexts) => contexts
                .iter()
                .flat_map(|context| &context.questions)
                .map(|question| (question.uid.clone(), Self::Question(question.clone())))
                .collect(),
            Rows::Instruct(rows) => {
                let questions: Option<Vec<Question>> = rows.iter().map(prepared::question).collect();
                match questions {
                    Some(questions) => {
                        questions.into_iter().map(|question| (question.uid.clone(), Self::Question(question))).collect()
                    }
                    None => rows.iter().map(|row| (row.uid.clone(), Self::Text(row.last().1.to_owned()))).collect(),
                }
            }
        }
    }

    /// Marks an answer; `form` is the asked one.
    #[must_use]
    pub fn mark(&self, metric: Metric, form: ResponseForm, uid: &str, answer: &str) -> Mark {
        let question = match self {
            Self::Text(gold) => {
                let score = score_text(uid, answer, gold);
                return Mark { em: score.em, f1: score.f1, scale: None, formed: None, prediction: None };
            }
            Self::Question(question) => question,
        };
        let said = form.parse_answer(answer);
        let formed = said.is_some();
        // An answer in no known form is an empty prediction: it scores 0 and stays in the denominator.
        let (items, scale) = said.unwrap_or_default();
        let prediction = Prediction { items, scale: Some(scale) };
        let score = match metric {
            Metric::Official => score_one(question, &prediction),
            Metric::TatLlm => score_response(question, answer),
        };
        Mark {
            em: score.em,
            f1: score.f1,
            scale: Some(score.scale),
            formed: Some(formed),
            prediction: Some(prediction),
        }
    }
}
