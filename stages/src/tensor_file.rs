//! safetensors files: mapped and checked on reading, written with stable bytes.
//!
//! Every offset is checked against the file's length before a byte is read, so a truncated file is an error with its
//! name, never an out-of-bounds read. Unaware of what the tensors mean.
use crate::failure::OrFail;
use anneal_engine::Failure;
use anneal_ops::MappedFile;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Metadata, TensorInfo, View};
use safetensors::{Dtype, SafeTensors};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

const COPY_AGAIN: &str = "the file is truncated or was damaged on its way; copy it again and compare its sha256";

/// The first name of a header that is there a second time.
struct Names(Option<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
        let (mut seen, mut twice) = (HashSet::new(), None);
        while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
            if let Some(name) = seen.replace(name) {
                twice = twice.or(Some(name));
            }
        }
        Ok(Names(twice))
    }
}

/// A mapped safetensors file whose header was checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: MappedFile,
    metadata: Metadata,
    /// Where the data begins.
    start: usize,
}

impl TensorFile {
    /// Maps a file and checks its header against its length.
    ///
    /// # Errors
    /// The file is missing, unreadable, truncated, or no safetensors file.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let map = MappedFile::open(path).or_fail()?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            Failure::user(format!("{}: not a whole safetensors file: {e} ({} bytes)", path.display(), map.len()))
                .hint(COPY_AGAIN)
        })?;
        let start = header + 8;
        // The crate keeps the last of several tensors of one name without a word.
        let names = map.get(8..start).map(serde_json::from_slice::<Names>);
        if let Some(Ok(Names(Some(twice)))) = names {
            return Err(
                Failure::user(format!("{}: the tensor `{twice}` is there twice", path.display())).hint(COPY_AGAIN)
            );
        }
        Ok(Self { path: path.to_owned(), map, metadata, start })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of its tensors, in order of their data.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Shape, dtype and place of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// The raw little-endian bytes of a tensor.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn bytes(&self, name: &str) -> Result<&[u8], Failure> {
        let info = self.require(name)?;
        let (begin, end) = info.data_offsets;
        self.map
            .get(self.start + begin..self.start + end)
            .ok_or_else(|| Failure::user(format!("{}: tensor `{name}` lies outside the file", self.path.display())))
            .map_err(|failure| failure.hint(COPY_AGAIN))
    }

    fn require(&self, name: &str) -> Result<&TensorInfo, Failure> {
        self.info(name).ok_or_else(|| {
            Failure::user(format!("{}: there is no tensor `{name}`", self.path.display()))
                .hint("the file is incomplete or of another kind; copy it again from where it came from")
        })
    }

    /// A floating-point tensor as f32 (exact for F16 and BF16), checked to have this shape.
    ///
    /// # Errors
    /// There is no such tensor, its shape is another one, or its dtype is not F32, F16, BF16 or F64.
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Failure> {
        let info = self.require(name)?;
        if info.shape != shape {
            return Err(Failure::user(format!(
                "{}: tensor `{name}` has shape {:?}, the configuration asks for {shape:?}",
                self.path.display(),
                info.shape
            ))
            .hint("config.json and the weights belong to different models"));
        }
        let bytes = self.bytes(name)?;
        let values = match info.dtype {
            Dtype::F32 => numbers(bytes, f32::from_le_bytes),
            Dtype::BF16 => numbers(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F16 => numbers(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::F64 => numbers(bytes, |b| f64::from_le_bytes(b) as f32),
            other => {
                return Err(Failure::user(format!(
                    "{}: tensor `{name}` is {other}, expected F32, F16, BF16 or F64",
                    self.path.display()
                ))
                .hint("save the model again with unquantised weights, in bf16 for instance"));
            }
        };
        // A model is read once, tensor by tensor: without this the file would count twice, as it is and as f32.
        self.release(name);
        Ok(values)
    }

    /// Says that a tensor's bytes were read and are not needed soon, so that they stop counting as this process's memory.
    pub fn release(&self, name: &str) {
        if let Some(info) = self.info(name) {
            let (begin, end) = info.data_offsets;
            self.map.release(self.start + begin..self.start + end);
        }
    }

    /// An integer tensor of rank 1 whose dtype is known beforehand.
    ///
    /// # Errors
    /// There is no such tensor, or it has another dtype.
    pub fn read<T, const N: usize>(&self, name: &str, dtype: Dtype, read: fn([u8; N]) -> T) -> Result<Vec<T>, Failure> {
        let info = self.require(name)?;
        if info.dtype != dtype {
            return Err(Failure::user(format!(
                "{}: tensor `{name}` is {}, expected {dtype}",
                self.path.display(),
                info.dtype
            ))
            .hint(COPY_AGAIN));
        }
        Ok(numbers(self.bytes(name)?, read))
    }
}

/// Whether tensors of this dtype are read as f32.
pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
}

