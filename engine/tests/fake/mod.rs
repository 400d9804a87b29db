//! A stage kind for tests, pipelines of it, and a walker that checks a store without the engine's code.
use anneal_engine::event::{Event, Stamped, Step};
use anneal_engine::graph::{Header, Node, Pipeline, StageId};
use anneal_engine::host::Host;
use anneal_engine::registry::Registry;
use anneal_engine::run::{Options, RunSummary, run};
use anneal_engine::stage::Problem;
use anneal_engine::stop::Stop;
use anneal_engine::worker::WorkerCommand;
use anneal_engine::{Failure, FailureClass, Param, Port, Shape, Source, Stage, StageContext};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Writes its inputs' texts and its own to `result.txt`, and its name to a log outside; `act` says what else it does.
pub(crate) struct Fake {
    kind: &'static str,
    isolated: bool,
}

const PORTS: &[Port] = &[
    Port { name: "a", accepts: &["text"], required: false, doc: "" },
    Port { name: "b", accepts: &["text"], required: false, doc: "" },
    Port { name: "c", accepts: &["text"], required: false, doc: "" },
];

impl Stage for Fake {
    fn kind(&self) -> &'static str {
        self.kind
    }
    fn summary(&self) -> &'static str {
        "for tests"
    }
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        let param = |name, shape, default| Param { name, shape, default, unit: "", doc: String::new(), memory: "" };
        vec![
            param("text", Shape::Text, Some(json!(""))),
            param("act", Shape::Text, Some(json!(""))),
            param("log", Shape::Path, Some(Value::Null)),
            param("file", Shape::Path, Some(Value::Null)),
        ]
    }
    fn inputs(&self) -> &'static [Port] {
        PORTS
    }
    fn output(&self, _: &Value) -> &'static str {
        "text"
    }
    fn isolated(&self) -> bool {
        self.isolated
    }
    fn check(&self, _: &Value, _: &[&str]) -> Vec<Problem> {
        Vec::new()
    }
    fn sources(&self, params: &Value) -> Result<Vec<Source>, Vec<Problem>> {
        let file = params["file"].as_str().map(PathBuf::from);
        Ok(file.map(|path| Source { name: "file".to_owned(), path, stamp: None }).into_iter().collect())
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let io = |e: std::io::Error| Failure::io("write", context.out, &e);
        let text = context.params["text"].as_str().unwrap_or_default();
        if let Some(log) = context.params["log"].as_str() {
            let mut log = std::fs::OpenOptions::new().append(true).create(true).open(log).map_err(io)?;
            log.write_all(format!("{}:{text}\n", context.name).as_bytes()).map_err(io)?;
        }
        let act = context.params["act"].as_str().unwrap_or_default();
        let (act, number) = act.split_once(':').unwrap_or((act, "0"));
        let number: u64 = number.parse().unwrap_or_default();
        match act {
            "fail" => return Err(Failure::user("asked to fail").hint("do not ask")),
            "nan" => return Err(Failure::new(FailureClass::Nan, "loss is NaN at step 3")),
            "panic" => panic!("asked to panic"),
            "abort" => std::process::abort(),
            "kill" => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
            // More than any address space has.
            "alloc" => drop(std::hint::black_box(Vec::<u8>::with_capacity(isize::MAX as usize))),
            "print" => std::io::stdout().write_all(b"not an event\n").map_err(io)?,
            "sleep" => std::thread::sleep(Duration::from_millis(number)),
            "spike" => drop(std::hint::black_box(vec![1u8; (number as usize) << 20])),
            "steps" => steps(context, number)?,
            _ => {}
        }
        context.metric("em", text.len() as f64);
        // `same`: the same bytes whatever the text.
        let mut result = if act == "same" { String::new() } else { text.to_owned() };
        for input in context.inputs.values() {
            result.push_str(&std::fs::read_to_string(input.dir.join("result.txt")).map_err(io)?);
        }
        for (source, digest) in context.sources {
            context.reference("linked.bin", source, digest);
        }
        std::fs::create_dir(context.out.join("folder")).map_err(io)?;
        std::fs::write(context.out.join("folder/more.bin"), [0; 10_000]).map_err(io)?;
        std::fs::write(context.out.join("result.txt"), result).map_err(io)
    }
}

/// Counts to `total`, a checkpoint a step, ten milliseconds each.
fn steps(context: &StageContext<'_>, total: u64) -> Result<(), Failure> {
    let path = context.checkpoints.join("step");
    let done = std::fs::read_to_string(&path).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    if done > 0 {
        (context.emit)(Event::Checkpoint { step: done, resumed: true });
    }
    for step in done + 1..=total {
        std::thread::sleep(Duration::from_millis(10));
        std::fs::write(&path, step.to_string()).map_err(|e| Failure::io("write", &path, &e))?;
        (context.emit)(Event::Step(Step {
            step,
            total,
            loss: 1.0 / step as f64,
            learning_rate: 0.1,
            grad_norm: 1.0,
            tokens: 10,
            labelled_tokens: 5,
            seconds: 0.01,
            tokens_per_second: 1000.0,
            peak_mib: Some(1.0),
        }));
        if (context.stop)() {
            return Err(Failure::new(FailureClass::Interrupted, format!("stopped at step {step}")));
        }
    }
    Ok(())
}

