//! Writes a model's weights as safetensors: numbers are turned to floats on all threads and written in place, so that
//! no more than a few pieces of a tensor are in memory. The bytes are those of `tensor_file::write`.
//!
//! The dtype is the narrowest in which nothing of the file is lost: f16 or bf16 if every matrix is stored as such and
//! every other number fits it, f32 otherwise (a quantised number is a product of a half and an integer, and often a sum:
//! neither 16-bit type can hold it). Unaware of the header.
use super::Gguf;
use super::dequantize::dequantize;
use super::names::{Planned, source_row};
use super::tensor_type::TensorType;
use crate::llama::weights::{INDEX, SINGLE};
use crate::tensor_file::FloatType;
use anneal_engine::Failure;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// About how many bytes of a safetensors file are made at once.
const PIECE: usize = 1 << 20;
/// Pieces between two reports of progress.
const ROUND: usize = 256;

/// Told how many bytes are written and how many will be; an error stops the writing.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<(), Failure>;

/// The dtype in which nothing of these tensors is lost.
pub(super) fn dtype(file: &Gguf, plan: &[Planned<'_>]) -> Result<FloatType, Failure> {
    let mut matrices = plan.iter().filter(|planned| planned.shape.len() > 1).map(|planned| planned.tensor.kind);
    let kind = matrices.next().unwrap_or(TensorType::F32);
    let (dtype, fits): (_, fn(f32) -> bool) = match kind {
        TensorType::F16 => (FloatType::F16, |v| f16::from_f32(v).to_f32() == v),
        TensorType::Bf16 => (FloatType::Bf16, |v| bf16::from_f32(v).to_f32() == v),
        _ => return Ok(FloatType::F32),
    };
    if matrices.any(|other| other != kind) {
        return Ok(FloatType::F32);
    }
    for planned in plan.iter().filter(|planned| planned.tensor.kind != kind) {
        if !file.read_f32(&planned.tensor.name, &planned.shape)?.into_iter().all(fits) {
            return Ok(FloatType::F32);
        }
    }
    Ok(dtype)
}

/// Writes the weights into `dir`, in shards of at most `max_shard` bytes and an index if there are several.
pub(super) fn write(
    file: &Gguf,
    plan: &[Planned<'_>],
    dtype: FloatType,
    max_shard: u64,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<(), Failure> {
    let bytes_of = |planned: &Planned<'_>| planned.shape.iter().product::<usize>() as u64 * dtype.size() as u64;
    let mut shards: Vec<Vec<&Planned<'_>>> = Vec::new();
    let mut filled = 0;
    for planned in plan {
        let bytes = bytes_of(planned);
        match shards.last_mut() {
            Some(shard) if filled + bytes <= max_shard => shard.push(planned),
            _ => {
                shards.push(vec![planned]);
                filled = 0;
            }
        }
        filled += bytes;
    }
    let total: u64 = plan.iter().map(bytes_of).sum();
    let mut done = 0;
    let mut index = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => SINGLE.to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        index.extend(shard.iter().map(|planned| (planned.name.clone(), name.clone())));
        write_shard(file, shard, dtype, &dir.join(&name), &mut |bytes| {
            done += bytes;
            progress(done, total)
        })?;
    }
    if shards.len() > 1 {
        let metadata = json!({"total_parameters": total / dtype.size() as u64, "total_size": total});
        super::write_json(&dir.join(INDEX), &json!({"metadata": metadata, "weight_map": index}))?;
    }
    Ok(())
}

/// Some whole rows of a tensor and where they go in the shard.
struct Piece<'a> {
    planned: &'a Planned<'a>,
    rows: std::ops::Range<usize>,
    /// Numbers in a row.
    width: usize,
    target: u64,
}

fn write_shard(
    file: &Gguf,
    shard: &[&Planned<'_>],
    dtype: FloatType,
    path: &Path,
    progress: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let io = |e: std::io::Error| Failure::io("write", path, &e);
    let mut ordered = shard.to_vec();
    // The order that the safetensors crate gives tensors of one dtype.
    ordered.sort_by(|a, b| a.name.cmp(&b.name));
    let (header, mut target) = header(&ordered, dtype)?;
    let out = File::create(path).map_err(io)?;
    out.write_all_at(&header, 0).map_err(io)?;
    let mut pieces = Vec::new();
    for planned in ordered {
        target = cut(planned, dtype, target, &mut pieces);
    }
    out.set_len(target).map_err(io)?;
    for round in pieces.chunks(ROUND) {
        let written = |piece: &Piece<'_>| -> Result<u64, Failure> {
            let bytes = convert(file, piece, dtype)?;
            out.write_all_at(&bytes, piece.target).map_err(io)?;
            Ok(bytes.len() as u64)
        };
        let bytes = round.par_iter().map(written).try_reduce(|| 0, |a, b| Ok(a + b))?;
        progress(bytes)?;
    }
    Ok(())
}

/// The header of a shard, its length in front, and where the data begins.
fn header(ordered: &[&Planned<'_>], dtype: FloatType) -> Result<(Vec<u8>, u64), Failure> {
    let kind = match dtype {
        FloatType::F32 => Dtype::F32,
        FloatType::F16 => Dtype::F16,
        FloatType::Bf16 => Dtype::BF16,
    };
    let mut offset = 0;
    let infos = ordered.iter().map(|planned| {
        let begin = offset;
        offset += planned.shape.iter().product::<usize>() * dtype.size();
        (planned.name.clone(), TensorInfo { dtype: kind, shape: planned.shape.clone(), data_offsets: (begin, offset) })
    });
    let infos = infos.collect();
    let bug = |e: &dyn std::fmt::Display| Failure::bug(format!("cannot make a safetensors header: {e}"));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(metadata), infos).map_err(|e| bug(&e))?;
    let mut text = serde_json::to_vec(&metadata).map_err(|e| bug(&e))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let begin = 8 + text.len() as u64;
    Ok(((text.len() as u64).to_le_bytes().into_iter().chain(text).collect(), begin))
}

/// Cuts a tensor into pieces of whole rows, and of whole heads where rows are permuted. Returns where the next begins.
fn cut<'a>(planned: &'a Planned<'a>, dtype: FloatType, mut target: u64, pieces: &mut Vec<Piece<'a>>) -> u64 {
    let numbers: usize = planned.shape.iter().product();
    // A vector is one row, unless its numbers themselves are permuted.
    let width = match (planned.shape.as_slice(), planned.head) {
        ([_], Some(_)) => 1,
        ([.., width], _) => *width,
        ([], _) => numbers,
    };
    let rows = numbers / width.max(1);
    let unit = planned.head.unwrap_or(1);
    let step = (PIECE / (width * dtype.size() * unit).max(1)).max(1) * unit;
    for begin in (0..rows).step_by(step) {
        let rows = begin..rows.min(begin + step);
        let bytes = (rows.len() * width * dtype.size()) as u64;
        pieces.push(Piece { planned, rows, width, target });
        target += bytes;
    }
    target
}

