//! The forward pass of a Llama on any backend, with or without a tape, with or without LoRA.
//!
//! Field paths spell the checkpoint's names. Unaware of files, optimizers and text.
mod cached;

use super::adapter::Adapter;
use super::batch::Batch;
use super::config::LlamaConfig;
use super::layer::{Checkpointing, Layer, Pass};
use super::read::read_weight;
use super::rope::inv_freq;
use super::weights::{WeightSource, parent_of};
use crate::failure::OrFail;
use anneal_engine::Failure;
use anneal_ops::{
    Act, Backend, HasShape, Heads, LayerCache, Linear, Lora, LossSum, NoneTape, OpError, ParamRef, Record, RopeTable,
    Vector, Weight, embedding, linear, linear_cross_entropy, matrix_from_vec, rms_norm, vector_from_vec,
};
use std::rc::Rc;

/// A Llama on a device.
pub struct Model<B: Backend> {
    device: B,
    config: LlamaConfig,
    embed_tokens: Weight<B>,
    layers: Vec<Layer<B>>,
    norm: Vector<B>,
    /// Absent when the head shares the embedding's weight.
    lm_head: Option<Weight<B>>,
    rope: RopeTable<B>,
    /// Every weight of the base is trained; otherwise only LoRA's, if there are any.
    train_base: bool,
    checkpointing: Checkpointing,
    full_layers: usize,
}

/// Parameters with their checkpoint names, in checkpoint order.
pub struct Parameters<'a, B: Backend> {
    /// One name a parameter.
    pub names: Vec<String>,
    /// The parameters.
    pub refs: Vec<ParamRef<'a, B>>,
}

impl<B: Backend> Default for Parameters<'_, B> {
    fn default() -> Self {
        Self { names: Vec::new(), refs: Vec::new() }
    }
}

impl<'a, B: Backend> Parameters<'a, B> {
    fn push(&mut self, name: String, parameter: ParamRef<'a, B>) {
        self.names.push(name);
        self.refs.push(parameter);
    }

    /// Names and parameters together.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &ParamRef<'a, B>)> {
        self.names.iter().zip(&self.refs)
    }

    /// Numbers in all parameters together.
    pub fn count(&self) -> usize {
        self.refs.iter().map(ParamRef::len).sum()
    }
}

/// Keys and values of the tokens seen so far, for every layer.
pub type Cache<B> = Vec<LayerCache<B>>;

pub use cached::{Decoder, Feed};

impl<B: Backend> Model<B> {
    /// Builds a model from its weights, checking every tensor's shape before it reads one. `train_base` makes all
    /// its weights trainable.
    ///
    /// # Errors
    /// Tensors that are missing or do not fit the configuration; no memory.
    pub fn read(device: B, config: &LlamaConfig, files: &dyn WeightSource, train_base: bool) -> Result<Self, Failure> {
        files.check(config)?;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let table = |name: &str| -> Result<Weight<B>, Failure> { read_weight(&device, files, name, [vocab, hidden]) };
        let embed_tokens = table("model.embed_tokens.weight")?;
        let lm_head = if config.tie_word_embeddings { None } else { Some(table("lm_head.weight")?) };
        let layers = (0..config.num_hidden_layers).map(|i| Layer::read(&device, config, files, i, train_base));
        let layers = layers.collect::<Result<_, _>>()?;
        let norm = vector_from_vec(&device, files.read_f32("model.norm.weight", &[hidden])?).or_fail()?;
        let rope = RopeTable::new(&device, &inv_freq(config), config.max_position_embeddings).or_fail()?;
        let (config, checkpointing, full_layers) = (config.clone(), Checkpointing::None, usize::MAX);
        Ok(Self { device, config, embed_tokens, layers, norm, lm_head, rope, train_base, checkpointing, full_layers })
    }