/// `fake` runs in the driver, `fake-worker` in a process of its own.
pub(crate) fn registry() -> Registry {
    Registry::new(vec![
        Box::new(Fake { kind: "fake", isolated: false }),
        Box::new(Fake { kind: "fake-worker", isolated: true }),
    ])
}

/// A stage: name, kind, text, act, inputs.
pub(crate) type Spec<'a> = (&'a str, &'a str, &'a str, &'a str, &'a [&'a str]);

/// A pipeline of fake stages whose executions are logged in `dir/log`.
pub(crate) fn pipeline(dir: &Path, specs: &[Spec<'_>]) -> Pipeline {
    let registry = registry();
    let node = |(name, kind, text, act, inputs): &Spec<'_>| {
        let kind = registry.get(kind).unwrap();
        // `file:NAME` as an act reads a file of the folder.
        let file = act.strip_prefix("file:").map(|file| dir.join(file));
        let params = json!({"text": text, "act": act, "log": dir.join("log"), "file": file});
        let from = |name: &&str| StageId(specs.iter().position(|spec| spec.0 == *name).unwrap() as u32);
        let sources = kind.sources(&params).unwrap().into();
        let inputs = inputs.iter().zip(PORTS).map(|(name, port)| (port.name.to_owned(), from(name))).collect();
        Node { sources, seed: 1, ..Node::plain((*name).to_owned(), Arc::clone(kind), params, inputs) }
    };
    let header = Header {
        experiment: "test".to_owned(),
        seed: 1,
        numerics: "cpu-f32".to_owned(),
        manifest: "test.toml".into(),
        root: dir.to_owned(),
        text: "# a test\n".to_owned(),
        overrides: vec!["a.text=1".to_owned()],
        ..Header::default()
    };
    Pipeline::new(header, specs.iter().map(node).collect()).unwrap()
}

/// Options for a folder: its `outputs`, workers from this program.
pub(crate) fn options(dir: &Path) -> Options {
    Options {
        outputs: dir.join("outputs"),
        jobs: None,
        only: Vec::new(),
        cells: Vec::new(),
        force: Vec::new(),
        retry: Vec::new(),
        host: Host::default(),
        slots: dir.join("slots"),
        keep_going: true,
        tell_each_up_to: usize::MAX,
        record: false,
        worker: WorkerCommand { program: std::env::current_exe().unwrap(), args: vec!["worker".into()] },
        stop: Stop::default(),
    }
}

/// Runs, and returns the events too.
pub(crate) fn run_all(pipeline: &Pipeline, options: &Options) -> (RunSummary, Vec<Stamped>) {
    let events = Mutex::new(Vec::new());
    let summary = run(pipeline, options, &|event| events.lock().unwrap().push(event.clone())).unwrap();
    (summary, events.into_inner().unwrap())
}

/// The lines of the log of executions, sorted.
pub(crate) fn log(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Checks everything visible in a store, with no code of the engine: every record has its artifact, every artifact has
/// exactly the bytes that its name promises. Returns the number of records.
pub(crate) fn walk(outputs: &Path) -> usize {
    let base = outputs.join("objects-v1");
    let entries = |name: &str| -> Vec<PathBuf> {
        std::fs::read_dir(base.join(name)).map_or(Vec::new(), |list| list.map(|e| e.unwrap().path()).collect())
    };
    for tree in entries("trees") {
        let mut files = Vec::new();
        list(&tree, &tree, &mut files);
        files.sort();
        let mut hasher = blake3::Hasher::new_derive_key("anneal 2026 artifact tree v1");
        hasher.update(&(files.len() as u64).to_le_bytes());
        for (name, bytes) in files {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(blake3::hash(&bytes).as_bytes());
        }
        assert_eq!(tree.file_name().unwrap().to_str().unwrap(), hasher.finalize().to_hex().as_str(), "half a tree");
    }
    let records = entries("records");
    for path in &records {
        let record: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).expect("half a record");
        assert!(path.ends_with(format!("{}.json", record["key"].as_str().unwrap())));
        let tree = base.join("trees").join(record["output"].as_str().unwrap());
        for file in record["files"].as_array().unwrap() {
            let bytes = std::fs::read(tree.join(file["name"].as_str().unwrap())).expect("a record without its files");
            assert_eq!(bytes.len() as u64, file["size"].as_u64().unwrap());
            assert_eq!(blake3::hash(&bytes).to_hex().as_str(), file["digest"].as_str().unwrap());
        }
    }
    records.len()
}

fn list(root: &Path, folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.push((name, std::fs::read(&path).unwrap()));
        }
    }
}
