//! Tests of the tokens artifact's files: round trips, equal bytes, and damage of every kind.

use proptest::prelude::*;

use super::*;
use crate::data::number::Number;

/// A set of one example for each (prompt length, response length).
fn set(shapes: &[(usize, usize)]) -> TokenSet {
    let mut set = TokenSet { cu_seqlens: vec![0], ..TokenSet::default() };
    for (sid, &(prompt, response)) in shapes.iter().enumerate() {
        let ids: Vec<u32> = (0..prompt + response + 1).map(|at| (sid * 1000 + at) as u32).collect();
        let answer = match sid % 3 {
            0 => Answer::Spans(vec!["a\n".to_owned(), String::new()]),
            1 => Answer::Number(Number::parse("22.12").unwrap()),
            _ => Answer::Text("4".to_owned()),
        };
        let example = Example {
            sid,
            uid: format!("uid-{sid}"),
            context: sid / 2,
            answer,
            answer_type: Some(AnswerType::MultiSpan),
            answer_from: Some(AnswerFrom::TableText),
            scale: "million".to_owned(),
            question: "how \"much\"?".to_owned(),
            prompt: "p".repeat(prompt),
            dropped: sid % 2,
            turns: 1,
        };
        set.push(&ids, prompt, prompt..prompt + response, example);
    }
    set
}

#[test]
fn reads_what_it_wrote_and_knows_an_absent_split() {
    let dir = tempfile::tempdir().unwrap();
    let set = set(&[(3, 2), (1, 1), (5, 4), (2, 2)]);
    set.write(dir.path(), Split::Train).unwrap();
    assert_eq!(TokenSet::read(dir.path(), Split::Train).unwrap().unwrap(), set);
    assert_eq!(TokenSet::read(dir.path(), Split::Eval).unwrap(), None);
    assert_eq!(set.prompt(1), [1000]);
    assert_eq!(set.example(1), ([1000, 1001, 1002].as_slice(), [0, 1, 0].as_slice()));
}

#[test]
fn earlier_turns_are_labelled_only_where_there_are_several() {
    let dir = tempfile::tempdir().unwrap();
    let write = |turns: usize| {
        let mut example = set(&[(3, 2)]).examples.remove(0);
        (example.answer_type, example.answer_from, example.turns) = (None, None, turns);
        let mut set = TokenSet::default();
        set.push_turns(&[1, 2, 3, 4, 5, 6], 4, &[1..3, 4..6], example);
        set.write(dir.path(), Split::Train).unwrap();
        (TokenSet::read(dir.path(), Split::Train).map_err(|error| error.to_string()), set)
    };
    let (read, set) = write(2);
    assert_eq!(read.unwrap().unwrap(), set);
    assert_eq!(set.labelled, [0, 1, 1, 0, 1, 1]);
    let line = std::fs::read_to_string(dir.path().join("train.examples.jsonl")).unwrap();
    assert!(line.contains("\"turns\":2") && !line.contains("answer_type"), "{line}");
    assert!(write(1).0.unwrap_err().contains("labels in its prompt"));
    let line = std::fs::read_to_string(dir.path().join("train.examples.jsonl")).unwrap();
    assert!(!line.contains("turns"), "{line}");
}

#[test]
fn equal_sets_give_equal_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&one, &two] {
        set(&[(3, 2), (1, 1)]).write(dir.path(), Split::Eval).unwrap();
    }
    for name in ["eval.tokens.safetensors", "eval.examples.jsonl"] {
        assert_eq!(std::fs::read(one.path().join(name)).unwrap(), std::fs::read(two.path().join(name)).unwrap());
    }
}

/// The message for a set that was spoilt before it was written.
fn check(spoil: impl Fn(&mut TokenSet)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut set = set(&[(3, 2), (1, 1)]);
    spoil(&mut set);
    set.write(dir.path(), Split::Train).unwrap();
    TokenSet::read(dir.path(), Split::Train).unwrap_err().to_string()
}

#[test]
fn contradictions_are_errors() {
    for (text, part) in [
        (check(|set| set.labelled[0] = 1), "labels in its prompt"),
        (check(|set| set.labelled[4] = 2), "other than 0 and 1"),
        (check(|set| set.labelled.fill(0)), "example 0 (uid-0) has no labelled token"),
        (check(|set| set.cu_seqlens[1] = 100), "cumulative lengths go down"),
        (check(|set| set.cu_seqlens[2] = 8), "not from 0 to 9"),
        (check(|set| set.prompt_lengths[0] = 6), "prompt of 6 in 6 ids"),
        (check(|set| set.prompt_lengths[1] = 0), "prompt of 0"),
        (check(|set| set.examples[1].sid = 7), "has sid 7"),
        (check(|set| set.examples.truncate(1)), "1 examples, but 3 cumulative lengths"),
        (check(|set| set.ids.truncate(8)), "8 ids, but 9 label flags"),
    ] {
        assert!(text.contains(part) && text.contains("train.tokens.safetensors"), "{text}");
    }
}

#[test]
fn truncated_files_are_errors_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    set(&[(3, 2), (1, 1)]).write(dir.path(), Split::Train).unwrap();
    for name in ["train.tokens.safetensors", "train.examples.jsonl"] {
        let path = dir.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        // Without its last line break a list of examples is still whole.
        let longest = whole.len() - usize::from(name.ends_with("jsonl")) - 1;
        for length in 0..=longest {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(TokenSet::read(dir.path(), Split::Train).is_err(), "{name} cut to {length}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(TokenSet::read(dir.path(), Split::Train).is_err(), "{name} removed");
        std::fs::write(&path, &whole).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_set_round_trips(shapes in prop::collection::vec((1_usize..50, 1_usize..20), 0..12)) {
        let dir = tempfile::tempdir().unwrap();
        let set = set(&shapes);
        set.write(dir.path(), Split::Train).unwrap();
        prop_assert_eq!(TokenSet::read(dir.path(), Split::Train).unwrap().unwrap(), set);
    }

    #[test]
    fn no_byte_changed_in_a_file_makes_reading_panic(at in 0_usize..2000, byte: u8) {
        let dir = tempfile::tempdir().unwrap();
        set(&[(3, 2), (1, 1)]).write(dir.path(), Split::Train).unwrap();
        for name in ["train.tokens.safetensors", "train.examples.jsonl"] {
            let path = dir.path().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(Some(set)) = TokenSet::read(dir.path(), Split::Train) {
                for i in 0..set.len() {
                    let _ = (set.example(i), set.prompt(i));
                }
            }
        }
    }
}