    /// Adds an adapter's updates; its A and B are trainable, the base stays frozen. Updates of the head and of the
    /// embedding are merged into their weights: they are used once a token, and never trained here.
    ///
    /// # Errors
    /// The adapter does not fit this model.
    pub fn attach(&mut self, adapter: &Adapter) -> Result<(), Failure> {
        for (name, (values, _)) in &adapter.saved {
            self.base_parameter(name)?.write(values).or_fail()?;
        }
        let mut attached = 0;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (module, linear) in layer.modules_mut() {
                let name = format!("model.layers.{index}.{}.{module}", parent_of(module));
                let Some(lora) = adapter.modules.get(&name) else { continue };
                let (out, input) = *linear.weight.shape();
                linear.lora = Some(Lora {
                    a: matrix_from_vec(&self.device, lora.a.clone(), lora.rank, input).or_fail()?,
                    b: matrix_from_vec(&self.device, lora.b.clone(), out, lora.rank).or_fail()?,
                    scaling: lora.scaling,
                    dropout: adapter.config.lora_dropout as f32,
                });
                attached += 1;
            }
        }
        for (module, lora) in adapter.outside_layers() {
            let mut weight = self.base_parameter(&format!("{module}.weight"))?;
            let mut values = weight.read();
            lora.merge(&mut values);
            weight.write(&values).or_fail()?;
            attached += 1;
        }
        if attached != adapter.modules.len() {
            return Err(Failure::user(format!(
                "the adapter updates {} modules, the model has {attached} of them",
                adapter.modules.len()
            )));
        }
        Ok(())
    }

    fn base_parameter(&mut self, name: &str) -> Result<ParamRef<'_, B>, Failure> {
        let Parameters { names, refs } = self.base_parameters();
        let found = names.iter().zip(refs).find(|(known, _)| *known == name);
        found.map(|(_, parameter)| parameter).ok_or_else(|| Failure::user(format!("the base has no tensor `{name}`")))
    }

    /// Whether every weight of the base is trained.
    pub fn trains_base(&self) -> bool {
        self.train_base
    }

    /// What forward keeps for backward from now on. Of `Full` only the first `full_layers` keep as little (`None`: all);
    /// the others are selective.
    pub fn set_checkpointing(&mut self, checkpointing: Checkpointing, full_layers: Option<usize>) {
        self.checkpointing = checkpointing;
        self.full_layers = full_layers.unwrap_or(usize::MAX);
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The device it lies on.
    pub fn device(&self) -> &B {
        &self.device
    }

    /// The weight of the head, which may be the embedding's.
    pub fn head(&self) -> &Weight<B> {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    fn pass(&self, layer: usize, positions: &Rc<[u32]>, dropout: Option<u64>) -> Pass<B> {
        let heads = Heads {
            n_heads: self.config.num_attention_heads,
            n_kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        };
        let eps = self.config.rms_norm_eps as f32;
        let (rope, positions, train_base) = (self.rope.clone(), positions.clone(), self.train_base);
        let checkpointing = match self.checkpointing {
            Checkpointing::Full if layer >= self.full_layers => Checkpointing::Selective,
            as_asked => as_asked,
        };
        Pass { heads, eps, train_base, rope, positions, layer, dropout, checkpointing }
    }

    /// Hidden states after the last norm, [tokens, hidden].
    ///
    /// # Errors
    /// A token id or position out of range; no memory.
    pub fn hidden<T: Record<B>>(&self, batch: &Batch, tape: T, dropout: Option<u64>) -> Result<Act<B, T>, OpError> {
        let mut x = embedding(&self.device, &batch.ids, &self.embed_tokens, self.train_base, tape)?;
        let positions = batch.positions.as_slice().into();
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &self.pass(index, &positions, dropout), &batch.layout)?;
        }
        rms_norm(x, &self.norm, self.config.rms_norm_eps as f32, self.train_base)
    }

    /// Sum of the negative log-likelihoods of the labelled tokens, and the tape that leads to it. Gradients are those
    /// of `scale` times the sum. `dropout` is the key of this micro-batch's masks; `None` evaluates.
    ///
    /// # Errors
    /// A token id or position out of range; no memory.
    pub fn loss<T: Record<B>>(
        &self,
        batch: &Batch,
        scale: f32,
        tape: T,
        dropout: Option<u64>,
    ) -> Result<(LossSum, T), OpError> {
        let hidden = self.hidden(batch, tape, dropout)?;
        linear_cross_entropy(hidden, &batch.rows, &batch.targets, self.head(), self.train_base, scale)
    }

    /// Logits of every row, [tokens, vocabulary].
    ///
    /// # Errors
    /// A token id or position out of range; no memory.
    pub fn logits(&self, batch: &Batch) -> Result<Act<B>, OpError> {
        self.project(self.hidden(batch, NoneTape, None)?)
    }

    fn project(&self, hidden: Act<B>) -> Result<Act<B>, OpError> {
        let head = Linear { weight: self.head().clone(), bias: None, trainable: false, lora: None };
        linear(hidden, &head, None)
    }

    /// An empty cache.
    pub fn empty_cache(&self) -> Cache<B> {
        self.layers.iter().map(|_| LayerCache::new()).collect()
    }

    /// Every tensor of the base by its checkpoint name, in checkpoint order.
    pub fn base_parameters(&mut self) -> Parameters<'_, B> {
        let mut all = Parameters::default();
        all.push("model.embed_tokens.weight".to_owned(), ParamRef::Weight(&mut self.embed_tokens));
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let prefix = format!("model.layers.{index}");
            all.push(format!("{prefix}.input_layernorm.weight"), ParamRef::Vector(&mut layer.input_layernorm));
            let modules = [
                ("q_proj", &mut layer.q_proj),
                ("k_proj", &mut layer.k_proj),
                ("v_proj", &mut layer.v_proj),
                ("o_proj", &mut layer.o_proj),
                ("gate_proj", &mut layer.gate_proj),
                ("up_proj", &mut layer.up_proj),
                ("down_proj", &mut layer.down_proj),
            ];
            for (module, Linear { weight, bias, .. }) in modules {
                let name = format!("{prefix}.{}.{module}", parent_of(module));
                all.push(format!("{name}.weight"), ParamRef::Weight(weight));
                if let Some(bias) = bias {
                    all.push(format!("{name}.bias"), ParamRef::Vector(bias));
                }
            }
            let norm = ParamRef::Vector(&mut layer.post_attention_layernorm);
            all.push(format!("{prefix}.post_attention_layernorm.weight"), norm);
        }
        all.push("model.norm.weight".to_owned(), ParamRef::Vector(&mut self.norm));
        if let Some(head) = &mut self.lm_head {
            all.push("lm_head.weight".to_owned(), ParamRef::Weight(head));
        }
        all
    }

    /// LoRA's A and B by module name and part (`.lora_A` or `.lora_B`), in checkpoint order.
    pub fn lora_parameters(&mut self) -> Parameters<'_, B> {
        let mut all = Parameters::default();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (module, linear) in layer.modules_mut() {
                let name = format!("model.layers.{index}.{}.{module}", parent_of(module));
                if let Some(Lora { a, b, .. }) = &mut linear.lora {
                    all.push(format!("{name}.lora_A"), ParamRef::Matrix(a));
                    all.push(format!("{name}.lora_B"), ParamRef::Matrix(b));
                }
            }
        }
        all
    }

    /// What training changes: the whole base, or LoRA's parameters.
    pub fn trainable_parameters(&mut self) -> Parameters<'_, B> {
        if self.train_base { self.base_parameters() } else { self.lora_parameters() }
    }
}
