//! One transformer block: attention and MLP, each behind a norm and added to the residual stream.
//!
//! Unaware of the layers around it, of files and of optimizers.
use super::config::LlamaConfig;
use super::read::read_weight;
use super::weights::{WeightSource, has_bias, linear_shapes, parent_of};
use crate::failure::OrFail;
use anneal_engine::Failure;
use anneal_ops::{
    Act, Again, Backend, Heads, Layout, Linear, NoneTape, OpError, PutTape, Recompute, Record, RopeTable, SplitTape,
    Vector, attention, linear_group, linear_onto, recompute, rms_norm, rope, swiglu, vector_from_vec,
};
use std::rc::Rc;
use std::sync::Arc;

anneal_engine::choices! {
    /// What forward keeps of a layer for backward.
    pub enum Checkpointing {
        /// Every input that backward needs: most memory, least time.
        None = "none",
        /// Not the norms' outputs and SwiGLU's, which are made again from what is kept anyway; no matrix product runs twice.
        Selective = "selective",
        /// The layer's input alone; the whole layer runs again.
        Full = "full",
    }
}

/// One transformer block.
#[derive(Clone)]
pub(super) struct Layer<B: Backend> {
    pub(super) input_layernorm: Vector<B>,
    pub(super) q_proj: Linear<B>,
    pub(super) k_proj: Linear<B>,
    pub(super) v_proj: Linear<B>,
    pub(super) o_proj: Linear<B>,
    pub(super) post_attention_layernorm: Vector<B>,
    pub(super) gate_proj: Linear<B>,
    pub(super) up_proj: Linear<B>,
    pub(super) down_proj: Linear<B>,
}

/// Key of one dropout mask: the step's key, the layer and the module, mixed (SplitMix64's finalizer).
fn mask_key(step: u64, layer: usize, module: u64) -> u64 {
    let mut z = step ^ ((layer as u64) << 8 | module).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl<B: Backend> Layer<B> {
    pub(super) fn read(
        device: &B,
        config: &LlamaConfig,
        files: &dyn WeightSource,
        layer: usize,
        train: bool,
    ) -> Result<Self, Failure> {
        let prefix = format!("model.layers.{layer}");
        let norm = |name: &str| {
            let values = files.read_f32(&format!("{prefix}.{name}.weight"), &[config.hidden_size])?;
            vector_from_vec(device, values).or_fail()
        };
        let module = |module: &str| -> Result<Linear<B>, Failure> {
            let name = format!("{prefix}.{}.{module}", parent_of(module));
            let shape = linear_shapes(config).into_iter().find(|(known, _)| *known == module).map(|(_, shape)| shape);
            let [out, input] = shape.ok_or_else(|| Failure::bug(format!("no linear module `{module}`")))?;
            let weight = read_weight(device, files, &format!("{name}.weight"), [out, input])?;
            let bias = if has_bias(config, module) {
                Some(vector_from_vec(device, files.read_f32(&format!("{name}.bias"), &[out])?).or_fail()?)
            } else {
                None
            };
            Ok(Linear { weight, bias, trainable: train, lora: None })
        };
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            q_proj: module("q_proj")?,
            k_proj: module("k_proj")?,
            v_proj: module("v_proj")?,
            o_proj: module("o_proj")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            gate_proj: module("gate_proj")?,
            up_proj: module("up_proj")?,
            down_proj: module("down_proj")?,
        })
    }

    /// The linear modules with their names, in checkpoint order.
    pub(super) fn modules_mut(&mut self) -> [(&'static str, &mut Linear<B>); 7] {
        [
            ("q_proj", &mut self.q_proj),
            ("k_proj", &mut self.k_proj),
            ("v_proj", &mut self.v_proj),
            ("o_proj", &mut self.o_proj),
            ("gate_proj", &mut self.gate_proj),
            ("up_proj", &mut self.up_proj),
            ("down_proj", &mut self.down_proj),
        ]
    }

    /// q, k and v with positions applied, from the normalised input; `again` makes that once more.
    fn queries_keys_values<T: Record<B>>(
        &self,
        h: Act<B, T>,
        pass: &Pass<B>,
        again: Option<&Rc<Again<B>>>,
    ) -> Result<[Act<B, T>; 3], OpError> {
        let modules = [(&self.q_proj, pass.key(0)), (&self.k_proj, pass.key(1)), (&self.v_proj, pass.key(2))];
        let [q, k, v] = linear_group(h, modules, again)?;
        let q = rope(q, pass.heads.head_dim, &pass.rope, &pass.positions)?;
        let k = rope(k, pass.heads.head_dim, &pass.rope, &pass.positions)?;
        Ok([q, k, v])
    }

    fn mlp<T: Record<B>>(&self, x: Act<B, T>, pass: &Pass<B>) -> Result<Act<B, T>, OpError> {
        let (x, tape) = x.split_tape();
        let norm = &self.post_attention_layernorm;
        let again = pass.norm_again::<T>(&x, norm);
        let h = rms_norm(x.clone().put_tape(tape), norm, pass.eps, pass.train_base)?;
        let modules = [(&self.gate_proj, pass.key(4)), (&self.up_proj, pass.key(5))];
        let [gate, up] = linear_group(h, modules, again.as_ref())?;
        let again = pass.swiglu_again::<T>(&gate, &up);
        linear_onto(swiglu(gate, up)?, x, &self.down_proj, pass.key(6), again.as_ref())
    }

    /// The block. What it keeps for backward is the pass's choice.
    pub(super) fn forward<T: Record<B>>(
        &self,
        x: Act<B, T>,
        pass: &Pass<B>,
        layout: &Arc<Layout>,
    ) -> Result<Act<B, T>, OpError> {
        if T::RECORDS && pass.checkpointing == Checkpointing::Full {
            return recompute(x, Part { layer: self.clone(), pass: pass.clone(), layout: layout.clone() });
        }
        self.forward_kept(x, pass, layout)
    }

    fn forward_kept<T: Record<B>>(
        &self,
        x: Act<B, T>,
        pass: &Pass<B>,
        layout: &Arc<Layout>,
    ) -> Result<Act<B, T>, OpError> {
        let (x, tape) = x.split_tape();
        let again = pass.norm_again::<T>(&x, &self.input_layernorm);
        let h = rms_norm(x.clone().put_tape(tape), &self.input_layernorm, pass.eps, pass.train_base)?;
        let [q, k, v] = self.queries_keys_values(h, pass, again.as_ref())?;
        let mixed = attention(q, k, v, pass.heads, layout)?;
        self.mlp(linear_onto(mixed, x, &self.o_proj, pass.key(3), None)?, pass)
    }
}

