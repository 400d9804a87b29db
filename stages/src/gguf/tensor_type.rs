//! How GGUF stores the numbers of a tensor: the type's code, name and block layout sizes.
//!
//! Facts from the GGUF specification and ggml's documented blocks. Unaware of files.

/// A storage type that this engine reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// 4 bytes a number.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// 32 numbers: f16 scale, signed bytes.
    Q8_0,
    /// 32 numbers: f16 scale, 4 bits each, centred on 8.
    Q4_0,
    /// 32 numbers: f16 scale and offset, 4 bits each.
    Q4_1,
    /// 32 numbers: f16 scale, 5 bits each, centred on 16.
    Q5_0,
    /// 32 numbers: f16 scale and offset, 5 bits each.
    Q5_1,
    /// 256 numbers: two f16, eight groups with 6-bit scale and offset, 4 bits each.
    Q4K,
    /// 256 numbers: two f16, eight groups with 6-bit scale and offset, 5 bits each.
    Q5K,
    /// 256 numbers: f16, sixteen groups with 8-bit scale, 6 bits each.
    Q6K,
}

/// Code, type, name, numbers a block, bytes a block.
const TYPES: [(u32, TensorType, &str, u64, u64); 11] = [
    (0, TensorType::F32, "F32", 1, 4),
    (1, TensorType::F16, "F16", 1, 2),
    (30, TensorType::Bf16, "BF16", 1, 2),
    (8, TensorType::Q8_0, "Q8_0", 32, 34),
    (2, TensorType::Q4_0, "Q4_0", 32, 18),
    (3, TensorType::Q4_1, "Q4_1", 32, 20),
    (6, TensorType::Q5_0, "Q5_0", 32, 22),
    (7, TensorType::Q5_1, "Q5_1", 32, 24),
    (12, TensorType::Q4K, "Q4_K", 256, 144),
    (13, TensorType::Q5K, "Q5_K", 256, 176),
    (14, TensorType::Q6K, "Q6_K", 256, 210),
];

/// Names of codes that are not read, so that an error can name them.
const OTHERS: [(u32, &str); 23] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (4, "Q4_2"),
    (5, "Q4_3"),
];

impl TensorType {
    /// The type of a code.
    pub fn of_code(code: u32) -> Option<Self> {
        TYPES.iter().find(|entry| entry.0 == code).map(|entry| entry.1)
    }

    /// What to call a code that is not read.
    pub fn name_of_code(code: u32) -> String {
        let known = OTHERS.iter().find(|entry| entry.0 == code).map(|entry| entry.1.to_owned());
        known.unwrap_or_else(|| format!("of the unknown type {code}"))
    }

    /// The names of all types that are read.
    pub fn names() -> String {
        TYPES.map(|entry| entry.2).join(", ")
    }

    fn entry(self) -> &'static (u32, Self, &'static str, u64, u64) {
        TYPES.iter().find(|entry| entry.1 == self).unwrap_or(&TYPES[0])
    }

    /// Its name in the GGUF specification.
    pub fn name(self) -> &'static str {
        self.entry().2
    }

    /// Numbers in a block.
    pub fn block_len(self) -> u64 {
        self.entry().3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> u64 {
        self.entry().4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_in_the_table_once() {
        for (code, kind, name, ..) in TYPES {
            assert_eq!((TensorType::of_code(code), kind.name()), (Some(kind), name));
            assert!(OTHERS.iter().all(|other| other.0 != code));
        }
        assert_eq!(TensorType::name_of_code(10), "Q2_K");
        assert_eq!(TensorType::name_of_code(77), "of the unknown type 77");
    }
}