fn numbers<T, const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

/// How floating-point tensors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// 4 bytes.
    F32,
    /// 2 bytes, the exponent of f32; rounded to nearest even.
    Bf16,
    /// 2 bytes, IEEE half; rounded to nearest even.
    F16,
}

impl FloatType {
    /// The one that a file's dtype names; `None` for integers and for widths that are not written here.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F16 => Some(Self::F16),
            _ => None,
        }
    }

    /// transformers' name for `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct OutTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl OutTensor {
    /// Stores f32 numbers as `dtype`. The number of values must be the product of the shape.
    pub fn floats(values: &[f32], shape: &[usize], dtype: FloatType) -> Self {
        let (dtype, bytes) = match dtype {
            FloatType::F32 => (Dtype::F32, little_endian(values, f32::to_le_bytes)),
            FloatType::Bf16 => (Dtype::BF16, little_endian(values, |v| bf16::from_f32(v).to_le_bytes())),
            FloatType::F16 => (Dtype::F16, little_endian(values, |v| f16::from_f32(v).to_le_bytes())),
        };
        Self { dtype, shape: shape.to_vec(), bytes }
    }

    /// Takes bytes as they are.
    pub fn raw(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { dtype, shape: shape.to_vec(), bytes }
    }

    /// Size of the data.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Every value's bytes, on all threads: a large model has gigabytes of them.
fn little_endian<const N: usize>(values: &[f32], bytes: impl Fn(f32) -> [u8; N] + Sync) -> Vec<u8> {
    const PIECE: usize = 1 << 18;
    let mut all = vec![0; values.len() * N];
    all.par_chunks_mut(PIECE * N).zip(values.par_chunks(PIECE)).for_each(|(all, values)| {
        for (to, value) in all.chunks_exact_mut(N).zip(values) {
            to.copy_from_slice(&bytes(*value));
        }
    });
    all
}

impl View for &OutTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes tensors into one file with the metadata `{"format": "pt"}` that transformers expects; the order of the
/// tensors in the file depends on their names and dtypes alone.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, tensors: &[(String, OutTensor)]) -> Result<(), Failure> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(e) => Failure::io("write", path, &e),
        other => Failure::bug(format!("cannot write {}: {other}", path.display())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_is_an_error_and_never_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let values = [1.0, -2.5, 3e-8, f32::MAX, 0.0, 7e9];
        write(&path, &[("a".into(), OutTensor::floats(&values, &[2, 3], FloatType::F32))]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let read = TensorFile::open(&path).unwrap().read_f32("a", &[2, 3]).unwrap();
        assert_eq!(read, values);
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let failure = TensorFile::open(&path).expect_err("truncated");
            assert!(failure.message.contains("a.safetensors"), "{failure}");
        }
    }

    #[test]
    fn a_wrong_shape_names_both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        write(&path, &[("a".into(), OutTensor::floats(&[1.0, 2.0], &[2], FloatType::Bf16))]).unwrap();
        let failure = TensorFile::open(&path).unwrap().read_f32("a", &[1, 2]).unwrap_err();
        assert!(failure.message.contains("[2]") && failure.message.contains("[1, 2]"), "{failure}");
    }
}
