//! The text of prompts and responses: the TAT-QA instruction prompt, its brief form, the two forms of a response, and
//! the way back from a generated response to an answer. Unaware of chat templates and tokens.
//!
//! The prompt's wording and white space are those of the published TAT-QA instruction data: blank lines and trailing
//! spaces are part of it, because models tuned elsewhere on that text are scored here on the same bytes.

use serde::{Deserialize, Serialize};

use super::tatqa::{Context, Question};

/// The system prompt that goes with the TAT-QA templates where the manifest names none.
pub const SYSTEM_PROMPT: &str =
    "You are a financial assistant. Always provide accurate and reliable information to the best of your abilities";

/// How a question and its context become a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptTemplate {
    /// Instructions, table, text, question.
    #[default]
    TatQa,
    /// The same without the instructions: about 250 tokens shorter.
    Brief,
}

/// How an answer and its scale become a response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResponseForm {
    /// `The answer is: a#b #### and its corresponding scale is: none`
    #[default]
    TatQa,
    /// `a#b`, and a space and the scale if there is one.
    Plain,
}

const INSTRUCTIONS: &str = "\
Below is an instruction that describes a question answering task in the finance domain, paired with an input table \
and its relevant text that provide further context. The given question is relevant to the table and text. Generate an \
appropriate answer to the given question.\n\n\n\n\
### Instruction\n\n\
Given a table and a list of texts in the following, what is the answer to the question? \n\n\
Please predict the answer and store it in a variable named `{answer}`. If there are multiple values, separate them \
using the '#' symbol.\n\n\
If the value of the `{answer}` is numerical, predict its scale and store it in a variable named `{scale}`. \n\n\
The value of `{scale}` can be one of the following: `none`, `percent`, `thousand`, `million`, or `billion`. For \
non-numerical values, set the value of `{scale}` to 'none'.\n\n\n\n\
Finally, present the final answer in the format of \"The answer is: {answer} #### and its corresponding scale is: \
{scale}\"\n\n\n\n";

const ANSWER: &str = "The answer is: ";
const SCALE: &str = " #### and its corresponding scale is: ";
const SCALES: [&str; 4] = ["thousand", "million", "billion", "percent"];

impl PromptTemplate {
    /// The text that it puts before every table.
    #[must_use]
    pub fn fixed_text(self) -> &'static str {
        match self {
            Self::TatQa => INSTRUCTIONS,
            Self::Brief => "",
        }
    }

    /// The prompt for `question`, with only the first `paragraphs` text items of its context (all, if it has fewer).
    #[must_use]
    pub fn render(self, context: &Context, question: &Question, paragraphs: usize) -> String {
        let kept = &context.paragraphs[..paragraphs.min(context.paragraphs.len())];
        let table: usize = context.table.iter().flatten().map(|cell| cell.len() + 2).sum();
        let text: usize = kept.iter().map(|paragraph| paragraph.text.len() + 8).sum();
        let mut out = String::with_capacity(INSTRUCTIONS.len() + table + text + question.question.len() + 128);
        out.push_str(self.fixed_text());
        out.push_str("### Table \n\n");
        for row in &context.table {
            out.push('|');
            for cell in row {
                out.push_str(cell);
                out.push_str(" |");
            }
            out.push('\n');
        }
        out.push_str("\n\n\n\n### Text\n\n");
        for paragraph in kept {
            out.push_str(&paragraph.order.to_string());
            out.push(' ');
            out.push_str(&paragraph.text);
            out.push('\n');
        }
        out.push_str("\n\n\n\n### Question \n\n");
        out.push_str(&question.question);
        out.push_str("\n\n\n\n### Response");
        out
    }
}

impl ResponseForm {
    /// The response that a model is taught for `question`.
    #[must_use]
    pub fn render(self, question: &Question) -> String {
        self.render_answer(&question.answer.items(), &question.scale)
    }

    /// The response for answer pieces and a scale ("" for none).
    #[must_use]
    pub fn render_answer(self, items: &[String], scale: &str) -> String {
        let answer = items.join("#");
        match self {
            Self::TatQa => format!("{ANSWER}{answer}{SCALE}{}", if scale.is_empty() { "none" } else { scale }),
            // Outer white space would merge with the line break that a template puts before an answer.
            Self::Plain => format!("{answer} {scale}").trim().to_owned(),
        }
    }

