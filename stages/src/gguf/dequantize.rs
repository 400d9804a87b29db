//! Stored numbers to f32, block by block, with the roundings that ggml's own arithmetic has: f32 throughout, products
//! before sums, nothing fused. Every type but the floats takes its layout from ggml's documented blocks. Unaware of files.
use super::tensor_type::TensorType;
use half::{bf16, f16};

/// Turns whole blocks into numbers. `bytes` and `out` belong together: as many blocks in one as in the other; what is
/// beyond the shorter one stays as it is.
pub(super) fn dequantize(kind: TensorType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        TensorType::F32 => blocks(bytes, out, |b: &[u8; 4], o: &mut [f32; 1]| o[0] = f32::from_le_bytes(*b)),
        TensorType::F16 => blocks(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = f16::from_le_bytes(*b).to_f32()),
        TensorType::Bf16 => blocks(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = bf16::from_le_bytes(*b).to_f32()),
        TensorType::Q8_0 => blocks(bytes, out, q8_0),
        TensorType::Q4_0 => blocks(bytes, out, q4_0),
        TensorType::Q4_1 => blocks(bytes, out, q4_1),
        TensorType::Q5_0 => blocks(bytes, out, q5_0),
        TensorType::Q5_1 => blocks(bytes, out, q5_1),
        TensorType::Q4K => blocks(bytes, out, q4_k),
        TensorType::Q5K => blocks(bytes, out, q5_k),
        TensorType::Q6K => blocks(bytes, out, q6_k),
    }
}

#[inline]
fn blocks<const N: usize, const M: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn(&[u8; N], &mut [f32; M])) {
    let (bytes, out) = (bytes.as_chunks::<N>().0, out.as_chunks_mut::<M>().0);
    for (block, numbers) in bytes.iter().zip(out) {
        read(block, numbers);
    }
}

fn half_at<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (o, q) in out.iter_mut().zip(&block[2..]) {
        *o = d * f32::from(*q as i8);
    }
}

// In blocks of 32 the low four bits are the first sixteen numbers, the high four the others.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = d * f32::from((q & 15) as i8 - 8);
        *high = d * f32::from((q >> 4) as i8 - 8);
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&block[4..]) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

/// The fifth bits of a block of 32: bit i belongs to number i.
fn fifth_bits<const N: usize>(block: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, fifth) = (half_at(block, 0), fifth_bits(block, 2));
    for (i, q) in block[6..].iter().enumerate() {
        let bit = |at: usize| ((fifth >> at & 1) << 4) as u8;
        out[i] = d * f32::from((q & 15 | bit(i)) as i8 - 16);
        out[i + 16] = d * f32::from((q >> 4 | bit(i + 16)) as i8 - 16);
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, fifth) = (half_at(block, 0), half_at(block, 2), fifth_bits(block, 4));
    for (i, q) in block[8..].iter().enumerate() {
        let bit = |at: usize| ((fifth >> at & 1) << 4) as u8;
        out[i] = d * f32::from(q & 15 | bit(i)) + m;
        out[i + 16] = d * f32::from(q >> 4 | bit(i + 16)) + m;
    }
}

/// Scale and offset of each of the eight groups: 6 bits, the upper two of the last four groups lie above the 6 bits of
/// the first four.
fn scale_and_offset(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, offset) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
    };
    (f32::from(scale), f32::from(offset))
}

// 32 bytes hold two groups of 32 numbers: the low four bits the first, the high four the second.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, offset) = scale_and_offset(&block[4..16], group);
        let (d, m) = (d * scale, dmin * offset);
        let (start, shift) = (16 + group / 2 * 32, group % 2 * 4);
        for (o, q) in out.iter_mut().zip(&block[start..start + 32]) {
            *o = d * f32::from(q >> shift & 15) - m;
        }
    }
}

// As Q4_K, with the fifth bit of group g in bit g of 32 further bytes.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, offset) = scale_and_offset(&block[4..16], group);
        let (d, m) = (d * scale, dmin * offset);
        let (start, shift) = (48 + group / 2 * 32, group % 2 * 4);
        for ((o, q), fifth) in out.iter_mut().zip(&block[start..start + 32]).zip(&block[16..48]) {
            *o = d * f32::from(q >> shift & 15 | (fifth >> group & 1) << 4) - m;
        }
    }
}

// Each half of 128 numbers has 64 bytes of low four bits and 32 bytes of upper two: a quarter of 32 numbers takes the
// low or the high half of 32 low bytes, and two bits of each upper byte. A scale covers 16 numbers.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, quarter) = (part / 4, part % 4);
        let low = &block[half * 64 + quarter % 2 * 32..][..32];
        let upper = &block[128 + half * 32..][..32];
        let scales = &block[192 + part * 2..][..2];
        let scales = [d * f32::from(scales[0] as i8), d * f32::from(scales[1] as i8)];
        for (i, o) in out.iter_mut().enumerate() {
            let q = low[i] >> (quarter / 2 * 4) & 15 | (upper[i] >> (quarter * 2) & 3) << 4;
            *o = scales[i / 16] * f32::from(q as i8 - 32);
        }
    }
}

#[cfg(test)]
#[path = "dequantize_tests.rs"]
mod tests;
