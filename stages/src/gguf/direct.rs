//! A GGUF file as a model's weights, without a folder between: numbers are dequantised as they are asked for.
//!
//! Unaware of devices and of what is written.
use super::Gguf;
use super::dequantize::dequantize;
use super::names::{Planned, plan};
use super::special::SpecialIds;
use super::weights::in_order;
use super::{config, tokenizer};
use crate::llama::{LlamaConfig, WeightSource};
use anneal_engine::Failure;
use rayon::prelude::*;
use std::collections::HashMap;

/// About how many numbers one thread makes at once.
const PIECE: usize = 1 << 18;

/// The weights of a file by their Hugging Face names, rows in Hugging Face's order.
#[derive(Debug)]
pub struct Direct<'a> {
    file: &'a Gguf,
    config: LlamaConfig,
    plan: HashMap<String, Planned<'a>>,
}

impl Gguf {
    /// The file as a model's weights.
    ///
    /// # Errors
    /// The file is no Llama that this engine knows.
    pub fn direct(&self) -> Result<Direct<'_>, Failure> {
        let count = tokenizer::files(&self.metadata)?.map(|files| files.count);
        let config = config::config(self, &SpecialIds::read(&self.metadata, count)?)?;
        let plan = plan(self, &config)?.into_iter().map(|planned| (planned.name.clone(), planned)).collect();
        Ok(Direct { file: self, config, plan })
    }
}

impl Direct<'_> {
    /// The configuration that the file's metadata tell.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }
}

impl WeightSource for Direct<'_> {
    /// Planning has compared every tensor with the file's own configuration; another one is compared here.
    fn check(&self, config: &LlamaConfig) -> Result<(), Failure> {
        plan(self.file, config).map(|_| ())
    }

    fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Failure> {
        let planned = self.plan.get(name).filter(|planned| planned.shape == shape);
        let Some(Planned { tensor, head, .. }) = planned else {
            let place = self.file.path().display();
            return Err(Failure::user(format!("{place}: there is no tensor `{name}` of shape {shape:?}")));
        };
        let mut stored = vec![0; tensor.bytes as usize];
        self.file.read_at(tensor.offset, &mut stored)?;
        let count: usize = shape.iter().product();
        if let Some(head) = head {
            let rows = shape.first().copied().unwrap_or(1).max(1);
            stored = in_order(&stored, stored.len() / rows, *head);
        }
        let mut numbers = vec![0.0; count];
        let (block, bytes) = (tensor.kind.block_len() as usize, tensor.kind.block_bytes() as usize);
        let blocks = (PIECE / block).max(1);
        let pieces = numbers.par_chunks_mut(blocks * block).zip(stored.par_chunks(blocks * bytes));
        pieces.for_each(|(numbers, stored)| dequantize(tensor.kind, stored, numbers));
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::testing::tiny;
    use crate::llama::WeightFiles;
    use crate::llama::weights::tensor_shapes;

    #[test]
    fn numbers_are_those_of_the_folder() {
        let file = Gguf::from_bytes(std::path::Path::new("m.gguf"), tiny().build()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        file.write_folder(dir.path(), &mut |_, _| Ok(())).unwrap();
        let (folder, direct) = (WeightFiles::open(dir.path()).unwrap(), file.direct().unwrap());
        direct.check(direct.config()).unwrap();
        for (name, shape) in tensor_shapes(direct.config()) {
            let (ours, theirs) = (direct.read_f32(&name, &shape).unwrap(), folder.read_f32(&name, &shape).unwrap());
            assert!(ours.iter().map(|v| v.to_bits()).eq(theirs.iter().map(|v| v.to_bits())), "{name}");
        }
        assert!(direct.read_f32("model.norm.weight", &[3]).is_err());
    }
}