    /// Reads a generated response back into answer pieces and a scale ("" for none): the inverse of
    /// [`ResponseForm::render_answer`] for pieces without `#`, line breaks and outer white space. `None` if the text
    /// does not have this form.
    ///
    /// The tat-qa form may stand anywhere in the text; the first one counts. The plain form is the first line, whose
    /// last word is taken for a scale if it is one: "$31.4 million" reads as 31.4 in millions, by the form's nature.
    #[must_use]
    pub fn parse_answer(self, text: &str) -> Option<(Vec<String>, String)> {
        let (answer, scale) = match self {
            Self::TatQa => {
                let (_, after) = text.split_once(ANSWER.trim_end())?;
                let (answer, after) = after.split_once(SCALE.trim())?;
                let line = after.trim_start_matches(' ').lines().next().unwrap_or("");
                (answer, line.trim().trim_end_matches('.').trim_end())
            }
            Self::Plain => {
                let line = text.trim().lines().next()?.trim();
                match line.rsplit_once(' ') {
                    Some((answer, last)) if SCALES.contains(&last) => (answer, last),
                    _ => (line, ""),
                }
            }
        };
        let items = answer.split('#').map(|item| item.trim().to_owned()).collect();
        let scale = if scale == "none" { "" } else { scale };
        Some((items, scale.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::data::tatqa;

    fn context() -> Context {
        let text = r#"[{"table": {"uid": "t", "table": [["", "2019"], ["Sales", "$  1.5"]]},
            "paragraphs": [{"uid": "p", "order": 1, "text": "First."}, {"uid": "q", "order": 2, "text": "Second."}],
            "questions": [{"uid": "u", "order": 1, "question": "How much? ", "answer": ["$1.5", "2"],
                "answer_type": "multi-span", "answer_from": "table", "scale": "million"}]}]"#;
        tatqa::parse(text, Path::new("d.json")).unwrap().remove(0)
    }

    // One array element a line, so that every blank line and trailing space shows.
    const HEADER: [&str; 21] = [
        "Below is an instruction that describes a question answering task in the finance domain, paired with an input table and its relevant text that provide further context. The given question is relevant to the table and text. Generate an appropriate answer to the given question.",
        "",
        "",
        "",
        "### Instruction",
        "",
        "Given a table and a list of texts in the following, what is the answer to the question? ",
        "",
        "Please predict the answer and store it in a variable named `{answer}`. If there are multiple values, separate them using the '#' symbol.",
        "",
        "If the value of the `{answer}` is numerical, predict its scale and store it in a variable named `{scale}`. ",
        "",
        "The value of `{scale}` can be one of the following: `none`, `percent`, `thousand`, `million`, or `billion`. For non-numerical values, set the value of `{scale}` to 'none'.",
        "",
        "",
        "",
        "Finally, present the final answer in the format of \"The answer is: {answer} #### and its corresponding scale is: {scale}\"",
        "",
        "",
        "",
        "### Table ",
    ];
    const BODY: [&str; 22] = [
        "",
        "| |2019 |",
        "|Sales |$  1.5 |",
        "",
        "",
        "",
        "",
        "### Text",
        "",
        "1 First.",
        "2 Second.",
        "",
        "",
        "",
        "",
        "### Question ",
        "",
        "How much? ",
        "",
        "",
        "",
        "### Response",
    ];

    #[test]
    fn prompts_are_exact_to_the_byte() {
        let context = context();
        let whole = [HEADER.as_slice(), &BODY].concat().join("\n");
        assert_eq!(PromptTemplate::TatQa.render(&context, &context.questions[0], 9), whole);
        let brief = [&HEADER[20..], &BODY].concat().join("\n");
        assert_eq!(PromptTemplate::Brief.render(&context, &context.questions[0], 2), brief);
        let one = brief.replace("2 Second.\n", "");
        assert_eq!(PromptTemplate::Brief.render(&context, &context.questions[0], 1), one);
        let none = one.replace("1 First.\n", "");
        assert_eq!(PromptTemplate::Brief.render(&context, &context.questions[0], 0), none);
    }

    #[test]
    fn responses_have_two_forms() {
        let question = &context().questions[0];
        let response = "The answer is: $1.5#2 #### and its corresponding scale is: million";
        assert_eq!(ResponseForm::TatQa.render(question), response);
        assert_eq!(ResponseForm::Plain.render(question), "$1.5#2 million");
        assert_eq!(
            ResponseForm::TatQa.render_answer(&["x".to_owned()], ""),
            "The answer is: x #### and its corresponding scale is: none"
        );
    }

    #[test]
    fn generated_text_is_read_leniently_but_never_guessed() {
        let check = |form: ResponseForm, text| {
            form.parse_answer(text).map(|(items, scale)| format!("{} / {scale}", items.join("|")))
        };
        let cases = [
            (" Sure. The answer is: a #### and its corresponding scale is: percent.\nMore", Some("a / percent")),
            ("The answer is:a# b #### and its corresponding scale is:none", Some("a|b / ")),
            ("The answer is: a #### and its corresponding scale is:", Some("a / ")),
            ("The answer is: a#b# #### and its corresponding scale is: none", Some("a|b| / ")),
            ("The answer is: a", None),
            ("a million", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(check(ResponseForm::TatQa, text).as_deref(), expected, "{text}");
        }
        assert_eq!(check(ResponseForm::Plain, " 1#2 million\nx").as_deref(), Some("1|2 / million"));
        assert_eq!(check(ResponseForm::Plain, "million").as_deref(), Some("million / "));
        assert_eq!(check(ResponseForm::Plain, " \n"), None);
    }

    #[test]
    fn names_in_manifests() {
        let name = |form: &str| serde_json::from_str::<ResponseForm>(&format!("\"{form}\"")).unwrap();
        assert_eq!((name("tat-qa"), name("plain")), (ResponseForm::TatQa, ResponseForm::Plain));
        assert_eq!(serde_json::to_string(&PromptTemplate::TatQa).unwrap(), "\"tat-qa\"");
        assert_eq!(serde_json::to_string(&PromptTemplate::Brief).unwrap(), "\"brief\"");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn parsing_inverts_rendering(
            items in prop::collection::vec("[^#\\s]([^#\r\n]{0,20}[^#\\s])?", 1..5),
            scale in prop::sample::select(vec!["", "thousand", "million", "billion", "percent"]),
        ) {
            let parsed = ResponseForm::TatQa.parse_answer(&ResponseForm::TatQa.render_answer(&items, scale));
            prop_assert_eq!(parsed, Some((items.clone(), scale.to_owned())));
            // Without a scale the plain form cannot tell a last word "million" from a scale.
            if !scale.is_empty() {
                let parsed = ResponseForm::Plain.parse_answer(&ResponseForm::Plain.render_answer(&items, scale));
                prop_assert_eq!(parsed.map(|(_, scale)| scale), Some(scale.to_owned()));
            }
        }
    }
}
