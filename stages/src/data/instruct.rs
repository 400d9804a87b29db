//! Instruction data, a JSON object a line or one JSON list of them: `{instruction, input, output}`, `{messages: [{role,
//! content}, ...]}`, or a prepared sample with its whole prompt: `{id, user_prompt, resp}` as TAT-LLM has them,
//! `{prompt, completion}` as TRL does. Read into turns of one conversation a row. Unaware of templates, tokens and scores.
//!
//! What a row means is never guessed at: turns alternate, the last is the assistant's, and no answer is empty. Other
//! keys of a row are passed over.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::chat::{Role, Turn};
use super::error::{DataError, read_text};

const SHAPE: &str = "expected one JSON object a line: {\"instruction\", \"input\", \"output\"} or \
                     {\"messages\": [{\"role\", \"content\"}, ...]}";

/// One row: a conversation whose assistant turns are learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Unique in the file; `line-N` where the row has none, `row-N` in a list.
    pub uid: String,
    /// The row's own system prompt.
    pub system: Option<String>,
    /// (user, assistant), at least one pair, exactly as in the file.
    pub pairs: Vec<(String, String)>,
}

impl Conversation {
    /// All turns in order; `system` stands in where the row has no system prompt of its own, "" for none.
    #[must_use]
    pub fn turns<'a>(&'a self, system: &'a str) -> Vec<Turn<'a>> {
        let system = self.system.as_deref().unwrap_or(system);
        let first = (!system.is_empty()).then_some(Turn { role: Role::System, content: system });
        let pair = |(user, assistant): &'a (String, String)| {
            [Turn { role: Role::User, content: user }, Turn { role: Role::Assistant, content: assistant }]
        };
        first.into_iter().chain(self.pairs.iter().flat_map(pair)).collect()
    }

    /// The last question and its answer.
    #[must_use]
    pub fn last(&self) -> (&str, &str) {
        self.pairs.last().map_or(("", ""), |(user, assistant)| (user, assistant))
    }
}

// What is written in the file.
#[derive(Deserialize)]
struct Row {
    uid: Option<Uid>,
    instruction: Option<String>,
    input: Option<String>,
    output: Option<String>,
    messages: Option<Vec<Message>>,
}

// A prepared sample's keys. Read of rows that have no others: in those they mean nothing and may hold anything.
#[derive(Deserialize)]
struct Sample {
    id: Option<Value>,
    user_prompt: Option<Value>,
    resp: Option<Value>,
    prompt: Option<Value>,
    completion: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`uid` is neither a text nor an integer")]
enum Uid {
    Text(String),
    Number(u64),
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// Reads a file of rows.
///
/// # Errors
/// [`DataError::Io`], and those of [`parse`].
pub fn read(path: &Path) -> Result<Vec<Conversation>, DataError> {
    parse(&read_text(path)?, path)
}

/// Reads rows from memory; `path` only names them in errors. Empty lines are passed over.
///
/// # Errors
/// [`DataError::Json`], [`DataError::Row`], [`DataError::NoAnswer`], [`DataError::DuplicateUid`], each with the line;
/// [`DataError::EmptyDataset`].
pub fn parse(text: &str, path: &Path) -> Result<Vec<Conversation>, DataError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut seen = HashSet::new();
    let mut rows = Vec::new();
    for Piece { text, line, name } in pieces(text, path)? {
        let wrong = |problem: String| DataError::Row { path: path.to_owned(), line, problem };
        // serde would take a list for a row, its items for the keys in order.
        if !text.trim_start().starts_with('{') {
            return Err(wrong(format!("this {} is no JSON object; {SHAPE}", name.split('-').next().unwrap_or("row"))));
        }
        let malformed = |error: serde_json::Error| DataError::json(path, line, &error, SHAPE);
        let row: Row = serde_json::from_str(text).map_err(malformed)?;
        let sample = if row.instruction.is_none() && row.messages.is_none() {
            let sample: Sample = serde_json::from_str(text).map_err(malformed)?;
            Some(sample).filter(|sample| sample.user_prompt.is_some() || sample.prompt.is_some())
        } else {
            None
        };
        let uid = uid_of(&row, sample.as_ref()).map_err(wrong)?.unwrap_or(name);
        if !seen.insert(uid.clone()) {
            return Err(DataError::DuplicateUid { path: path.to_owned(), line, uid });
        }
        let parts = match sample {
            Some(sample) => sample.pair().map(|pair| (None, vec![pair])),
            None => conversation(row),
        };
        let (system, pairs) = parts.map_err(wrong)?;
        if pairs.iter().any(|(_, answer)| answer.trim().is_empty()) {
            return Err(DataError::NoAnswer { path: path.to_owned(), line, uid });
        }
        rows.push(Conversation { uid, system, pairs });
    }
    if rows.is_empty() {
        return Err(DataError::EmptyDataset { path: path.to_owned() });
    }
    Ok(rows)
}

/// A row's text, the line it begins on, and what to call it where it has no uid.
struct Piece<'a> {
    text: &'a str,
    line: usize,
    name: String,
}

