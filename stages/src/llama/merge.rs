//! An adapter's updates added to the weights themselves, in place of a branch beside each.
//!
//! Unaware of files.
use super::adapter::Adapter;
use super::model::Model;
use crate::failure::OrFail;
use anneal_engine::Failure;
use anneal_ops::Backend;
use std::collections::BTreeSet;

impl<B: Backend> Model<B> {
    /// Adds an adapter's updates to the weights: W + scaling * B A, in f32, then in the dtype of the weights. Computing takes
    /// the time of the base alone, and the numbers differ from those of [`Model::attach`] by rounding: in f32 hardly, in
    /// bf16 by up to half a unit in the last place of every weight.
    ///
    /// # Errors
    /// The adapter does not fit this model; no memory.
    pub fn attach_merged(&mut self, adapter: &Adapter) -> Result<(), Failure> {
        let mut left: BTreeSet<&String> = adapter.modules.keys().chain(adapter.saved.keys()).collect();
        let parameters = self.base_parameters();
        for (name, mut parameter) in parameters.names.iter().zip(parameters.refs) {
            if let Some((values, _)) = adapter.saved.get(name) {
                parameter.write(values).or_fail()?;
                left.remove(name);
            }
            let Some((module, lora)) = name.strip_suffix(".weight").and_then(|m| adapter.modules.get_key_value(m))
            else {
                continue;
            };
            let mut values = parameter.read();
            lora.merge(&mut values);
            parameter.write(&values).or_fail()?;
            left.remove(module);
        }
        match left.first() {
            None => Ok(()),
            Some(name) => Err(Failure::user(format!("the adapter updates `{name}`, which the model does not have"))),
        }
    }
}
