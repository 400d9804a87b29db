//! Tests of the chat templates: exact texts, the models' own files, refusals.

use super::*;
use crate::data::testing::data_dir;

fn special() -> SpecialTokens {
    SpecialTokens { bos: Some("<s>".to_owned()), eos: Some("</s>".to_owned()), ..SpecialTokens::default() }
}

fn check(choice: ChatChoice, system: &str, prompt: &str, rest: &str) {
    let chat = ChatTemplate::choose(choice, Path::new("absent"), special()).unwrap();
    assert_eq!(chat.prompt(system, " hi\n").unwrap(), prompt, "{choice:?}");
    assert_eq!(chat.conversation(system, " hi\n", "yo").unwrap(), format!("{prompt}{rest}"), "{choice:?}");
}

#[test]
fn built_in_templates_are_exact() {
    let chatml = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n hi\n<|im_end|>\n<|im_start|>assistant\n";
    check(ChatChoice::ChatMl, "S", chatml, "yo<|im_end|>\n");
    check(ChatChoice::ChatMl, "", &chatml[31..], "yo<|im_end|>\n");
    check(ChatChoice::Llama2, "S", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n hi [/INST]", " yo </s>");
    check(ChatChoice::Llama2, "", "<s>[INST] hi [/INST]", " yo </s>");
    let llama3 = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user\
                  <|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
    check(ChatChoice::Llama3, "S", llama3, "yo<|eot_id|>");
    check(ChatChoice::None, "S", "S\n\n hi\n\n", "yo");
    check(ChatChoice::None, "", " hi\n\n", "yo");
}

fn render(source: &str) -> Result<String, String> {
    let chat = ChatTemplate::from_source("t.jinja", source.to_owned(), special());
    chat.and_then(|chat| chat.conversation("S", "U", "A")).map_err(|error| error.to_string())
}

#[test]
fn speaks_the_dialect_of_model_files() {
    for (source, text) in [
        (
            "{{ bos_token }}{%- for m in messages %}\n  {%- if true %}\n{{ m.role[0] }}{% endif %}\n{% endfor %}",
            "<s>sua",
        ),
        ("{{ messages[1:][0]['content'].strip() }}{{ messages[0].role.startswith('sys') }}", "UTrue"),
        ("{% if tools is not none or documents %}x{% endif %}{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{%- for m in messages %}{% generation %}{{ m.content }}{%- endgeneration -%}{% endfor %}", "SUA"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% endfor %}", "UA"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages|length) }}", "[3]"),
    ] {
        assert_eq!(render(source).unwrap(), text, "{source}");
    }
}

#[test]
fn refusals_and_faults_name_the_template() {
    let text = render("{{ raise_exception('System role not supported') }}").unwrap_err();
    assert!(text.contains("t.jinja") && text.contains("System role not supported") && text.contains("system = \"\""));
    let text = render("{% if %}").unwrap_err();
    assert!(text.starts_with("chat template t.jinja: it does not compile"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let text = ChatTemplate::choose(ChatChoice::Model, dir.path(), special()).unwrap_err().to_string();
    assert!(text.contains("neither chat_template.jinja nor") && text.contains("chatml"), "{text}");
}

#[test]
fn the_models_template_may_be_a_string_a_list_or_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let name = || {
        let chat = ChatTemplate::choose(ChatChoice::Model, dir.path(), special()).unwrap();
        format!("{}: {}", chat.name(), chat.prompt("", "U").unwrap())
    };
    let config = dir.path().join("tokenizer_config.json");
    std::fs::write(&config, r#"{"chat_template": "string"}"#).unwrap();
    assert_eq!(name(), "tokenizer_config.json: string");
    let list = r#"{"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "list"}]}"#;
    std::fs::write(&config, list).unwrap();
    assert_eq!(name(), "tokenizer_config.json: list");
    std::fs::write(dir.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(name(), "chat_template.jinja: file");
}

#[test]
fn choices_are_named_in_manifests() {
    for (choice, name) in [
        (ChatChoice::Model, "model"),
        (ChatChoice::ChatMl, "chatml"),
        (ChatChoice::Llama2, "llama-2"),
        (ChatChoice::Llama3, "llama-3"),
        (ChatChoice::None, "none"),
    ] {
        assert_eq!(serde_json::to_string(&choice).unwrap(), format!("\"{name}\""));
        assert_eq!(serde_json::from_str::<ChatChoice>(&format!("\"{name}\"")).unwrap(), choice);
    }
}

#[test]
fn smollm2s_own_template_equals_the_built_in_one() {
    let Some(data) = data_dir() else { return };
    let dir = data.join("models/smollm2-135m-instruct");
    let special = SpecialTokens::read(&dir, |_| None).unwrap();
    let own = ChatTemplate::choose(ChatChoice::Model, &dir, special.clone()).unwrap();
    let chatml = ChatTemplate::choose(ChatChoice::ChatMl, &dir, special).unwrap();
    assert_eq!(own.conversation("S", "U", "A").unwrap(), chatml.conversation("S", "U", "A").unwrap());
    assert!(own.prompt("", "U").unwrap().contains("named SmolLM"), "its default system prompt");
}
