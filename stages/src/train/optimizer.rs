//! AdamW over named parameters, with clipping by the global norm.
//!
//! Update as torch.optim.AdamW does it (Loshchilov and Hutter 2019); clipping as torch.nn.utils.clip_grad_norm_.
//! Unaware of models and schedules.
use super::Recipe;
use super::recipe::OptimizerStates;
use crate::failure::OrFail;
use crate::llama::Parameters;
use anneal_engine::Failure;
use anneal_ops::{AdamwHyper, AdamwPart, AdamwState, Backend, Grads, ParamRef, StateDtype, adamw, grad_norm};
use std::collections::BTreeMap;

/// Moments of every trainable parameter, by name.
pub struct Optimizer<B: Backend> {
    device: B,
    states: BTreeMap<String, AdamwState<B>>,
    recipe: Recipe,
}

impl<B: Backend> Optimizer<B> {
    /// Moments of zero for these parameters.
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &B, parameters: &Parameters<'_, B>, recipe: Recipe) -> Result<Self, Failure> {
        let dtype = match recipe.optimizer_states {
            OptimizerStates::F32 => StateDtype::F32,
            OptimizerStates::Bf16 => StateDtype::Bf16,
        };
        let state = |parameter: &ParamRef<'_, B>| AdamwState::for_param(device, parameter, dtype).or_fail();
        let states = parameters
            .iter()
            .map(|(name, parameter)| Ok((name.clone(), state(parameter)?)))
            .collect::<Result<_, Failure>>()?;
        Ok(Self { device: device.clone(), states, recipe })
    }

    /// One update; `step` counts from 1. Returns the gradient's norm before clipping, and zeroes the gradient. A norm
    /// that is not finite leaves parameters and moments as they are.
    ///
    /// # Errors
    /// The device failed.
    pub fn step(
        &mut self,
        parameters: &mut Parameters<'_, B>,
        grads: &mut Grads<B>,
        learning_rate: f64,
        step: u64,
    ) -> Result<f64, Failure> {
        let norm = grad_norm(grads, &parameters.refs).or_fail()?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        let limit = self.recipe.max_grad_norm;
        let grad_scale = if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 };
        let hyper = AdamwHyper {
            lr: learning_rate,
            beta1: self.recipe.adam_beta1,
            beta2: self.recipe.adam_beta2,
            eps: self.recipe.adam_epsilon,
            weight_decay: self.recipe.weight_decay,
            step,
            grad_scale,
        };
        let mut states: BTreeMap<&str, _> =
            self.states.iter_mut().map(|(name, state)| (name.as_str(), state)).collect();
        let part = |(name, parameter): (&String, _)| {
            let state = states.remove(name.as_str());
            let state = state.ok_or_else(|| Failure::bug(format!("no moments for `{name}`")))?;
            Ok(AdamwPart { param: ParamRef::reborrow(parameter), state, decays: decays(name) })
        };
        let parts = parameters.names.iter().zip(&mut parameters.refs).map(part);
        adamw::step(&mut parts.collect::<Result<Vec<_>, Failure>>()?, grads, &hyper).or_fail()?;
        Ok(norm)
    }

    /// A parameter's values as exactly as they are known: its master's, where it has one.
    pub fn exact(&self, name: &str, parameter: &ParamRef<'_, B>) -> Vec<f32> {
        self.states.get(name).and_then(AdamwState::read_master).unwrap_or_else(|| parameter.read())
    }

    /// The bf16 bytes of a big weight that is known no more exactly than that; `None` where more is known.
    ///
    /// # Errors
    /// The device failed.
    pub fn exact_bf16(&self, name: &str, parameter: &ParamRef<'_, B>) -> Result<Option<Vec<u8>>, Failure> {
        if self.is_bf16(name, parameter) { parameter.read_bf16().or_fail() } else { Ok(None) }
    }

    /// Whether a parameter is known no more exactly than in bf16.
    pub fn is_bf16(&self, name: &str, parameter: &ParamRef<'_, B>) -> bool {
        let stored = matches!(parameter, ParamRef::Weight(_)) && size_of::<B::Elem>() == 2;
        stored && !self.states.get(name).is_some_and(AdamwState::has_master)
    }

    /// Parameters, moments and masters by name, for a checkpoint.
    pub fn snapshot(&self, parameters: &Parameters<'_, B>) -> BTreeMap<String, Vec<f32>> {
        let mut tensors = BTreeMap::new();
        for (name, parameter) in parameters.iter() {
            tensors.insert(format!("parameter.{name}"), parameter.read());
            if let Some(state) = self.states.get(name) {
                let (first, second) = state.read();
                tensors.insert(format!("first_moment.{name}"), first);
                tensors.insert(format!("second_moment.{name}"), second);
                if let Some(master) = state.read_master() {
                    tensors.insert(format!("master.{name}"), master);
                }
            }
        }
        tensors
    }

    /// The inverse of [`Optimizer::snapshot`].
    ///
    /// # Errors
    /// A tensor is missing or has another length: the checkpoint belongs to another model.
    pub fn restore(
        &mut self,
        parameters: &mut Parameters<'_, B>,
        tensors: &BTreeMap<String, Vec<f32>>,
    ) -> Result<(), Failure> {
        let find = |kind: &str, name: &str| {
            let found = tensors.get(&format!("{kind}.{name}"));
            found.ok_or_else(|| Failure::user(format!("the checkpoint has no {kind} of `{name}`")))
        };
        for (name, parameter) in parameters.names.iter().zip(&mut parameters.refs) {
            parameter.write(find("parameter", name)?).or_fail()?;
            if let Some(state) = self.states.get_mut(name) {
                state.write(find("first_moment", name)?, find("second_moment", name)?).or_fail()?;
                if let Some(master) = tensors.get(&format!("master.{name}")) {
                    state.write_master(&self.device, master).or_fail()?;
                }
            }
        }
        Ok(())
    }
}

/// Weight decay spares norms and biases, as transformers' Trainer does (trainer_pt_utils.py: get_parameter_names).
fn decays(name: &str) -> bool {
    !name.contains("norm") && !name.ends_with(".bias")
}