/// The rows of a text: its lines, or the items of the one list that it is.
fn pieces<'a>(text: &'a str, path: &Path) -> Result<Vec<Piece<'a>>, DataError> {
    if !text.trim_start().starts_with('[') {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        return Ok(lines.map(|(at, text)| Piece { text, line: at + 1, name: format!("line-{}", at + 1) }).collect());
    }
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| DataError::json(path, 1, &error, SHAPE))?;
    let (mut line, mut counted) = (1, 0);
    let piece = |(at, item): (usize, &&'a RawValue)| {
        // Items are parts of the text, one after the other.
        let begin = (item.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        line += text.get(counted..begin).unwrap_or("").bytes().filter(|byte| *byte == b'\n').count();
        counted = begin;
        Piece { text: item.get(), line, name: format!("row-{}", at + 1) }
    };
    Ok(items.iter().enumerate().map(piece).collect())
}

/// The uid that a row gives itself; of a prepared sample its `id` counts too.
fn uid_of(row: &Row, sample: Option<&Sample>) -> Result<Option<String>, String> {
    match &row.uid {
        Some(Uid::Text(uid)) if uid.is_empty() => Err("`uid` is empty; give it or leave it out".into()),
        Some(Uid::Text(uid)) => Ok(Some(uid.clone())),
        Some(Uid::Number(uid)) => Ok(Some(uid.to_string())),
        None => Ok(match sample.and_then(|sample| sample.id.as_ref()) {
            Some(Value::String(id)) if !id.is_empty() => Some(id.clone()),
            Some(Value::Number(id)) => Some(id.to_string()),
            _ => None,
        }),
    }
}

impl Sample {
    /// Prompt and answer; a missing answer becomes an empty one.
    fn pair(self) -> Result<(String, String), String> {
        let text = |name: &str, value: Option<Value>| match value {
            Some(Value::String(text)) => Ok(text),
            None | Some(Value::Null) => Ok(String::new()),
            Some(other) => Err(format!("`{name}` of a prepared sample is a text, not {other}")),
        };
        let (name, prompt, answer) = match self.user_prompt {
            Some(prompt) => ("user_prompt", Some(prompt), text("resp", self.resp)?),
            None => ("prompt", self.prompt, text("completion", self.completion)?),
        };
        let prompt = text(name, prompt)?;
        if prompt.trim().is_empty() {
            return Err(format!("`{name}` is empty, so nothing is asked"));
        }
        Ok((prompt, answer))
    }
}

type Parts = (Option<String>, Vec<(String, String)>);

/// System prompt and pairs of a row, or what is wrong with it. A missing answer becomes an empty one.
fn conversation(row: Row) -> Result<Parts, String> {
    let flat = row.instruction.is_some() || row.input.is_some() || row.output.is_some();
    let Some(messages) = row.messages else {
        let Some(instruction) = row.instruction.filter(|text| !text.trim().is_empty()) else {
            return Err(format!("the row has neither `instruction` nor `messages`; {SHAPE}"));
        };
        let user = match row.input.filter(|input| !input.is_empty()) {
            Some(input) => format!("{instruction}\n\n{input}"),
            None => instruction,
        };
        return Ok((None, vec![(user, row.output.unwrap_or_default())]));
    };
    if flat {
        return Err(
            "the row has `messages` and also `instruction`, `input` or `output`; keep one of the two".to_owned()
        );
    }
    let mut messages = messages.into_iter().peekable();
    let system = messages.next_if(|message| message.role == "system").map(|message| message.content);
    let mut pairs = Vec::new();
    while let Some(user) = messages.next() {
        // The position counts all messages, the system's too.
        let at = 2 * pairs.len() + usize::from(system.is_some()) + 1;
        expect(&user.role, "user", at)?;
        let assistant = messages.next().ok_or(
            "the last message is the user's, so there is no answer to learn; add the assistant's or remove it",
        )?;
        expect(&assistant.role, "assistant", at + 1)?;
        pairs.push((user.content, assistant.content));
    }
    if pairs.is_empty() {
        return Err("`messages` holds no answer; it needs a user's message and then an assistant's".to_owned());
    }
    Ok((system, pairs))
}

