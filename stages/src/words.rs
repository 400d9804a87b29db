//! The words that a manifest may use for choices whose types know nothing of the engine.
use crate::data::chat::ChatChoice;
use crate::data::prompt::{PromptTemplate, ResponseForm};
use crate::data::token_set::Split;
use anneal_engine::Shape;
use anneal_engine::param::ParamType;

impl ParamType for PromptTemplate {
    fn shape() -> Shape {
        Shape::Choice(vec![
            ("tat-qa", "instruction, table, text and question, exactly as TAT-LLM's end-to-end template"),
            ("brief", "table, text and question without the instruction"),
        ])
    }
}

impl ParamType for ResponseForm {
    fn shape() -> Shape {
        Shape::Choice(vec![
            ("tat-qa", "`The answer is: {answer} #### and its corresponding scale is: {scale}`"),
            ("plain", "the answer, then its scale if it has one"),
        ])
    }
}

impl ParamType for ChatChoice {
    fn shape() -> Shape {
        Shape::Choice(vec![
            ("model", "the template in the model's own files"),
            ("chatml", "ChatML"),
            ("llama-2", "Llama-2's [INST] form"),
            ("llama-3", "Llama-3's header form"),
            ("none", "no template: plain text, for base models"),
        ])
    }
}

impl ParamType for Split {
    fn shape() -> Shape {
        Shape::Choice(vec![("train", "the split that is learnt"), ("eval", "the split that is measured")])
    }
}
