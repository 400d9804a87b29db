//! Chat templates: how a system prompt, a question and an answer become one text, in the form that a model was tuned
//! on. Templates are Jinja, taken from the model's own files or built in. Unaware of token ids and data sets.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use super::error::{DataError, read_text};
use super::special::{SpecialTokens, json};

/// Which chat template to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChatChoice {
    /// The model's own.
    #[default]
    #[serde(rename = "model")]
    Model,
    /// `<|im_start|>role`, text, `<|im_end|>`.
    #[serde(rename = "chatml")]
    ChatMl,
    /// `[INST] <<SYS>> .. <</SYS>> .. [/INST]`.
    #[serde(rename = "llama-2")]
    Llama2,
    /// `<|start_header_id|>role<|end_header_id|>`, text, `<|eot_id|>`.
    #[serde(rename = "llama-3")]
    Llama3,
    /// Plain text: the system prompt, the question, a line break, the answer and the end-of-sequence token.
    #[serde(rename = "none")]
    None,
}

/// The ChatML template; also written into tokenizers that are trained here.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
    message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\\n' }}{% endif %}";

// The system prompt is part of the first user turn, and each turn's whole content is stripped.
const LLAMA2: &str = "{% set ns = namespace(system='') %}{% for message in messages %}{% if message.role == 'system' %}\
    {% set ns.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' %}{% elif message.role == 'user' %}\
    {{ bos_token + '[INST] ' + (ns.system + message.content)|trim + ' [/INST]' }}{% set ns.system = '' %}{% else %}\
    {{ ' ' + message.content|trim + ' ' + eos_token }}{% endif %}{% endfor %}";

const LLAMA3: &str = "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message.role + \
    '<|end_header_id|>\\n\\n' + message.content|trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sets the scene, at most once, first.
    System,
    /// Asks.
    User,
    /// Answers; this is what is learnt.
    Assistant,
}

impl Role {
    /// Its name in templates and in data.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn<'a> {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: &'a str,
}

/// A compiled chat template, or none.
#[derive(Debug)]
pub struct ChatTemplate {
    name: String,
    source: Option<String>,
    special: SpecialTokens,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// The chosen template; `model` is the folder that [`ChatChoice::Model`] looks into: `chat_template.jinja`, then
    /// `chat_template` in `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if the model has none or it does not compile; [`DataError::Io`], [`DataError::Json`].
    pub fn choose(choice: ChatChoice, model: &Path, special: SpecialTokens) -> Result<Self, DataError> {
        let builtin = |name: &str, source: &str| Self::from_source(name, source.to_owned(), special.clone());
        match choice {
            ChatChoice::Model => Self::of_model(model, special),
            ChatChoice::ChatMl => builtin("chatml", CHATML),
            ChatChoice::Llama3 => builtin("llama-3", LLAMA3),
            ChatChoice::Llama2 => {
                let token = |known: Option<String>, usual: &str| Some(known.unwrap_or_else(|| usual.to_owned()));
                let bos = token(special.bos.clone(), "<s>");
                let eos = token(special.eos.clone(), "</s>");
                Self::from_source("llama-2", LLAMA2.to_owned(), SpecialTokens { bos, eos, ..special })
            }
            ChatChoice::None => Ok(Self::none(special)),
        }
    }

    fn of_model(model: &Path, special: SpecialTokens) -> Result<Self, DataError> {
        let file = model.join("chat_template.jinja");
        if file.exists() {
            return Self::from_source("chat_template.jinja", read_text(&file)?, special);
        }
        let config = json(&model.join("tokenizer_config.json"))?;
        let found = config.as_ref().and_then(|config| template_in(config.get("chat_template")?));
        let source = found.ok_or_else(|| DataError::ChatTemplate {
            name: "model".to_owned(),
            problem: format!(
                "{} has neither chat_template.jinja nor a chat_template in tokenizer_config.json",
                model.display()
            ),
            hint: "choose chat = \"chatml\", \"llama-2\" or \"llama-3\" as the model was tuned, or \"none\" for a base model",
        })?;
        Self::from_source("tokenizer_config.json", source, special)
    }

    /// A template from its Jinja text; `name` appears in errors.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if it does not compile.
    pub fn from_source(name: &str, source: String, special: SpecialTokens) -> Result<Self, DataError> {
        let mut environment = environment();
        let template = without_generation_tags(&source);
        environment.add_template_owned("chat", template).map_err(|error| DataError::ChatTemplate {
            name: name.to_owned(),
            problem: format!("it does not compile: {}", chain(&error)),
            hint: "correct the template, or choose a built-in one",
        })?;
        Ok(Self { name: name.to_owned(), source: Some(source), special, environment })
    }

    /// No template: plain text.
    #[must_use]
    pub fn none(special: SpecialTokens) -> Self {
        Self { name: "none".to_owned(), source: None, special, environment: environment() }
    }

