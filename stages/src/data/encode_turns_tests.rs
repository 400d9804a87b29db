//! Tests of instruction rows: every assistant turn labelled and nothing else, prompts as inference sees them, refusals.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::data::chat::{ChatChoice, ChatTemplate};
use crate::data::prompt::{PromptTemplate, ResponseForm};
use crate::data::special::SpecialTokens;
use crate::data::testing::data_dir;
use crate::data::{bpe, instruct};

fn options(max_length: usize) -> Options {
    let (template, response) = (PromptTemplate::Brief, ResponseForm::Plain);
    Options { template, response, system: "S y s".to_owned(), max_length }
}

/// A byte-level tokenizer of our own, with ChatML or with a template of the test's.
fn encoder(template: Option<&str>) -> Encoder {
    let tokenizer =
        bpe::train(["what is the sum of 1 and 2", "the sum is 3", "  and now\n\n twice that"], 300).unwrap();
    let token = |text: &str| Some(text.to_owned());
    let special = SpecialTokens { eos: token(bpe::END), pad: token(bpe::PAD), ..SpecialTokens::default() };
    let chat = match template {
        Some(source) => ChatTemplate::from_source("the-template", source.to_owned(), special),
        None => ChatTemplate::choose(ChatChoice::ChatMl, Path::new(""), special),
    };
    Encoder::new(tokenizer, chat.unwrap()).unwrap()
}

fn row(pairs: &[(&str, &str)]) -> Conversation {
    let pairs = pairs.iter().map(|(user, answer)| ((*user).to_owned(), (*answer).to_owned())).collect();
    Conversation { uid: "the-uid".to_owned(), system: None, pairs }
}

/// The texts of the labelled runs of an example.
fn labelled(encoder: &Encoder, set: &TokenSet, at: usize) -> Vec<String> {
    let (ids, flags) = set.example(at);
    let mut runs: Vec<Vec<u32>> = Vec::new();
    for (i, (id, flag)) in ids.iter().zip(flags).enumerate() {
        match runs.last_mut() {
            _ if *flag == 0 => {}
            Some(run) if i > 0 && flags[i - 1] == 1 => run.push(*id),
            _ => runs.push(vec![*id]),
        }
    }
    runs.iter().map(|run| encoder.decode(run, false).unwrap()).collect()
}

fn refusal(encoder: &Encoder, row: Conversation) -> String {
    encode_rows(encoder, &[row], &options(4096)).unwrap_err().to_string()
}

#[test]
fn every_answer_is_labelled_with_its_end_token_and_nothing_else_is() {
    let encoder = encoder(None);
    let rows = instruct::parse(
        "{\"instruction\": \"what is the sum\", \"output\": \" the sum is 3 \"}\n\
         {\"messages\": [{\"role\": \"system\", \"content\": \"own\"}, {\"role\": \"user\", \"content\": \"a\"}, \
         {\"role\": \"assistant\", \"content\": \"one\\n\"}, {\"role\": \"user\", \"content\": \"b\"}, \
         {\"role\": \"assistant\", \"content\": \"two\"}]}",
        Path::new("d.jsonl"),
    )
    .unwrap();
    let set = encode_rows(&encoder, &rows, &options(4096)).unwrap();
    assert_eq!(labelled(&encoder, &set, 0), [" the sum is 3 <|im_end|>"]);
    assert_eq!(labelled(&encoder, &set, 1), ["one\n<|im_end|>", "two<|im_end|>"]);
    let texts: Vec<String> = (0..2).map(|at| encoder.decode(set.example(at).0, false).unwrap()).collect();
    let end = "<|im_end|>\n";
    assert_eq!(
        texts[0],
        format!(
            "<|im_start|>system\nS y s{end}<|im_start|>user\nwhat is the sum{end}<|im_start|>assistant\n the sum is 3 {end}"
        )
    );
    assert!(texts[1].starts_with(&format!("<|im_start|>system\nown{end}")), "{}", texts[1]);
    // Inference sees what comes before the last answer, earlier answers included.
    let example = &set.examples[1];
    assert_eq!(encoder.decode(set.prompt(1), false).unwrap(), example.prompt);
    assert!(example.prompt.ends_with("<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"));
    assert_eq!((example.turns, example.question.as_str()), (2, "b"));
    assert_eq!(example.answer, Answer::Text("two".to_owned()));
    let summary = summarize_rows(&encoder, &options(4096), Some(&set), None);
    assert_eq!((summary.template, summary.train.unwrap().examples), (None, 2));
}

