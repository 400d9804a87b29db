//! What must not change the numbers: how a window is cut into micro-batches, what forward keeps for backward, whether an
//! adapter is merged, and whether keys and values come from a cache.
use crate::project::Project;
use anneal_ops::{Cpu, Grads, OpTape, act_to_vec};
use anneal_stages::data::token_set::{Split, TokenSet};
use anneal_stages::llama::adapter::Adapter;
use anneal_stages::llama::init::initial_values;
use anneal_stages::llama::weights::tensor_shapes;
use anneal_stages::llama::{AdapterConfig, Batch, Checkpointing, LlamaConfig, Model, WeightFiles};
use anneal_stages::random::Stream;
use anneal_stages::tensor_file::{FloatType, OutTensor, write};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// max|a-b| <= LIMIT * max|b|.
const LIMIT: f32 = 1e-5;

#[track_caller]
fn assert_close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    assert!(a.iter().all(|x| x.is_finite()), "{what}");
    let largest = b.iter().fold(0.0_f32, |max, b| max.max(b.abs()));
    let apart = a.iter().zip(b).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(apart <= LIMIT * largest, "{what}: {apart:e} apart, largest {largest:e}");
}

/// A small model with everything that a Llama may have: grouped heads, biases, a head of its own.
fn model(train_base: bool) -> Model<Cpu> {
    let Value::Object(raw) = json!({"model_type": "llama", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": true,
        "mlp_bias": true, "tie_word_embeddings": false, "initializer_range": 0.2})
    else {
        panic!("an object")
    };
    let config = LlamaConfig::from_json(raw).unwrap();
    let tensors: Vec<_> = tensor_shapes(&config)
        .into_iter()
        .map(|(name, shape)| {
            let values = initial_values(&config, 3, &name, &shape);
            (name, OutTensor::floats(&values, &shape, FloatType::F32))
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("model.safetensors"), &tensors).unwrap();
    let mut model = Model::read(Cpu::default(), &config, &WeightFiles::open(dir.path()).unwrap(), train_base).unwrap();
    if !train_base {
        let targets = ["q_proj", "v_proj", "down_proj"].map(str::to_owned);
        let mut adapter = Adapter::fresh(&config, AdapterConfig::lora(4, 8.0, 0.25, false), &targets, 5).unwrap();
        // Fresh, B is zero and A would get no gradient.
        for (name, lora) in &mut adapter.modules {
            let mut stream = Stream::new(5, name);
            lora.b.iter_mut().for_each(|b| *b = 0.1 * stream.normal());
        }
        model.attach(&adapter).unwrap();
    }
    model
}

/// Eight sequences of unlike lengths; the last third of each is labelled.
fn sequences() -> Vec<(Vec<u32>, Vec<u8>)> {
    let mut stream = Stream::new(1, "sequences");
    let lengths = [3, 17, 8, 2, 21, 5, 34, 13];
    let mut sequence = |len: usize| {
        let ids = (0..len).map(|_| stream.below(61)).collect();
        (ids, (0..len).map(|t| u8::from(t >= len - len.div_ceil(3))).collect())
    };
    lengths.map(&mut sequence).to_vec()
}

/// Loss and gradients of a window cut into micro-batches of this size, as the training loop computes them.
fn window(model: &mut Model<Cpu>, batch_size: usize) -> (f64, BTreeMap<String, Vec<f32>>) {
    window_with(model, batch_size, None)
}

/// The same with dropout masks of this key.
fn window_with(model: &mut Model<Cpu>, batch_size: usize, dropout: Option<u64>) -> (f64, BTreeMap<String, Vec<f32>>) {
    let sequences = sequences();
    let pack = |part: &[(Vec<u32>, Vec<u8>)]| Batch::pack(part.iter().map(|(ids, l)| (&ids[..], &l[..]))).unwrap();
    let batches: Vec<Batch> = sequences.chunks(batch_size).map(pack).collect();
    let labelled: usize = batches.iter().map(|batch| batch.rows.len()).sum();
    let mut grads = Grads::default();
    let mut sum = 0.0;
    for batch in &batches {
        let (loss, tape) = model.loss(batch, 1.0 / labelled as f32, OpTape::default(), dropout).unwrap();
        tape.backward(&mut grads).unwrap();
        sum += loss.sum;
    }
    let parameters = model.trainable_parameters();
    let read = parameters.iter().map(|(name, p)| (name.clone(), p.read_grad(&mut grads).unwrap())).collect();
    (sum / labelled as f64, read)
}

#[test]
fn loss_and_gradients_do_not_depend_on_how_a_window_is_cut() {
    for train_base in [true, false] {
        let mut model = model(train_base);
        let (loss, whole) = window(&mut model, 8);
        assert!(whole.len() > 10 && whole.values().all(|g| g.iter().any(|g| *g != 0.0)), "every gradient flows");
        for batch_size in [4, 1] {
            let (other, parts) = window(&mut model, batch_size);
            assert!((other - loss).abs() <= 1e-5 * loss, "{batch_size}: {other} {loss}");
            for (name, gradient) in &parts {
                assert_close(&format!("{name}, batch {batch_size}"), gradient, &whole[name]);
            }
        }
    }
}

#[test]
fn checkpointing_changes_no_bit() {
    for train_base in [true, false] {
        let mut runs = Vec::new();
        let all = |checkpointing| (checkpointing, None);
        for (checkpointing, full_layers) in [
            all(Checkpointing::None),
            all(Checkpointing::Selective),
            all(Checkpointing::Full),
            (Checkpointing::Full, Some(1)),
        ] {
            let mut model = model(train_base);
            model.set_checkpointing(checkpointing, full_layers);
            let (loss, gradients) = window_with(&mut model, 4, Some(11));
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let gradients: BTreeMap<String, Vec<u32>> = gradients.into_iter().map(|(n, g)| (n, bits(g))).collect();
            runs.push((loss.to_bits(), gradients));
        }
        assert!(runs[0] == runs[1], "selective, train_base {train_base}");
        assert!(runs[0] == runs[2], "full, train_base {train_base}");
        assert!(runs[0] == runs[3], "full in one layer, train_base {train_base}");
    }
}

#[test]
fn packed_sequences_do_not_see_one_another() {
    let model = model(false);
    let sequences = sequences();
    let all = Batch::pack(sequences.iter().map(|(ids, l)| (&ids[..], &l[..]))).unwrap();
    let packed = act_to_vec(&model.logits(&all).unwrap());
    let mut start = 0;
    for (ids, labelled) in &sequences {
        let alone = act_to_vec(&model.logits(&Batch::pack([(&ids[..], &labelled[..])]).unwrap()).unwrap());
        assert_close("logits", &packed[start..start + alone.len()], &alone);
        start += alone.len();
    }
}

#[test]
fn cached_decoding_gives_the_logits_of_a_full_pass() {
    let model = model(false);
    let ids = sequences().swap_remove(6).0;
    let full = act_to_vec(&model.logits(&Batch::pack([(&ids[..], &vec![0; ids.len()][..])]).unwrap()).unwrap());
    for prompt in [1, 7, ids.len()] {
        let mut cache = model.empty_cache();
        let mut fed = 0;
        for end in prompt..=ids.len() {
            let logits = model.next_logits(&ids[fed..end], &mut cache).unwrap();
            assert_close(&format!("prompt {prompt}, token {end}"), &logits, &full[(end - 1) * 61..end * 61]);
            fed = end;
        }
    }
}

fn open(dir: &Path) -> Model<Cpu> {
    let config = LlamaConfig::read(&dir.join("config.json")).unwrap();
    Model::read(Cpu::default(), &config, &WeightFiles::open(dir).unwrap(), false).unwrap()
}

#[test]
fn consolidated_models_answer_as_their_parts_do() {
    let project = Project::new();
    project.run(&["tiny.toml", "--set", "tuned.dtype=float32", "--set", "lora.learning_rate=0.01"]);
    let dir = |stage: &str| project.artifact("tiny", stage);
    let ids: Vec<u32> = (0..60).map(|i| i * 37 % 400).collect();
    let batch = Batch::pack([(&ids[..], &vec![0; ids.len()][..])]).unwrap();
    let logits = |model: &Model<Cpu>| act_to_vec(&model.logits(&batch).unwrap());

    let mut unmerged = open(&dir("base"));
    let base = logits(&unmerged);
    unmerged.attach(&Adapter::read(&dir("lora"), unmerged.config()).unwrap()).unwrap();
    let unmerged = logits(&unmerged);
    assert_close("merged", &logits(&open(&dir("merged"))), &unmerged);
    assert!(base.iter().zip(&unmerged).any(|(a, b)| (a - b).abs() > 1e-3), "the adapter changes something");
    // A checkpoint is consolidated without arithmetic, so bit for bit.
    assert_eq!(logits(&open(&dir("tuned"))), logits(&open(&dir("fft"))));
}

/// The first step of a training on all examples at once, before anything changed: its loss is that of the base.
#[test]
fn the_loss_is_that_of_the_answers_or_of_every_token() {
    let project = Project::new();
    let all = "lora.batch_size=1000";
    let args = ["tiny.toml", "--only", "lora", "--set", all, "--set", "lora.max_steps=1", "--set", "lora.dropout=0"];
    let told = |more: &[&str]| {
        let outcome = project.anneal(&[&["run", "--json"], &args[..], more].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let events: Vec<Value> = outcome.events().iter().map(|line| line["event"].clone()).collect();
        let of = |kind: &str| events.iter().find(|event| event["type"] == kind).unwrap().clone();
        (of("step"), of("eval-loss")["loss"].as_f64().unwrap())
    };
    let (answers, eval_before) = told(&[]);
    let (every, eval_after) = told(&["--set", "lora.completion_only_loss=false"]);

    let set = TokenSet::read(&project.artifact("tiny", "tokens"), Split::Train).unwrap().unwrap();
    let model = open(&project.artifact("tiny", "base"));
    let mean = |labels: &dyn Fn(usize) -> Vec<u8>| {
        let labels: Vec<Vec<u8>> = (0..set.len()).map(labels).collect();
        let batch = Batch::pack((0..set.len()).map(|i| (set.example(i).0, &labels[i][..]))).unwrap();
        let (loss, _) = model.loss(&batch, 1.0, OpTape::default(), None).unwrap();
        (loss.sum / batch.rows.len() as f64, batch.rows.len() as u64)
    };
    for (step, (loss, labelled)) in
        [(&answers, mean(&|i| set.example(i).1.to_vec())), (&every, mean(&|i| vec![1; set.example(i).0.len()]))]
    {
        assert_eq!(step["labelled_tokens"].as_u64(), Some(labelled));
        let told = step["loss"].as_f64().unwrap();
        assert!((told - loss).abs() <= 1e-5 * loss, "{told} {loss}");
    }
    assert_eq!(every["labelled_tokens"].as_u64(), Some((set.ids.len() - set.len()) as u64));
    // What was learnt differs; what is measured is the answers' loss in both.
    assert!(eval_before != eval_after && (eval_before - eval_after).abs() < 0.05 * eval_before);
}
