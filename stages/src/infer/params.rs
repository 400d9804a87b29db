//! Parameters of `infer`, and what they mean together. Unaware of models.
use crate::data::token_set::Split;
use anneal_engine::stage::Problem;
use serde_json::Value;

anneal_engine::choices! {
    /// How each next token is chosen.
    pub enum Decoding {
        /// The most likely one.
        Greedy = "greedy",
        /// Drawn by its probability, shaped by `temperature`, `top_k` and `top_p`.
        Sample = "sample",
        /// As the model's own generation_config.json says; what is given here goes before what it says.
        Model = "model",
    }
}

anneal_engine::params! {
    /// Parameters of `infer`.
    pub struct InferParams {
        /// Samples to answer, by their position in the split's file, counted from 0; empty: all.
        sids: Vec<u64> = [], in 0..=1000000000;
        /// Split whose questions are answered.
        split: Split = "eval";
        /// Longest answer. One that is cut off here is flagged in its row and counted.
        max_new_tokens: usize = 128, in 1..=1000000, unit "tokens", memory "the key-value cache grows with prompt and answer";
        /// How each next token is chosen.
        decoding: Decoding = "greedy";
        /// Divides the logits before a token is drawn: below 1 the likely become likelier; 1 unless given.
        temperature: Option<f64>, in 0.001..=1000.0;
        /// Draw among so many of the most likely tokens; 0 is all of them, and what `sample` does unless given.
        top_k: Option<usize>, in 0..=1000000, unit "tokens";
        /// Draw among the fewest most likely tokens whose probabilities reach this sum; 1 is all of them, and what `sample` does unless given.
        top_p: Option<f64>, in 0.000001..=1.0;
        /// Seed of what is drawn; the experiment's unless given. A token's random number depends on it, on the question's uid and on the token's position only.
        seed: Option<u64>;
        /// Texts that end an answer, which then has neither them nor what follows.
        stop: Vec<String> = [];
        /// Add the adapter's updates to the weights instead of computing them beside: as fast as the base alone; the numbers differ by rounding.
        merge_adapter: bool = false;
        /// Most answers that are decoded at the same time; fewer where memory does not suffice. Changes no answer.
        batch_size: usize = 64, in 1..=4096, unit "sequences", memory "each has a key-value cache";
        /// Also measure the loss on the reference answers of the same samples: the mean negative log-likelihood of their tokens, as trainers measure it on the eval split. One more pass over every sample; changes no answer.
        eval_loss: bool = false;
        /// Compute what questions of one context share once. Changes no answer.
        prefix_sharing: bool = true, memory "one more key-value cache";
    }
}

/// Parameters that only drawing uses.
const DRAWING: [&str; 4] = ["temperature", "top_k", "top_p", "seed"];

/// What does not go together.
pub(super) fn check(params: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    if params.get("decoding").and_then(Value::as_str) == Some("greedy") {
        let given = DRAWING.iter().filter(|name| params.get(**name).is_some_and(|value| !value.is_null()));
        problems.extend(given.map(|name| Problem {
            at: vec![(*name).to_owned()],
            message: "has no effect: `decoding` is \"greedy\"".to_owned(),
            hint: Some("set decoding = \"sample\", or leave it out".to_owned()),
            missing_file: false,
        }));
    }
    let mut seen = std::collections::BTreeSet::new();
    let sids = params.get("sids").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_u64);
    if let Some(twice) = sids.into_iter().find(|sid| !seen.insert(*sid)) {
        problems.push(Problem {
            at: vec!["sids".to_owned()],
            message: format!("names sample {twice} twice"),
            hint: Some("each is answered once; name it once".to_owned()),
            missing_file: false,
        });
    }
    let empty = |text: &Value| text.as_str().is_some_and(str::is_empty);
    if params.get("stop").and_then(Value::as_array).is_some_and(|texts| texts.iter().any(empty)) {
        problems.push(Problem {
            at: vec!["stop".to_owned()],
            message: "an empty text would end every answer before it begins".to_owned(),
            hint: Some("leave it out".to_owned()),
            missing_file: false,
        });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_has_no_effect_is_refused() {
        let say = |params: Value| -> Vec<String> {
            check(&params).into_iter().map(|problem| format!("{}: {}", problem.at.join("."), problem.message)).collect()
        };
        let effect = |name: &str| format!("{name}: has no effect: `decoding` is \"greedy\"");
        assert_eq!(say(json!({"decoding": "greedy", "top_p": null, "stop": ["\n"]})), Vec::<String>::new());
        let both = json!({"decoding": "greedy", "temperature": 0.5, "seed": 1});
        assert_eq!(say(both), [effect("temperature"), effect("seed")]);
        assert_eq!(say(json!({"decoding": "model", "temperature": 0.5})), Vec::<String>::new());
        assert_eq!(say(json!({"stop": ["a", ""]})).len(), 1);
        assert_eq!(say(json!({"sids": [3, 1, 3, 1]})), ["sids: names sample 3 twice"]);
        assert_eq!(say(json!({"sids": [3, 1]})), Vec::<String>::new());
    }
}