#[test]
fn a_row_of_one_turn_has_the_ids_of_a_question() {
    let encoder = encoder(None);
    let set = encode_rows(&encoder, &[row(&[("what is", "3")])], &options(4096)).unwrap();
    let (prompt, prompt_ids) = encoder.prompt("S y s", "what is").unwrap();
    let (text, ids) = encoder.conversation(None, "S y s", "what is", "3").unwrap();
    let joined = encoder.join((&prompt, &prompt_ids), (&text, ids)).unwrap();
    assert_eq!((set.example(0).0, set.prompt(0)), (joined.ids.as_slice(), prompt_ids.as_slice()));
    assert_eq!(set.examples[0].prompt, prompt);
}

#[test]
fn a_row_that_is_too_long_is_named_with_what_it_needs() {
    let encoder = encoder(None);
    let rows = [row(&[("a", "b")]), row(&[("what is the sum", "3"), ("and now", "the sum is 3")])];
    let needed = encode_rows(&encoder, &rows, &options(4096)).unwrap().example(1).0.len();
    let text = encode_rows(&encoder, &rows, &options(needed - 1)).unwrap_err().to_string();
    assert!(text.starts_with(&format!("1 of 2 rows are longer than max_length = {} tokens", needed - 1)), "{text}");
    assert!(text.contains(&format!("the-uid ({needed} tokens); set max_length to at least {needed}")), "{text}");
    assert!(encode_rows(&encoder, &rows, &options(needed)).is_ok());
}

#[test]
fn what_cannot_be_learnt_is_refused_by_name() {
    let two = || row(&[("a", "one"), ("b", "two")]);
    let text = refusal(&encoder(None), row(&[("a", "one <|im_end|> more"), ("b", "two")]));
    assert!(text.starts_with("question the-uid: answer 1 of 2: ") && text.contains("holds a special token"), "{text}");
    let text = refusal(&encoder(None), row(&[("a", "\n\none"), ("b", "two")]));
    assert!(text.contains("answer 1 of 2: the token") && text.contains("remove the white space"), "{text}");
    // A template that leaves earlier answers out, as those do that drop a model's thoughts.
    let forgetful = "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}<|im_start|>{{ m.role }}:{{ m.content }}\
                     <|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}";
    let text = refusal(&encoder(Some(forgetful)), two());
    assert!(text.contains("answer 1 of 2: the chat template the-template writes it differently"), "{text}");
    let plain = ChatTemplate::none(SpecialTokens { eos: Some(bpe::END.to_owned()), ..SpecialTokens::default() });
    let plain = Encoder::new(bpe::train(["a b"], 260).unwrap(), plain).unwrap();
    let text = refusal(&plain, two());
    assert!(text.contains("plain text has no form for a conversation of several turns"), "{text}");
    let set = encode_rows(&plain, &[row(&[("a", "one")])], &options(100)).unwrap();
    assert_eq!(labelled(&plain, &set, 0), ["one<|im_end|>"]);
}

#[test]
fn the_known_templates_label_every_turn() {
    let Some(data) = data_dir() else { return };
    let rows = [row(&[("What is 1 + 1?", "It is 2."), ("And 2 + 2?", "It is 4.\n\nSure."), ("why", "Because.")])];
    for (dir, choice, end) in [
        ("models/smollm2-135m-instruct", ChatChoice::Model, "<|im_end|>"),
        ("tokenizers/llama2", ChatChoice::Llama2, "</s>"),
    ] {
        let encoder = Encoder::open(&data.join(dir), choice).unwrap();
        let set = encode_rows(&encoder, &rows, &options(4096)).unwrap();
        let runs: Vec<String> = labelled(&encoder, &set, 0).iter().map(|run| run.trim().to_owned()).collect();
        let expected = ["It is 2.", "It is 4.\n\nSure.", "Because."];
        let stripped: Vec<&str> = runs.iter().map(|run| run.strip_suffix(end).unwrap().trim_end()).collect();
        assert_eq!(stripped, expected, "{dir}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn labels_decode_to_the_answers_whatever_they_are(
        pairs in proptest::collection::vec(("[ a-z0-9\n.,é漢]{0,12}", "[ ]{0,2}[a-z0-9.,é漢][ a-z0-9\n.,é漢]{0,12}"), 1..5),
    ) {
        let encoder = encoder(None);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(user, answer)| (user.as_str(), answer.as_str())).collect();
        let set = encode_rows(&encoder, &[row(&pairs)], &options(100_000)).unwrap();
        let expected: Vec<String> = pairs.iter().map(|(_, answer)| format!("{answer}<|im_end|>")).collect();
        prop_assert_eq!(labelled(&encoder, &set, 0), expected);
        let (text, ids) = encoder.dialogue_ids(&row(&pairs).turns("S y s")).unwrap();
        prop_assert_eq!(set.example(0).0, &ids[..]);
        prop_assert_eq!(encoder.decode(&ids, false).unwrap(), text);
    }
}
