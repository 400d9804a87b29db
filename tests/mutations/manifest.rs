//! The same through the text of a manifest: what a person may rewrite without a result becoming unreachable, and each
//! parameter of each stage set to another value, as far as the kind's checks let it stand alone.
use crate::by_hand::{all_cached, publish};
use crate::values::{leaves, value};
use anneal_engine::cause::{Forecast, Outlook, Reason, Wish, forecast};
use anneal_engine::graph::Pipeline;
use anneal_engine::host::Host;
use anneal_engine::manifest::{LoadOptions, parse};
use anneal_engine::store::Store;
use anneal_engine::{Param, Shape};
use serde_json::Value;
use std::path::Path;

/// A folder with the tiny fixture, whose every stage has a result.
struct Tiny {
    dir: tempfile::TempDir,
    text: String,
}

impl Tiny {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny");
        for file in ["train.json", "eval.json"] {
            std::fs::copy(fixtures.join(file), dir.path().join(file)).unwrap();
        }
        std::fs::write(dir.path().join("read.txt"), "read").unwrap();
        let more = "\n[stages.own]\nkind = \"command\"\ninputs = { scores = \"score\" }\ncommand = [\"cp\", \"read.txt\", \"{out}\"]\nfiles = [\"read.txt\"]\nenv = { LANG = \"C\" }\n";
        let text = std::fs::read_to_string(fixtures.join("tiny.toml")).unwrap() + more;
        let tiny = Self { dir, text };
        publish(&tiny.load(&tiny.text, &[]).unwrap(), &tiny.store(), &|_| true);
        tiny
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("outputs")).unwrap()
    }

    fn load(&self, text: &str, sets: &[String]) -> Option<Pipeline> {
        let cwd = self.dir.path().to_owned();
        let options = LoadOptions { sets: sets.to_vec(), cwd: cwd.clone(), root: None, any_size: false };
        parse(&anneal_stages::registry(), text.to_owned(), Path::new("tiny.toml"), &cwd, &options).ok()
    }

    fn forecast(&self, pipeline: &Pipeline) -> Forecast {
        forecast(pipeline, &self.store(), &Host::default(), &Wish::all(pipeline))
    }

    fn unchanged(&self, text: &str, sets: &[&str]) {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let pipeline = self.load(text, &sets).unwrap_or_else(|| panic!("{sets:?} is no manifest:\n{text}"));
        assert!(all_cached(&self.forecast(&pipeline)), "{sets:?} changes a key:\n{text}");
    }
}

#[test]
fn words_that_change_no_result_change_no_key() {
    let tiny = Tiny::new();
    let text = &tiny.text;
    tiny.unchanged(text, &[]);
    tiny.unchanged(&text.replace('\n', " # a comment\n"), &[]);
    tiny.unchanged(&text.replace('\n', "\n\n").replace(" = ", "   =\t"), &[]);
    // Keys in the opposite order within every table, and tables in the opposite order.
    let mut tables: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match tables.last_mut() {
            Some(table) if !line.starts_with('[') => {
                let at = table.find('\n').unwrap() + 1;
                table.insert_str(at, &format!("{line}\n"));
            }
            _ => tables.push(format!("{line}\n")),
        }
    }
    tables.reverse();
    tiny.unchanged(&tables.concat(), &[]);
    for node in tiny.load(text, &[]).unwrap().stages {
        for option in ["timeout=1000", "memory_limit=\"40 GiB\"", "threads=2", "gpus=1", "keep=metrics"] {
            tiny.unchanged(text, &[&format!("{}.{option}", node.name)]);
        }
    }
}

#[test]
fn each_parameter_set_in_a_manifest_is_the_first_cause() {
    let tiny = Tiny::new();
    let before = tiny.load(&tiny.text, &[]).unwrap();
    let mut refused = Vec::new();
    let mut seen = 0;
    for node in &before.stages {
        for leaf in leaves(&node.kind.params()) {
            let path = format!("params.{}", leaf.path.join("."));
            let Some(shape) = shape(&node.kind.params(), &leaf.path).filter(|shape| *shape != Shape::Path) else {
                continue;
            };
            let params = node.resolved();
            let now = leaf.path.iter().try_fold(&*params, |at, key| at.get(key));
            let other = [1, 0].map(|which| value(&shape, which)).into_iter().find(|other| Some(other) != now).unwrap();
            let set = format!("{}.{}={other}", node.name, leaf.path.join("."));
            let Some(after) = tiny.load(&tiny.text, std::slice::from_ref(&set)) else {
                refused.push(format!("{}.{}", node.name, leaf.path.join(".")));
                continue;
            };
            let forecast = tiny.forecast(&after);
            let id = after.find(&node.name).unwrap();
            let Some(Outlook::Run(cause)) = &forecast.outlooks[id.index()] else {
                panic!("{set}: {:?}", forecast.outlooks[id.index()]);
            };
            let Reason::Changed(change) = &cause.reason else { panic!("{set}: {cause:?}") };
            assert!(change.path == path || change.path.starts_with(&format!("{path}.")), "{set}: {cause:?}");
            assert!(cause.also.is_empty() && cause.via.is_empty(), "{set}: {cause:?}");
            let running = forecast.outlooks.iter().filter(|outlook| matches!(outlook, Some(Outlook::Run(_)))).count();
            assert_eq!(running, 1, "{set}");
            for outlook in forecast.outlooks.iter().flatten() {
                if let Outlook::After(_, after) = outlook {
                    assert_eq!((after.via.last(), &after.reason), (Some(&id), &cause.reason), "{set}");
                }
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} were seen");
    // Those that make sense only together with others; each is covered alone, without the checks, in `main`.
    insta::assert_snapshot!(refused.join("\n"), @r"
    data.init.vocab_size
    data.init.hidden_size
    data.init.intermediate_size
    data.init.num_hidden_layers
    data.init.num_attention_heads
    data.init.num_key_value_heads
    data.init.max_position_embeddings
    data.init.rope_theta
    data.init.tie_word_embeddings
    data.init.initializer_range
    data.init.template
    data.init.response
    base.dataset.format
    base.init.hidden_size
    lora.target_modules
    lora.full_layers
    fft.full_layers
    answers.temperature
    answers.top_k
    answers.top_p
    answers.seed
    own.files
    ");
}

/// The shape of a parameter of a parameter; of a map's entry that of its values.
fn shape(params: &[Param], path: &[String]) -> Option<Shape> {
    let (first, rest) = path.split_first()?;
    match (&params.iter().find(|param| param.name == first)?.shape, rest.is_empty()) {
        (Shape::Table(inner), false) => shape(inner, rest),
        (Shape::Map(item), false) => Some(Shape::clone(item)),
        (shape, _) => Some(shape.clone()),
    }
}

#[test]
fn an_experiment_s_seed_begins_at_its_first_stage() {
    let tiny = Tiny::new();
    let after = tiny.load(&tiny.text, &["experiment.seed=8".to_owned()]).unwrap();
    let forecast = tiny.forecast(&after);
    for id in after.ids() {
        let cause = forecast.outlooks[id.index()].as_ref().and_then(Outlook::cause).unwrap();
        let first = cause.via.last().copied().unwrap_or(id);
        assert!(after.node(first).inputs.is_empty(), "{cause:?}");
        assert!(matches!(&cause.reason, Reason::Changed(change) if change.path == "seed"), "{cause:?}");
    }
    assert_eq!(Value::from(after.seed), 8);
}