    /// Its name: a built-in one, "none", or the model's file that holds it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its Jinja text; `None` for plain text.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The special tokens that it writes.
    #[must_use]
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The text up to where the assistant's answer begins. An empty `system` is no system turn.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if the template refuses the conversation.
    pub fn prompt(&self, system: &str, user: &str) -> Result<String, DataError> {
        self.render(&one_turn(system, user, None), true)
    }

    /// The text of the whole conversation. Plain text ends with the answer: its end token has no text of its own.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if the template refuses the conversation.
    pub fn conversation(&self, system: &str, user: &str, assistant: &str) -> Result<String, DataError> {
        self.render(&one_turn(system, user, Some(assistant)), false)
    }

    /// The text of these turns; with `generation` up to where the assistant's next turn begins.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if the template refuses the conversation; plain text has no form for several turns.
    pub fn render(&self, turns: &[Turn<'_>], generation: bool) -> Result<String, DataError> {
        if self.source.is_none() {
            return plain(turns).ok_or_else(|| DataError::ChatTemplate {
                name: self.name.clone(),
                problem: "plain text has no form for a conversation of several turns".to_owned(),
                hint: "choose chat = \"chatml\", \"llama-2\" or \"llama-3\", or give each turn a row of its own",
            });
        }
        let messages: Vec<Value> =
            turns.iter().map(|turn| context! { role => turn.role.name(), content => turn.content }).collect();
        let text = |token: &Option<String>| token.clone().unwrap_or_default();
        let variables = context! {
            messages,
            add_generation_prompt => generation,
            bos_token => text(&self.special.bos),
            eos_token => text(&self.special.eos),
            pad_token => text(&self.special.pad),
            unk_token => text(&self.special.unk),
            tools => Value::from(()),
            documents => Value::from(()),
        };
        let rendered = self.environment.get_template("chat").and_then(|template| template.render(variables));
        rendered.map_err(|error| DataError::ChatTemplate {
            name: self.name.clone(),
            problem: chain(&error),
            hint: "if it refuses a system turn, set system = \"\"; otherwise choose a built-in template",
        })
    }
}

/// A question with its answer, if it has one. An empty `system` is no system turn.
fn one_turn<'a>(system: &'a str, user: &'a str, assistant: Option<&'a str>) -> Vec<Turn<'a>> {
    let turn = |role, content| Turn { role, content };
    let system = (!system.is_empty()).then(|| turn(Role::System, system));
    let answer = assistant.map(|content| turn(Role::Assistant, content));
    system.into_iter().chain([turn(Role::User, user)]).chain(answer).collect()
}

/// Plain text: the system prompt, the question, a line break, the answer; `None` for more than that.
fn plain(turns: &[Turn<'_>]) -> Option<String> {
    let (system, rest) = match turns {
        [Turn { role: Role::System, content }, rest @ ..] => (format!("{content}\n\n"), rest),
        rest => (String::new(), rest),
    };
    match rest {
        [user] => Some(format!("{system}{}\n", user.content)),
        [user, answer] => Some(format!("{system}{}\n{}", user.content, answer.content)),
        _ => None,
    }
}

/// A template is a string, or a list of named ones of which "default" counts.
fn template_in(value: &serde_json::Value) -> Option<String> {
    let named = |entries: &Vec<serde_json::Value>| {
        let default = entries.iter().find(|entry| entry.get("name").and_then(|name| name.as_str()) == Some("default"));
        default?.get("template")?.as_str().map(str::to_owned)
    };
    value.as_str().map(str::to_owned).or_else(|| named(value.as_array()?))
}

/// Jinja set up as chat templates expect it.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Only delimiters of one's own can make this fail, and there are none; a test holds the trimming fast.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.unwrap_or_default());
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| fixed_date(&format));
    environment
}

/// The day that Llama 3.1's template falls back on where there is no clock, 26 Jul 2024. A clock would give one question
/// other tokens every day, and nothing would be reproducible.
fn fixed_date(format: &str) -> String {
    let parts = [
        ("%d", "26"),
        ("%-d", "26"),
        ("%B", "July"),
        ("%b", "Jul"),
        ("%m", "07"),
        ("%Y", "2024"),
        ("%y", "24"),
        ("%A", "Friday"),
        ("%a", "Fri"),
        ("%H", "00"),
        ("%M", "00"),
        ("%S", "00"),
    ];
    parts.iter().fold(format.to_owned(), |text, (directive, value)| text.replace(directive, value))
}

/// `{% generation %}` marks the assistant's text for trainers that need such marks; it renders nothing, and Jinja itself
/// does not know it, so an always-true condition stands in for it.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open..].find("%}") else { break };
        let inside = &rest[open + 2..open + length];
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&rest[..open + 2]);
        match word {
            "generation" => out.push_str(&inside.replace("generation", "if true")),
            "endgeneration" => out.push_str(&inside.replace("endgeneration", "endif")),
            _ => out.push_str(inside),
        }
        out.push_str("%}");
        rest = &rest[open + length + 2..];
    }
    out + rest
}

/// An error with its causes: the outermost often says only where.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
