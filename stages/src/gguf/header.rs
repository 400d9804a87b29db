//! The header of a GGUF file: metadata and the table of tensors, every size checked before it is believed.
//!
//! Knows the container (versions 2 and 3, little-endian); unaware of what keys and tensors mean.
use super::metadata::{Entry, Metadata, Value};
use super::source::{Cursor, Source};
use super::tensor_type::TensorType;
use anneal_engine::Failure;
use std::collections::HashMap;

const MAGIC: u32 = u32::from_le_bytes(*b"GGUF");
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape, slowest dimension first as in PyTorch (the file has it the other way round).
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub kind: TensorType,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// Number of its bytes; they lie within the file.
    pub bytes: u64,
    /// Where its entry in the table begins.
    pub described_at: u64,
}

/// Reads metadata and tensor table.
pub(super) fn read(source: &Source) -> Result<(Metadata, Vec<Tensor>), Failure> {
    let mut cursor = Cursor::new(source);
    let magic = cursor.u32("the magic number")?;
    if magic != MAGIC {
        return Err(source.fault(0, "not a GGUF file: it does not begin with \"GGUF\""));
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => {}
        0 | 1 => {
            let hint = "convert it with a current llama.cpp: GGUF 1 was replaced in 2023";
            return Err(source.fault(4, format!("GGUF version {version}, expected 2 or 3")).hint(hint));
        }
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err(source.fault(4, "a big-endian GGUF file; only little-endian ones are read"));
        }
        _ => return Err(source.fault(4, format!("GGUF version {version}, expected 2 or 3"))),
    }
    // A table entry takes at least 24 bytes, a metadata entry 13.
    let tensors = cursor.count("tensors", 24)?;
    let keys = cursor.count("metadata entries", 13)?;
    let mut metadata = Metadata::new(source.path());
    for _ in 0..keys {
        let offset = cursor.offset();
        let key = cursor.text("a metadata key")?;
        let code = cursor.u32("a type")?;
        let value = value(source, &mut cursor, &key, code)?;
        if metadata.insert(key.clone(), Entry { offset, value }) {
            return Err(source.fault(offset, format!("the key `{key}` is there twice")));
        }
    }
    let alignment = alignment(source, &metadata)?;
    let mut table = Vec::new();
    let mut seen = HashMap::new();
    for _ in 0..tensors {
        let tensor = tensor(source, &mut cursor)?;
        if let Some(first) = seen.insert(tensor.name.clone(), tensor.described_at) {
            let what = format!("the tensor `{}` is there twice, first at byte {first}", tensor.name);
            return Err(source.fault(tensor.described_at, what));
        }
        table.push(tensor);
    }
    let data = cursor.offset().next_multiple_of(alignment);
    for tensor in &mut table {
        place(source, tensor, data, alignment)?;
    }
    apart(source, &table)?;
    Ok((metadata, table))
}

/// Checks that no two tensors share a byte: a small file could otherwise promise any number of large tensors.
fn apart(source: &Source, table: &[Tensor]) -> Result<(), Failure> {
    let mut ordered: Vec<&Tensor> = table.iter().collect();
    ordered.sort_by_key(|tensor| tensor.offset);
    match ordered.windows(2).find(|pair| pair[1].offset < pair[0].offset + pair[0].bytes) {
        None => Ok(()),
        Some(pair) => {
            let what = format!("the tensor `{}` begins within `{}`", pair[1].name, pair[0].name);
            Err(source.fault(pair[1].described_at, what))
        }
    }
}

fn alignment(source: &Source, metadata: &Metadata) -> Result<u64, Failure> {
    let key = "general.alignment";
    let alignment = metadata.integer(key)?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && alignment <= 1 << 20 {
        return Ok(alignment);
    }
    Err(source.fault(metadata.offset(key), format!("general.alignment is {alignment}, expected a power of two")))
}