fn expect(role: &str, expected: &str, at: usize) -> Result<(), String> {
    if role == expected {
        return Ok(());
    }
    Err(format!(
        "message {at} has the role {role:?}, expected {expected:?}: after an optional first `system`, `user` and \
         `assistant` take turns"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Vec<Conversation>, String> {
        parse(text, Path::new("d.jsonl")).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_become_turns() {
        let rows = check(
            "\u{feff}{\"instruction\": \"Add.\", \"input\": \"1 2\", \"output\": \"3\", \"text\": 5}\n\n\
             {\"uid\": 7, \"instruction\": \"Say a.\", \"input\": \"\", \"output\": \" a \"}\n\
             {\"uid\": \"m\", \"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \
             \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"r\"}, {\"role\": \"user\", \"content\": \
             \"q2\"}, {\"role\": \"assistant\", \"content\": \"r2\"}]}\n",
        )
        .unwrap();
        assert_eq!(rows.iter().map(|row| row.uid.as_str()).collect::<Vec<_>>(), ["line-1", "7", "m"]);
        assert_eq!(rows[0].pairs, [("Add.\n\n1 2".to_owned(), "3".to_owned())]);
        assert_eq!(rows[1].last(), ("Say a.", " a "));
        let contents = |row: &Conversation, system| {
            row.turns(system).iter().map(|turn| turn.content.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(contents(&rows[1], "other"), ["other", "Say a.", " a "]);
        assert_eq!(contents(&rows[1], ""), ["Say a.", " a "]);
        assert_eq!(contents(&rows[2], "other"), ["S", "q", "r", "q2", "r2"]);
    }

    #[test]
    fn prepared_samples_come_as_lines_or_as_one_list() {
        let first = r#"{"id": "a-1", "user_prompt": "Say 3.\n", "resp": "3", "dataset": "tatqa"}"#;
        let second = r#"{"prompt": "Say 4.", "completion": "4"}"#;
        let lines = check(&format!("{first}\n{second}\n")).unwrap();
        let list = check(&format!(" [\n{first},\n{second}]\n")).unwrap();
        let uids = |rows: &[Conversation]| rows.iter().map(|row| row.uid.clone()).collect::<Vec<_>>();
        assert_eq!(
            (uids(&lines), uids(&list)),
            (vec!["a-1".into(), "line-2".into()], vec!["a-1".into(), "row-2".into()])
        );
        for rows in [lines, list] {
            assert_eq!((rows[0].last(), rows[1].last()), (("Say 3.\n", "3"), ("Say 4.", "4")));
        }
        for (row, part) in [
            ("[1]", "d.jsonl:3: this row is no JSON object"),
            (r#"{"user_prompt": "q", "resp": 5}"#, "d.jsonl:3: `resp` of a prepared sample is a text, not 5"),
            (r#"{"user_prompt": " ", "resp": "x"}"#, "d.jsonl:3: `user_prompt` is empty"),
            (r#"{"id": 7, "prompt": "q"}"#, "d.jsonl:3: question 7 has no answer"),
            (r#"{"id": "a-1", "prompt": "q", "completion": "r"}"#, "d.jsonl:3: uid a-1 occurs a second time"),
            (r#"{"uid": "x", "prompt": "q", "output": 5}"#, "d.jsonl:3:"),
        ] {
            let text = check(&format!("[\n{first},\n{row}]")).unwrap_err();
            assert!(text.starts_with(part), "{part} not in {text}");
        }
        // In a row of another form these keys mean nothing, as before.
        let row = check(r#"{"instruction": "Add.", "output": "3", "prompt": 5, "id": 1}"#).unwrap();
        assert_eq!((row[0].uid.as_str(), row[0].last()), ("line-1", ("Add.", "3")));
    }

    #[test]
    fn errors_name_file_and_line() {
        let turn = |role: &str| format!("{{\"role\": \"{role}\", \"content\": \"c\"}}");
        let messages = |roles: &[&str]| {
            format!("{{\"messages\": [{}]}}", roles.iter().map(|role| turn(role)).collect::<Vec<_>>().join(","))
        };
        for (row, part) in [
            ("[\"a\", \"b\"]".to_owned(), "this line is no JSON object; expected one"),
            ("{\"instruction\": \"a\"".to_owned(), "EOF while parsing"),
            ("{\"instruction\": \"a\", \"output\": 5}".to_owned(), "invalid type: integer `5`"),
            ("{\"output\": \"a\"}".to_owned(), "neither `instruction` nor `messages`"),
            ("{\"instruction\": \"a\", \"output\": \" \"}".to_owned(), "question line-2 has no answer"),
            ("{\"instruction\": \"a\"}".to_owned(), "question line-2 has no answer"),
            ("{\"uid\": \"x\", \"instruction\": \"a\", \"output\": \"b\"}".to_owned(), "uid x occurs a second time"),
            ("{\"uid\": \"\", \"instruction\": \"a\", \"output\": \"b\"}".to_owned(), "`uid` is empty"),
            ("{\"uid\": 1.5, \"instruction\": \"a\"}".to_owned(), "neither a text nor an integer"),
            ("{\"messages\": [], \"output\": \"a\"}".to_owned(), "keep one of the two"),
            (messages(&[]), "holds no answer"),
            (messages(&["system"]), "holds no answer"),
            (messages(&["user"]), "the last message is the user's"),
            (messages(&["system", "assistant"]), "message 2 has the role \"assistant\", expected \"user\""),
            (
                messages(&["user", "assistant", "user", "tool"]),
                "message 4 has the role \"tool\", expected \"assistant\"",
            ),
            (messages(&["user", "assistant", "system", "user"]), "message 3 has the role \"system\""),
        ] {
            let text =
                check(&format!("{{\"uid\": \"x\", \"instruction\": \"a\", \"output\": \"b\"}}\n{row}\n")).unwrap_err();
            assert!(text.starts_with("d.jsonl:2:") && text.contains(part), "{part} not in {text}");
        }
        assert!(check("\n \n").unwrap_err().contains("holds no question"));
    }
}
