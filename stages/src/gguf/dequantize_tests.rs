use super::*;
use crate::gguf::testing::noise;

/// FNV-1a, which any language computes in three lines.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The same 64 blocks of noise, dequantised by the Python package gguf 0.19, as little-endian f32: FNV-1a of all bytes,
/// the first number and the last.
#[test]
fn every_bit_is_that_of_the_python_package() {
    let golden: [(TensorType, &[usize], u64, [f32; 2]); 10] = [
        (TensorType::Q8_0, &[0], 0x525f_4b02_69fd_5216, [-0.386_604_3, -11.928_711]),
        (TensorType::Q4_0, &[0], 0xb4b4_356e_65cc_5e47, [-0.021_308_899, -0.982_177_73]),
        (TensorType::Q4_1, &[0, 2], 0x1c09_e486_e4fb_e46b, [-0.104_217_53, -0.000_839_710_24]),
        (TensorType::Q5_0, &[0], 0xaa30_7715_f0f7_f37f, [0.018_264_77, 0.150_329_59]),
        (TensorType::Q5_1, &[0, 2], 0x3aa7_e364_f97a_c7df, [-0.128_570_56, -0.004_198_551]),
        (TensorType::Q4K, &[0, 2], 0x71b2_2d65_c973_df50, [1.001_342_8, 5.871_057_5e-5]),
        (TensorType::Q5K, &[0, 2], 0xfc1f_78e4_927c_5774, [0.818_695_07, 3.349_662_8]),
        (TensorType::Q6K, &[208], 0x5db2_80f1_dd06_44cf, [-1048.2227, -0.002_215_504_6]),
        (TensorType::F16, &[0], 0xf3cd_fc44_e62e_f723, [0.003_044_128_4, 8.523_464e-6]),
        (TensorType::Bf16, &[0], 0x1de2_9568_2064_e533, [3.887_749e-23, 1.313_247_6e-38]),
    ];
    for (kind, halves, hash, [first, last]) in golden {
        let bytes = noise(kind, 64, halves);
        let mut numbers = vec![0.0; 64 * kind.block_len() as usize];
        dequantize(kind, &bytes, &mut numbers);
        assert_eq!((numbers[0], numbers[numbers.len() - 1]), (first, last), "{}", kind.name());
        assert_eq!(fnv(numbers.iter().flat_map(|number| number.to_le_bytes())), hash, "{}", kind.name());
    }
}

#[test]
fn a_block_by_hand() {
    // d = 0.5, m = 2; the first byte holds 3 (number 0) and 10 (number 16).
    let mut block = [0; 20];
    block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
    block[4] = 0xa3;
    let mut numbers = [0.0; 32];
    dequantize(TensorType::Q4_1, &block, &mut numbers);
    assert_eq!((numbers[0], numbers[1], numbers[16], numbers[17]), (3.5, 2.0, 7.0, 2.0));
}
