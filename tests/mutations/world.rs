//! A small pipeline around one stage of a kind: a stage before each of its inputs, one after it, one to spare; its results
//! published by hand into a store of its own.
//!
//! Unaware of what is changed in it.
use crate::by_hand::{self, publish};
use crate::values;
use anneal_engine::cause::{Cause, Forecast, Outlook, Wish, forecast};
use anneal_engine::graph::{Header, Node, Pipeline, StageId};
use anneal_engine::host::Host;
use anneal_engine::stage::Stage;
use anneal_engine::store::Store;
use anneal_engine::{Failure, Param, Port, Source, StageContext};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Files that the stage reads.
pub(crate) const FILES: [&str; 2] = ["one", "two"];

/// What a pipeline is made from; a clone uses the same store.
#[derive(Clone)]
pub(crate) struct World {
    dir: Arc<tempfile::TempDir>,
    pub(crate) kind: Arc<dyn Stage>,
    params: Value,
    pub(crate) seed: u64,
    pub(crate) numerics: String,
    /// What the stage before a port is made of.
    pub(crate) upstream: BTreeMap<String, String>,
    /// Ports that come from another stage.
    pub(crate) wires: BTreeMap<String, String>,
}

impl World {
    /// Around a stage whose parameters all have a value.
    pub(crate) fn new(kind: &Arc<dyn Stage>) -> Self {
        let world = Self {
            dir: Arc::new(tempfile::tempdir().unwrap()),
            params: values::all(&kind.params()),
            kind: Arc::clone(kind),
            seed: 1,
            numerics: "cpu-f32".to_owned(),
            upstream: BTreeMap::new(),
            wires: BTreeMap::new(),
        };
        FILES.iter().for_each(|file| world.write(file, file));
        world
    }

    /// As [`World::new`], but for one parameter.
    pub(crate) fn with(kind: &Arc<dyn Stage>, path: &[String], value: Value) -> Self {
        Self::new(kind).with_param(path, value)
    }

    /// The same with another value of one parameter; null: left out.
    pub(crate) fn with_param(&self, path: &[String], value: Value) -> Self {
        let mut changed = self.clone();
        let mut at = &mut changed.params;
        for key in path {
            at = at.get_mut(key).unwrap();
        }
        *at = value;
        changed
    }

    /// Its inputs; one that takes any has one more.
    pub(crate) fn ports(&self) -> Vec<String> {
        let more = self.kind.open_inputs().then(|| "anything".to_owned());
        self.kind.inputs().iter().map(|port| port.name.to_owned()).chain(more).collect()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, content: &str) {
        std::fs::write(self.path(file), content).unwrap();
    }

    fn pipeline(&self) -> Pipeline {
        let command = anneal_stages::registry().get("command").cloned().unwrap();
        let simple = |name: &str, word: &str, inputs| {
            let params = json!({ "command": [word], "files": [], "env": {}, "outputs": null });
            Node { seed: 1, ..Node::plain(name.to_owned(), Arc::clone(&command), params, inputs) }
        };
        let ports = self.ports();
        let mut nodes = vec![simple("spare", "spare", Vec::new())];
        for port in &ports {
            let word = self.upstream.get(port).unwrap_or(port);
            nodes.push(simple(&format!("up-{port}"), word, Vec::new()));
        }
        let number = |name: &str| StageId(nodes.iter().position(|node| node.name == name).unwrap() as u32);
        let from = |port: &String| number(self.wires.get(port).unwrap_or(&format!("up-{port}")));
        let inputs = ports.iter().map(|port| (port.clone(), from(port))).collect();
        let sources: Vec<Source> =
            FILES.iter().map(|file| Source { name: (*file).to_owned(), path: self.path(file), stamp: None }).collect();
        let it = Node::plain("it".to_owned(), Arc::clone(&self.kind), self.params.clone(), inputs);
        nodes.push(Node { seed: self.seed, sources: sources.into(), ..it });
        let it = StageId(nodes.len() as u32 - 1);
        nodes.push(simple("after", "after", vec![("it".to_owned(), it)]));
        let header = Header {
            experiment: "test".to_owned(),
            numerics: self.numerics.clone(),
            root: self.dir.path().to_owned(),
            ..Header::default()
        };
        Pipeline::new(header, nodes).unwrap()
    }

    fn store(&self) -> Store {
        Store::open(&self.path("outputs")).unwrap()
    }

    /// Publishes a result for every stage that has none.
    pub(crate) fn publish(&self) {
        let all = |_: &str| true;
        publish(&self.pipeline(), &self.store(), &all);
    }

    /// Publishes a result of one stage.
    pub(crate) fn publish_only(&self, name: &str) {
        publish(&self.pipeline(), &self.store(), &|stage| stage == name);
    }

    fn forecast(&self) -> (Pipeline, Forecast) {
        let pipeline = self.pipeline();
        let wish = Wish::all(&pipeline);
        let forecast = forecast(&pipeline, &self.store(), &Host::default(), &wish);
        (pipeline, forecast)
    }

    pub(crate) fn id(&self, name: &str) -> StageId {
        self.pipeline().find(name).unwrap()
    }

    pub(crate) fn all_cached(&self) -> bool {
        by_hand::all_cached(&self.forecast().1)
    }

    pub(crate) fn outlook(&self, name: &str) -> Outlook {
        let (pipeline, forecast) = self.forecast();
        forecast.outlooks[pipeline.find(name).unwrap().index()].clone().unwrap()
    }

    #[track_caller]
    pub(crate) fn cause_of(&self, name: &str) -> Cause {
        let outlook = self.outlook(name);
        outlook.cause().unwrap_or_else(|| panic!("{name} does not run: {outlook:?}")).clone()
    }

    /// Why the stage itself runs, which is the first to run.
    #[track_caller]
    pub(crate) fn own_cause(&self, what: &str) -> Cause {
        let (pipeline, forecast) = self.forecast();
        for (node, outlook) in pipeline.stages.iter().zip(&forecast.outlooks) {
            let before = !["it", "after"].contains(&node.name.as_str());
            assert!(!before || *outlook == Some(Outlook::Cached), "{what}: {} runs: {outlook:?}", node.name);
        }
        let cause = self.cause_of("it");
        assert!(matches!(self.outlook("it"), Outlook::Run(_)), "{what}");
        assert!(cause.via.is_empty(), "{what}: {cause:?}");
        cause
    }
}

/// A kind by another name or in another edition.
struct Renamed {
    inner: Arc<dyn Stage>,
    kind: &'static str,
    version: u32,
}

pub(crate) fn renamed(inner: &Arc<dyn Stage>, kind: &'static str, version: u32) -> Arc<dyn Stage> {
    Arc::new(Renamed { inner: Arc::clone(inner), kind, version })
}

impl Stage for Renamed {
    fn kind(&self) -> &'static str {
        self.kind
    }
    fn summary(&self) -> &'static str {
        self.inner.summary()
    }
    fn version(&self) -> u32 {
        self.version
    }
    fn params(&self) -> Vec<Param> {
        self.inner.params()
    }
    fn inputs(&self) -> &'static [Port] {
        self.inner.inputs()
    }
    fn open_inputs(&self) -> bool {
        self.inner.open_inputs()
    }
    fn open_accepts(&self) -> &'static [&'static str] {
        self.inner.open_accepts()
    }
    fn output(&self, params: &Value) -> &'static str {
        self.inner.output(params)
    }
    fn isolated(&self) -> bool {
        false
    }
    fn run(&self, _: &mut StageContext<'_>) -> Result<(), Failure> {
        Err(Failure::bug("nothing runs here"))
    }
}
