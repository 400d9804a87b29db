//! Tests of the encoder: id oracles, end tokens, boundaries, misfits.

use super::*;
use crate::data::testing::data_dir;
use serde_json::Value;

fn tokenizer(vocab_tail: &str, rest: &str) -> Tokenizer {
    let json = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {{"type": "Fuse"}},
        "added_tokens": [
            {{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}},
            {{"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}}],
        {rest}
        "model": {{"type": "BPE", "unk_token": null, "fuse_unk": false, "byte_fallback": false, "dropout": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "vocab": {{"<s>": 0, "</s>": 1, "a": 2, "b": 3, " ": 4, "x": 5, ":": 6, "\n": 7 {vocab_tail}
        }}}}"#
    );
    Tokenizer::from_bytes(json).unwrap()
}

fn chat(source: &str) -> ChatTemplate {
    let token = |text: &str| Some(text.to_owned());
    let special = SpecialTokens { bos: token("<s>"), eos: token("</s>"), ..SpecialTokens::default() };
    ChatTemplate::from_source("t", source.to_owned(), special).unwrap()
}

const SIMPLE: &str =
    "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}:{% else %}</s>\n{% endif %}{% endfor %}";

fn join(encoder: &Encoder, user: &str, answer: &str) -> Result<Encoded, String> {
    let (prompt, prompt_ids) = encoder.prompt("", user).unwrap();
    let (text, ids) = encoder.conversation(None, "", user, answer).unwrap();
    encoder.join((&prompt, &prompt_ids), (&text, ids))
}

#[test]
fn labels_are_the_answer_and_its_own_end_token() {
    let encoder = Encoder::new(tokenizer("}, \"merges\": []", ""), chat(&format!("{{{{ '<s>' }}}}{SIMPLE}"))).unwrap();
    assert_eq!((encoder.end_token(), encoder.vocab_size()), (1, 8));
    let encoded = join(&encoder, "ab", "ba").unwrap();
    // Trailing newlines of a template's last line are Jinja's to drop; inside a block they stay.
    assert_eq!(encoded.ids[..7], [0, 2, 3, 6, 3, 2, 1]);
    assert_eq!((encoded.prompt_length, encoded.labels), (4, 4..7));
    assert_eq!(encoder.decode_response(&[3, 2, 1, 5, 5]).unwrap(), "ba");
}

#[test]
fn a_prompt_keeps_its_ids_where_the_conversation_merges_differently() {
    // ":" and "a" merge into one token, and "x" with ":" into another.
    let merging = |vocab: &str, merges: &str| {
        let tail = format!("{vocab}}}, \"merges\": [{merges}]");
        Encoder::new(tokenizer(&tail, ""), chat(SIMPLE)).unwrap()
    };
    let straddling = merging(", \":a\": 8", "[\":\", \"a\"]");
    let problem = join(&straddling, "x", "ab").unwrap_err();
    assert!(problem.contains("\":a\" covers both"), "{problem}");
    assert_eq!(join(&straddling, "x", "ba").unwrap().ids[..5], [5, 6, 3, 2, 1]);

    // With an answer "b" the boundary holds, but the prompt's "x:" is split where ":" would merge no more.
    let before = merging(", \"x:\": 8, \":b\": 9", "[\"x\", \":\"], [\":\", \"b\"]");
    assert_eq!(join(&before, "x", "b").unwrap().ids[..3], [8, 3, 1]);
}

#[test]
fn the_tokenizers_bos_is_added_only_where_the_template_writes_none() {
    let processor = r#""post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},"#;
    let with = |source: &str, processor: &str| {
        let text = serde_json::to_string(&tokenizer("}, \"merges\": []", "")).unwrap();
        let text = text.replace("\"post_processor\":null,", processor);
        Encoder::new(Tokenizer::from_bytes(text).unwrap(), chat(source))
    };
    let prompt = |source: &str| with(source, processor).unwrap().prompt("", "a").unwrap().1;
    assert_eq!(prompt(SIMPLE), [0, 2, 6]);
    assert_eq!(prompt(&format!("{{{{ bos_token }}}}{SIMPLE}")), [0, 2, 6]);
    let closing = processor.replace(
        r#"{"Sequence": {"id": "A", "type_id": 0}}],"#,
        r#"{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}],"#,
    );
    let text = with(SIMPLE, &closing).unwrap_err().to_string();
    assert!(text.contains("puts \"<s>\" after every text"), "{text}");
}

#[test]
fn a_template_without_an_end_token_is_refused() {
    let plain = || tokenizer("}, \"merges\": []", "");
    let text = Encoder::new(plain(), chat("{{ messages[0].content }}")).unwrap_err().to_string();
    assert!(text.contains("no special token of this tokenizer"), "{text}");
    let text = Encoder::new(plain(), ChatTemplate::none(SpecialTokens::default())).unwrap_err().to_string();
    assert!(text.contains("names no end-of-sequence token"), "{text}");
    let text = Encoder::open(Path::new("absent"), ChatChoice::None).unwrap_err().to_string();
    assert!(text.starts_with("cannot read absent"), "{text}");
}

#[test]
fn agrees_with_the_tokenizers_of_the_oracle() {
    let Some(data) = data_dir() else { return };
    let text = std::fs::read_to_string(data.join("tokenizers/encode_oracle.json")).unwrap();
    let oracle: Value = serde_json::from_str(&text).unwrap();
    for (key, dir) in [
        ("smollm2", "models/smollm2-135m-instruct"),
        ("llama2", "tokenizers/llama2"),
        ("stories260K", "models/stories260K"),
    ] {
        let tokenizer = Tokenizer::from_file(data.join(dir).join("tokenizer.json")).unwrap();
        for (text, ids) in oracle["texts"].as_array().unwrap().iter().zip(oracle[key].as_array().unwrap()) {
            let expected: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            assert_eq!(encode(&tokenizer, text.as_str().unwrap(), false).unwrap(), expected, "{key} {text}");
        }
    }
}
