//! The forward pass of generation: prompts into caches, then a token of every sequence at a time.
//!
//! A token's numbers depend on its own sequence only, bit for bit: not on what else is in the pass, nor on how much of a
//! prompt was in the cache already, as long as that is a multiple of [`Model::aligned`]. Unaware of which token is chosen
//! and of when a sequence ends.
use super::super::layer::{Layer, Pass};
use super::{Cache, Model};
use anneal_ops::{
    Act, AttentionKernel, Backend, BlockWeights, DecoderBlock, LayerCache, Linear, NextIds, NoneTape, OpError,
    act_to_vec, cached_attention_batch, embedding, embedding_next, linear_argmax_next, linear_few, linear_rows,
    rms_norm, rope, swiglu,
};
use std::rc::Rc;

/// A model's blocks as they decode, with what a device keeps of the sequences that decode together.
pub struct Decoder<'a, B: Backend> {
    model: &'a Model<B>,
    blocks: Vec<DecoderBlock<B>>,
}

/// The newest token of every sequence.
pub enum Feed<'a, B: Backend> {
    /// Known to the host.
    Ids(&'a [u32]),
    /// Chosen on the device, where they stay.
    Next(&'a NextIds<B>),
}

/// One block on many rows of `x`: `rows[i]` of them go on behind `caches[i]`.
fn block<B: Backend>(
    layer: &Layer<B>,
    x: Act<B>,
    pass: &Pass<B>,
    caches: &mut [&mut LayerCache<B>],
    rows: &[usize],
) -> Result<Act<B>, OpError> {
    let h = rms_norm(x.clone(), &layer.input_layernorm, pass.eps, false)?;
    let [q, k, v] = linear_rows(&h, [&layer.q_proj, &layer.k_proj, &layer.v_proj], None)?;
    let turned = |x| rope(x, pass.heads.head_dim, &pass.rope, &pass.positions);
    let mixed = cached_attention_batch(turned(q)?, turned(k)?, v, pass.heads, caches, rows)?;
    let [x] = linear_rows(&mixed, [&layer.o_proj], Some(&x))?;
    let h = rms_norm(x.clone(), &layer.post_attention_layernorm, pass.eps, false)?;
    let [gate, up] = linear_rows(&h, [&layer.gate_proj, &layer.up_proj], None)?;
    let [out] = linear_rows(&swiglu(gate, up)?, [&layer.down_proj], Some(&x))?;
    Ok(out)
}

/// Rows of a cache.
fn seen<B: Backend>(cache: &Cache<B>) -> u32 {
    cache.first().map_or(0, LayerCache::len) as u32
}

impl<B: Backend> Model<B> {
    /// A cache may be cut to a multiple of so many tokens and go on with other tokens.
    pub fn aligned() -> usize {
        <B as AttentionKernel>::ALIGNED_ROWS
    }

    /// The model as it decodes.
    ///
    /// # Errors
    /// Weights that do not fit together.
    pub fn decoder(&self) -> Result<Decoder<'_, B>, OpError> {
        let block = |(index, layer): (usize, &Layer<B>)| {
            let Pass { heads, eps, rope, .. } = self.pass(index, &Rc::from([]), None);
            DecoderBlock::new(BlockWeights {
                input_norm: layer.input_layernorm.clone(),
                qkv: [&layer.q_proj, &layer.k_proj, &layer.v_proj].map(Linear::clone),
                o: layer.o_proj.clone(),
                post_norm: layer.post_attention_layernorm.clone(),
                gate: layer.gate_proj.clone(),
                up: layer.up_proj.clone(),
                down: layer.down_proj.clone(),
                heads,
                eps,
                rope,
            })
        };
        let blocks = self.layers.iter().enumerate().map(block).collect::<Result<_, _>>()?;
        Ok(Decoder { model: self, blocks })
    }

    /// Feeds more tokens of several sequences, each with its cache, and returns a row for each: its last token's, ready for
    /// the head.
    ///
    /// # Errors
    /// A sequence without a token, an id out of range, more tokens than positions; no memory.
    pub fn prefill(&self, feeds: &[&[u32]], caches: &mut [&mut Cache<B>]) -> Result<Act<B>, OpError> {
        let mut rows = Vec::with_capacity(feeds.len());
        let (mut ids, mut positions, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for (feed, cache) in feeds.iter().zip(caches.iter()) {
            if feed.is_empty() {
                return Err(OpError::argument("prefill", "a sequence has no new token"));
            }
            let seen = seen(cache);
            ids.extend_from_slice(feed);
            positions.extend(seen..seen + feed.len() as u32);
            last.push(ids.len() as u32 - 1);
            rows.push(feed.len());
        }
        let mut x = embedding(&self.device, &ids, &self.embed_tokens, false, NoneTape)?;
        let positions: Rc<[u32]> = positions.into();
        for (index, layer) in self.layers.iter().enumerate() {
            let pass = self.pass(index, &positions, None);
            x = block(layer, x, &pass, &mut of_layer(caches, index), &rows)?;
        }
        // Gathering rows is what an embedding does.
        self.for_head(embedding(&self.device, &last, &x, false, NoneTape)?)
    }

    fn for_head(&self, x: Act<B>) -> Result<Act<B>, OpError> {
        rms_norm(x, &self.norm, self.config.rms_norm_eps as f32, false)
    }

    /// The most likely token after each of these rows (ties: the lowest id); they stay on the device.
    ///
    /// # Errors
    /// No row; no memory.
    pub fn most_likely(&self, rows: &Act<B>) -> Result<NextIds<B>, OpError> {
        linear_argmax_next(rows, self.head())
    }

    /// The logits of these rows on the host, one row's after the other's.
    ///
    /// # Errors
    /// No memory.
    pub fn head_logits(&self, rows: &Act<B>) -> Result<Vec<f32>, OpError> {
        let head = Linear { weight: self.head().clone(), bias: None, trainable: false, lora: None };
        let [logits] = linear_few(rows, [&head], None)?;
        Ok(act_to_vec(&logits))
    }

    /// Feeds more tokens of one sequence and returns the logits that follow the last of them.
    ///
    /// # Errors
    /// No token, an id out of range, a sequence longer than the positions allow; no memory.
    pub fn next_logits(&self, ids: &[u32], cache: &mut Cache<B>) -> Result<Vec<f32>, OpError> {
        let rows = if seen(cache) > 0 && ids.len() == 1 {
            self.decoder()?.step(Feed::Ids(ids), &mut [cache])?
        } else {
            self.prefill(&[ids], &mut [cache])?
        };
        self.head_logits(&rows)
    }
}

impl<B: Backend> Decoder<'_, B> {
    /// Feeds one more token of each sequence and returns a row for each, ready for the head. The same sequences in the same
    /// order as in the step before save the device's time.
    ///
    /// # Errors
    /// Not one token a cache, an id out of range, more tokens than positions; no memory.
    pub fn step(&mut self, feed: Feed<'_, B>, caches: &mut [&mut Cache<B>]) -> Result<Act<B>, OpError> {
        let (model, positions) = (self.model, caches.iter().map(|cache| seen(cache)).collect::<Vec<_>>());
        let mut x = match feed {
            Feed::Ids(ids) => embedding(&model.device, ids, &model.embed_tokens, false, NoneTape)?,
            Feed::Next(next) => embedding_next(next, &model.embed_tokens)?,
        };
        for (index, block) in self.blocks.iter_mut().enumerate() {
            x = block.step(x, &positions, &mut of_layer(caches, index))?;
        }
        model.for_head(x)
    }
}

fn of_layer<'a, B: Backend>(caches: &'a mut [&mut Cache<B>], index: usize) -> Vec<&'a mut LayerCache<B>> {
    caches.iter_mut().filter_map(|cache| cache.get_mut(index)).collect()
}
