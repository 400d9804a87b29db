//! Instruction data as JSON lines: `{instruction, input, output}` or `{messages: [{role, content}, ...]}` a line, each
//! with an optional `uid`. Read into turns of one conversation a row. Unaware of templates, tokens and scores.
//!
//! What a row means is never guessed at: turns alternate, the last is the assistant's, and no answer is empty. Other
//! keys of a row are passed over.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use super::chat::{Role, Turn};
use super::error::{DataError, read_text};

const SHAPE: &str = "expected one JSON object a line: {\"instruction\", \"input\", \"output\"} or \
                     {\"messages\": [{\"role\", \"content\"}, ...]}";

/// One row: a conversation whose assistant turns are learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Unique in the file; `line-N` where the row has none.
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
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = at + 1;
        let wrong = |problem: String| DataError::Row { path: path.to_owned(), line: number, problem };
        // serde would take a list for a row, its items for the keys in order.
        if !line.trim_start().starts_with('{') {
            return Err(wrong(format!("this line is no JSON object; {SHAPE}")));
        }
        let row: Row = serde_json::from_str(line).map_err(|error| DataError::json(path, number, &error, SHAPE))?;
        let uid = match &row.uid {
            None => format!("line-{number}"),
            Some(Uid::Text(uid)) if uid.is_empty() => {
                return Err(wrong("`uid` is empty; give it or leave it out".into()));
            }
            Some(Uid::Text(uid)) => uid.clone(),
            Some(Uid::Number(uid)) => uid.to_string(),
        };
        if !seen.insert(uid.clone()) {
            return Err(DataError::DuplicateUid { path: path.to_owned(), line: number, uid });
        }
        let (system, pairs) = conversation(row).map_err(wrong)?;
        if pairs.iter().any(|(_, answer)| answer.trim().is_empty()) {
            return Err(DataError::NoAnswer { path: path.to_owned(), line: number, uid });
        }
        rows.push(Conversation { uid, system, pairs });
    }
    if rows.is_empty() {
        return Err(DataError::EmptyDataset { path: path.to_owned() });
    }
    Ok(rows)
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