/// The bytes of a piece as they are in the shard.
fn convert(file: &Gguf, piece: &Piece<'_>, dtype: FloatType) -> Result<Vec<u8>, Failure> {
    let tensor = piece.planned.tensor;
    let row_bytes = piece.width / tensor.kind.block_len() as usize * tensor.kind.block_bytes() as usize;
    let mut stored = vec![0; piece.rows.len() * row_bytes];
    file.read_at(tensor.offset + (piece.rows.start * row_bytes) as u64, &mut stored)?;
    if let Some(head) = piece.planned.head {
        stored = in_order(&stored, row_bytes, head);
    }
    let same = matches!(
        (tensor.kind, dtype),
        (TensorType::F32, FloatType::F32) | (TensorType::F16, FloatType::F16) | (TensorType::Bf16, FloatType::Bf16)
    );
    if same {
        return Ok(stored);
    }
    let mut numbers = vec![0.0; piece.rows.len() * piece.width];
    dequantize(tensor.kind, &stored, &mut numbers);
    Ok(match dtype {
        FloatType::F32 => encode(&numbers, f32::to_le_bytes),
        FloatType::F16 => encode(&numbers, |v| f16::from_f32(v).to_le_bytes()),
        FloatType::Bf16 => encode(&numbers, |v| bf16::from_f32(v).to_le_bytes()),
    })
}

/// Rows of whole heads, put back into Hugging Face's order. Quantised blocks never cross rows, so rows move as they are.
pub(super) fn in_order(stored: &[u8], row_bytes: usize, head: usize) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(stored.len());
    for rows in stored.chunks(head * row_bytes) {
        for row in 0..head {
            let at = source_row(row, head) * row_bytes;
            ordered.extend_from_slice(&rows[at..at + row_bytes]);
        }
    }
    ordered
}

fn encode<const N: usize>(numbers: &[f32], write: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    let mut bytes = vec![0; numbers.len() * N];
    for (out, number) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(numbers) {
        *out = write(*number);
    }
    bytes
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