/// Value types of the specification.
mod code {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

fn value(source: &Source, cursor: &mut Cursor<'_>, key: &str, code: u32) -> Result<Value, Failure> {
    Ok(match code {
        code::F32 => Value::Float(cursor.number(f32::from_le_bytes)?),
        code::F64 => Value::Float(cursor.number(f64::from_le_bytes)? as f32),
        code::BOOL => Value::Flag(cursor.u8("a flag")? != 0),
        code::TEXT => Value::Text(cursor.text(&format!("the text of `{key}`"))?),
        code::ARRAY => array(source, cursor, key)?,
        _ => Value::Integer(integer(source, cursor, key, code)?),
    })
}

fn integer(source: &Source, cursor: &mut Cursor<'_>, key: &str, code: u32) -> Result<i64, Failure> {
    let at = cursor.offset();
    Ok(match code {
        code::U8 => cursor.number(u8::from_le_bytes)?.into(),
        code::I8 => cursor.number(i8::from_le_bytes)?.into(),
        code::U16 => cursor.number(u16::from_le_bytes)?.into(),
        code::I16 => cursor.number(i16::from_le_bytes)?.into(),
        code::U32 => cursor.number(u32::from_le_bytes)?.into(),
        code::I32 => cursor.number(i32::from_le_bytes)?.into(),
        code::I64 => cursor.number(i64::from_le_bytes)?,
        code::U64 => {
            let number = cursor.number(u64::from_le_bytes)?;
            i64::try_from(number).map_err(|_| source.fault(at, format!("`{key}` is {number}, an absurd number")))?
        }
        _ => return Err(source.fault(at, format!("`{key}` has the unknown type {code}"))),
    })
}

fn array(source: &Source, cursor: &mut Cursor<'_>, key: &str) -> Result<Value, Failure> {
    let at = cursor.offset();
    let code = cursor.u32("a type")?;
    let least = match code {
        code::TEXT | code::U64 | code::I64 | code::F64 => 8,
        code::U32 | code::I32 | code::F32 => 4,
        code::U16 | code::I16 => 2,
        code::U8 | code::I8 | code::BOOL => 1,
        // Neither a model nor a tokenizer has arrays of arrays, and refusing them bounds the recursion.
        _ => return Err(source.fault(at, format!("`{key}` is an array of the type {code}, which is not read"))),
    };
    let count = cursor.count("array elements", least)?;
    // Nothing is reserved for `count` beforehand: elements in memory are larger than in the file.
    Ok(match code {
        code::TEXT => {
            let what = format!("a text of `{key}`");
            Value::Texts((0..count).map(|_| cursor.text(&what)).collect::<Result<_, _>>()?)
        }
        code::F32 => Value::Floats((0..count).map(|_| cursor.number(f32::from_le_bytes)).collect::<Result<_, _>>()?),
        code::F64 => {
            let read = |_| cursor.number(f64::from_le_bytes).map(|number| number as f32);
            Value::Floats((0..count).map(read).collect::<Result<_, _>>()?)
        }
        code::BOOL => {
            Value::Integers((0..count).map(|_| cursor.u8("a flag").map(i64::from)).collect::<Result<_, _>>()?)
        }
        _ => Value::Integers((0..count).map(|_| integer(source, cursor, key, code)).collect::<Result<_, _>>()?),
    })
}

fn tensor(source: &Source, cursor: &mut Cursor<'_>) -> Result<Tensor, Failure> {
    let described_at = cursor.offset();
    let name = cursor.text("a tensor's name")?;
    let dimensions = cursor.u32("a number of dimensions")?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        let what = format!("the tensor `{name}` has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}");
        return Err(source.fault(described_at, what));
    }
    let shape = (0..dimensions).map(|_| cursor.u64("a dimension")).collect::<Result<Vec<_>, _>>()?;
    let code = cursor.u32("a tensor type")?;
    let offset = cursor.u64("an offset")?;
    let Some(kind) = TensorType::of_code(code) else {
        let what = format!("the tensor `{name}` is {}, which is not read", TensorType::name_of_code(code));
        let hint = format!("take a file in one of {}", TensorType::names());
        return Err(source.fault(described_at, what).hint(hint));
    };
    let absurd = || source.fault(described_at, format!("the tensor `{name}` has the absurd shape {shape:?}"));
    let numbers = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size)).ok_or_else(absurd)?;
    if numbers == 0 || numbers > 1 << 48 {
        return Err(absurd());
    }
    if !shape[0].is_multiple_of(kind.block_len()) {
        let what = format!("the tensor `{name}` has rows of {}, no multiple of {}'s block", shape[0], kind.name());
        return Err(source.fault(described_at, what));
    }
    let bytes = numbers / kind.block_len() * kind.block_bytes();
    let shape = shape.iter().rev().map(|size| *size as usize).collect();
    Ok(Tensor { name, shape, kind, offset, bytes, described_at })
}

/// Turns an offset within the data into one within the file, and checks that the tensor's bytes are there.
fn place(source: &Source, tensor: &mut Tensor, data: u64, alignment: u64) -> Result<(), Failure> {
    if !tensor.offset.is_multiple_of(alignment) {
        let what = format!("the tensor `{}` begins at {}, no multiple of {alignment}", tensor.name, tensor.offset);
        return Err(source.fault(tensor.described_at, what));
    }
    let begin = data.checked_add(tensor.offset);
    let end = begin.and_then(|begin| begin.checked_add(tensor.bytes));
    match (begin, end) {
        (Some(begin), Some(end)) if end <= source.len() => {
            tensor.offset = begin;
            Ok(())
        }
        _ => {
            let what = format!(
                "the tensor `{}` has {} bytes from {} bytes after the header on",
                tensor.name, tensor.bytes, tensor.offset
            );
            Err(source.truncated(tensor.described_at, what))
        }
    }
}
