use super::*;
use crate::data::testing::data_dir;
use crate::gguf::Gguf;
use crate::gguf::testing::{Builder, tiny};
use std::path::Path;

fn built(builder: &Builder) -> (tokenizers::Tokenizer, Value) {
    let file = Gguf::from_bytes(Path::new("t.gguf"), builder.build()).unwrap();
    let files = files(&file.metadata).unwrap().unwrap();
    (tokenizers::Tokenizer::from_bytes(files.tokenizer.to_string()).unwrap(), files.config)
}

fn ids(tokenizer: &tokenizers::Tokenizer, text: &str, special: bool) -> Vec<u32> {
    tokenizer.encode(text, special).unwrap().get_ids().to_vec()
}

#[test]
fn sentence_pieces_merge_by_score() {
    let (tokenizer, config) = built(&tiny());
    // "▁ab" as a whole; "ab" after "b" has no blank before it; BOS in front.
    assert_eq!(ids(&tokenizer, "ab", true), [1, 7]);
    assert_eq!(ids(&tokenizer, "bab", false), [5, 4, 6]);
    assert_eq!((&config["bos_token"], &config["eos_token"]), (&json!("<s>"), &json!("</s>")));
    let (tokenizer, _) = built(&tiny().flag("tokenizer.ggml.add_space_prefix", false));
    assert_eq!(ids(&tokenizer, "ab", false), [6]);
    let (tokenizer, _) = built(&tiny().flag("tokenizer.ggml.add_bos_token", false));
    assert_eq!(ids(&tokenizer, "ab", true), [7]);
}

/// A GGUF vocabulary of Hugging Face's file: texts, kinds, and scores or merges as converters write them.
fn converted(tokenizer: &Value, model: &str) -> Builder {
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocab.len()];
    for (token, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    let mut kinds = vec![1; tokens.len()];
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        kinds[added["id"].as_u64().unwrap() as usize] = 3;
    }
    let builder = Builder::default().text("tokenizer.ggml.model", model);
    if model == "gpt2" {
        let merges = tokenizer["model"]["merges"].as_array().unwrap().iter();
        let merges: Vec<String> =
            merges.map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap())).collect();
        return builder
            .texts("tokenizer.ggml.tokens", &tokens)
            .i32s("tokenizer.ggml.token_type", &kinds)
            .texts("tokenizer.ggml.merges", &merges);
    }
    kinds[0] = 2;
    for (kind, token) in kinds.iter_mut().zip(&tokens) {
        if token.starts_with("<0x") && token.len() == 6 {
            *kind = 6;
        }
    }
    // SentencePiece's BPE trainer scores pieces by their rank; Llama's runs of blanks were put in by hand.
    let blanks = |id: usize| tokens[id].chars().count() > 1 && tokens[id].chars().all(|c| c == '▁');
    let rank = |id: usize| 259.0_f32.min(id as f32) - id as f32;
    let scores: Vec<f32> = (0..tokens.len()).map(|id| if blanks(id) { -1e9 } else { rank(id) }).collect();
    builder
        .texts("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .f32s("tokenizer.ggml.scores", &scores)
}

/// Every text of the oracle, and what a real tokenizer.json says of its own parts.
#[test]
fn real_vocabularies_give_the_oracles_ids() {
    let Some(data) = data_dir() else { return };
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(data.join(name)).unwrap()).unwrap() };
    let oracle = read("tokenizers/encode_oracle.json");
    for (name, folder, model) in [
        ("smollm2", "models/smollm2-135m-instruct", "gpt2"),
        ("llama2", "tokenizers/llama2", "llama"),
        ("stories260K", "models/stories260K", "llama"),
    ] {
        let theirs = read(&format!("{folder}/tokenizer.json"));
        let builder = converted(&theirs, model).text("tokenizer.ggml.pre", "smollm");
        let file = Gguf::from_bytes(Path::new("t.gguf"), builder.build()).unwrap();
        let ours = files(&file.metadata).unwrap().unwrap().tokenizer;
        assert!(ours["added_tokens"] == theirs["added_tokens"], "{name}: {}", ours["added_tokens"]);
        for key in ["normalizer", "pre_tokenizer", "decoder"] {
            assert_eq!(ours[key], theirs[key], "{name}: {key}");
        }
        let pairs = |file: &Value| -> Vec<String> {
            let merges = file["model"]["merges"].as_array().unwrap().iter();
            let text = |part: &Value| part.as_str().unwrap().to_owned();
            merges
                .map(|m| m.as_str().map_or_else(|| format!("{} {}", text(&m[0]), text(&m[1])), str::to_owned))
                .collect()
        };
        // stories260K was converted by another program, which orders the cuts of one piece otherwise.
        assert!(name == "stories260K" || pairs(&ours) == pairs(&theirs), "{name}: other merges");
        let tokenizer = tokenizers::Tokenizer::from_bytes(ours.to_string()).unwrap();
        for (text, expected) in oracle["texts"].as_array().unwrap().iter().zip(oracle[name].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let expected: Vec<u32> =
                expected.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            assert_eq!(ids(&tokenizer, text, false), expected, "{name}: {text:?}");
        }
    }
}

/// Llama 3's rule on a vocabulary of bytes and a few words.
#[test]
fn llama_3_splits_numbers_by_three_and_takes_whole_tokens() {
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let mut tokens: Vec<String> = alphabet.into_iter().map(String::from).collect();
    tokens.sort();
    let first = tokens.len();
    tokens.extend(["12", "123", "Ġx", "<|begin_of_text|>"].map(String::from));
    let mut kinds = vec![1; tokens.len()];
    kinds[first + 3] = 3;
    let builder = Builder::default()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "llama-bpe")
        .texts("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .texts("tokenizer.ggml.merges", &["1 2", "Ġ x"])
        .u32("tokenizer.ggml.bos_token_id", first as u32 + 3);
    let (tokenizer, _) = built(&builder);
    let words = |text: &str| tokenizer.encode(text, true).unwrap().get_tokens().to_vec();
    // "123" comes from no merge; "1234" is cut before the fourth digit.
    assert_eq!(words("123 x1234"), ["<|begin_of_text|>", "123", "Ġx", "123", "4"]);
    let broken = builder.texts("tokenizer.ggml.merges", &["1 2", "1 4"]);
    let file = Gguf::from_bytes(Path::new("t.gguf"), broken.build()).unwrap();
    let message = files(&file.metadata).unwrap_err().message;
    assert!(message.contains("has at 1 \"1 4\", which does not join two tokens"), "{message}");
}