/// A block that runs again in backward.
struct Part<B: Backend> {
    layer: Layer<B>,
    pass: Pass<B>,
    layout: Arc<Layout>,
}

impl<B: Backend> Recompute<B> for Part<B> {
    fn run<T: Record<B>>(&self, x: Act<B, T>) -> Result<Act<B, T>, OpError> {
        self.layer.forward_kept(x, &self.pass, &self.layout)
    }
}

/// What is the same for all modules of one layer in one pass.
pub(super) struct Pass<B: Backend> {
    pub(super) heads: Heads,
    pub(super) eps: f32,
    pub(super) train_base: bool,
    pub(super) rope: RopeTable<B>,
    pub(super) positions: Rc<[u32]>,
    pub(super) layer: usize,
    pub(super) dropout: Option<u64>,
    pub(super) checkpointing: Checkpointing,
}

impl<B: Backend> Clone for Pass<B> {
    fn clone(&self) -> Self {
        Self { rope: self.rope.clone(), positions: self.positions.clone(), ..*self }
    }
}

impl<B: Backend> Pass<B> {
    fn key(&self, module: u64) -> Option<u64> {
        self.dropout.map(|step| mask_key(step, self.layer, module))
    }

    fn is_selective<T: Record<B>>(&self) -> bool {
        T::RECORDS && self.checkpointing == Checkpointing::Selective
    }

    /// The norm of `x` once more, where the pass is selective.
    fn norm_again<T: Record<B>>(&self, x: &Act<B>, weight: &Vector<B>) -> Option<Rc<Again<B>>> {
        let (x, weight, eps) = (x.clone(), weight.clone(), self.eps);
        self.is_selective::<T>().then(|| Again::new(move || rms_norm(x.clone(), &weight, eps, false)))
    }

    /// SwiGLU of gate and up once more, where the pass is selective.
    fn swiglu_again<T: Record<B>>(&self, gate: &Act<B, T>, up: &Act<B, T>) -> Option<Rc<Again<B>>> {
        let (gate, up) = (gate.retaped::<NoneTape>(), up.retaped::<NoneTape>());
        self.is_selective::<T>().then(|| Again::new(move || swiglu(gate.clone(), up.clone())))
    }
}
