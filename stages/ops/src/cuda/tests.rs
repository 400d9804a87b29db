//! Tests of what kernels share, on the GPU; skipped where there is none.

use dfdx::prelude::{Cuda, ZerosTensor};

use super::gemm::plain;
use super::*;
use crate::OpError;
use crate::backend::{Memory, Transfer};
use crate::host::vector_to_vec;
use crate::testing::{close, gpu, inputs, wide};

fn values(seed: u64, len: usize) -> Vec<f32> {
    inputs::<Cuda>(seed, len)
}

#[test]
fn a_missing_gpu_is_an_error_that_says_so() {
    if let Err(error) = open() {
        assert!(matches!(error, OpError::DeviceUnusable { .. } | OpError::Lacking { .. }), "{error}");
    }
}

#[test]
fn data_goes_through_the_door_and_back() {
    let Some(dev) = gpu() else { return };
    let sent = values(1, 1000);
    let bf16 = dev.tensor_from(Cuda::elems_from_f32(sent.clone()), (10, 100)).unwrap();
    let f32s = dev.tensor_from(sent.clone(), (1000,)).unwrap();
    // dfdx's own copies see what went through our addresses.
    assert_eq!(Cuda::elems_to_f32(bf16.as_vec()), sent);
    assert_eq!(f32s.as_vec(), sent);
    assert_eq!(dev.tensor_read(&f32s).unwrap(), sent);
    let out = new_act(&dev, 10, 100).unwrap();
    let args = [Arg::Ptr(addr(&out).unwrap()), Arg::Ptr(addr(&f32s).unwrap()), Arg::U64(1000)];
    // SAFETY: both have 1000 elements.
    unsafe { launch(&dev, "anneal_cross_entropy_narrow", Grid::over(&dev, 1000, 1), &args) }.unwrap();
    assert_eq!(Cuda::elems_to_f32(out.as_vec()), sent);
    let other = new_vector(&dev, 1000).unwrap();
    assert_ne!(addr(&other).unwrap(), addr(&f32s).unwrap());
    assert_eq!(addr(&f32s.clone()).unwrap(), addr(&f32s).unwrap());
    let small = upload(&dev, &[1u32, 2, 3]).unwrap();
    assert_eq!(download(&dev, &small).unwrap(), [1, 2, 3]);
    assert!(download(&dev, &upload::<i32>(&dev, &[]).unwrap()).unwrap().is_empty());
    assert!(multiprocessors(&dev) > 1);
}

#[test]
fn memory_is_counted_and_its_lack_is_an_error() {
    let Some(dev) = gpu() else { return };
    let held = scratch::<u8>(&dev, 100 << 20).unwrap();
    let used = dev.memory_use().unwrap().unwrap();
    assert!(used.current >= 100 << 20 && used.peak >= used.current, "{used:?}");
    drop(held);
    dev.reset_peak().unwrap();
    let bytes = 1usize << 45;
    match scratch::<u8>(&dev, bytes) {
        Err(OpError::OutOfMemory { bytes: Some(asked) }) => assert_eq!(asked, bytes),
        other => panic!("{:?}", other.map(|_| "allocated")),
    }
    assert!(matches!(new_act(&dev, 1 << 22, 1 << 22), Err(OpError::OutOfMemory { .. })));
    assert_eq!(download(&dev, &upload(&dev, &[7u8]).unwrap()).unwrap(), [7], "the device still works");
}

#[test]
fn a_kernel_that_is_not_there_is_named() {
    let Some(dev) = gpu() else { return };
    let grid = Grid { blocks: (1, 1, 1), threads: 32, shared_bytes: 0 };
    // SAFETY: there is no such kernel.
    let error = unsafe { launch(&dev, "anneal_nothing", grid, &[]) }.unwrap_err();
    assert_eq!(
        error.to_string(),
        "device: no kernel `anneal_nothing`: it must be in a `.cu` file that its name begins with"
    );
    let grid = Grid { shared_bytes: 1 << 20, ..grid };
    // SAFETY: refused before the launch.
    let error = unsafe { launch(&dev, "anneal_linear_round", grid, &[]) }.unwrap_err();
    assert!(error.to_string().contains("wants 1048576 bytes of shared memory"), "{error}");
}

/// A matrix on the device in either type, stored transposed or not.
fn operand(dev: &Cuda, values: &[f32], [rows, cols]: [usize; 2], wide: bool, transposed: bool) -> (Keep, Operand) {
    let stored: Vec<f32> = if transposed {
        (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
    } else {
        values.to_vec()
    };
    let ld = if transposed { rows } else { cols };
    let (keep, operand) = if wide {
        let slice = upload(dev, &stored).unwrap();
        let operand = Operand::f32(slice_addr(&slice), ld);
        (Keep::Wide(slice), operand)
    } else {
        let slice = upload(dev, &Cuda::elems_from_f32(stored)).unwrap();
        let operand = Operand::bf16(slice_addr(&slice), ld);
        (Keep::Narrow(slice), operand)
    };
    (keep, if transposed { operand.t() } else { operand })
}

enum Keep {
    Wide(Slice<f32>),
    Narrow(Slice<Bf16>),
}

impl Keep {
    fn read(&self, dev: &Cuda) -> Vec<f32> {
        match self {
            Self::Wide(slice) => download(dev, slice).unwrap(),
            Self::Narrow(slice) => Cuda::elems_to_f32(download(dev, slice).unwrap()),
        }
    }
}

struct Case {
    sizes: [usize; 3],
    wide: (bool, bool),
    transposed: (bool, bool),
    beta: f32,
}

/// The product on the device, by cuBLASLt or the plain kernel, and in f64.
fn multiply(dev: &Cuda, case: &Case, by_hand: bool) -> (Vec<f32>, Vec<f64>) {
    let [m, n, k] = case.sizes;
    let (a, b, c) = (values(1, m * k), values(2, k * n), values(3, m * n));
    let (_a, a_on) = operand(dev, &a, [m, k], case.wide.0, case.transposed.0);
    let (_b, b_on) = operand(dev, &b, [k, n], case.wide.0, case.transposed.1);
    let (out, c_on) = operand(dev, &c, [m, n], case.wide.1, false);
    let call = Gemm { m, n, k, a: a_on, b: b_on, c: c_on, alpha: 0.5, beta: case.beta, source: None };
    // SAFETY: the operands hold the matrices.
    unsafe { if by_hand { plain(dev, &call) } else { gemm(dev, &call) } }.unwrap();
    let (a, b, c) = (wide(&a), wide(&b), wide(&c));
    let element = |i: usize| {
        let (row, col) = (i / n, i % n);
        let dot: f64 = (0..k).map(|j| a[row * k + j] * b[j * n + col]).sum();
        0.5 * dot + f64::from(case.beta) * c[i]
    };
    (out.read(dev), (0..m * n).map(element).collect())
}

#[test]
fn products_of_every_kind_agree_with_f64() {
    let Some(dev) = gpu() else { return };
    let sizes = [[64, 128, 256], [1, 64, 64], [3, 5, 7], [257, 16, 128], [16, 128, 257], [130, 1, 33], [2, 9, 1]];
    // Sums over one, few and many tokens, of widths that cuBLASLt takes.
    let few = [[8, 8, 1], [8, 1, 8], [1, 8, 8], [64, 40, 72], [72, 64, 40], [64, 1100, 72], [72, 64, 1100]];
    for sizes in sizes.into_iter().chain(few) {
        for bits in 0..32u32 {
            let bit = |i: u32| bits >> i & 1 == 1;
            // f32 times f32 into bf16 is not needed.
            if bit(0) && !bit(1) {
                continue;
            }
            let beta = if bit(4) { 1.0 } else { 0.0 };
            let case = Case { sizes, wide: (bit(0), bit(1)), transposed: (bit(2), bit(3)), beta };
            // With beta 1 cuBLASLt rounds to bf16 twice.
            let bound = if case.wide.1 { 1e-5 } else { 1.0 / 128.0 };
            for by_hand in [false, true] {
                let (got, want) = multiply(&dev, &case, by_hand);
                close(&format!("{sizes:?} {bits:05b} {by_hand}"), &got, &want, bound);
            }
        }
    }
}

/// Weights of Llama-3-8B and SmolLM2, their branches, and shapes that cuBLASLt does not like; down to one row.
#[test]
fn a_row_has_the_same_bits_whatever_the_number_of_rows() {
    let Some(dev) = gpu() else { return };
    const MOST: usize = 300;
    let large = [[4096, 4096], [1024, 4096], [14336, 4096], [4096, 14336], [48, 4096], [4096, 16]];
    let small = [[576, 576], [192, 576], [1536, 576], [576, 1536], [16, 576], [576, 16], [72, 40], [5, 7], [33, 1]];
    for [n, k] in large.into_iter().chain(small) {
        let (_a, a) = operand(&dev, &values(1, MOST * k), [MOST, k], false, false);
        let (_b, stored) = operand(&dev, &values(2, n * k), [n, k], false, false);
        for (transposed, wide) in [(true, false), (false, false), (true, true), (false, true)] {
            let b = if transposed { stored.t() } else { Operand { ld: n, ..stored } };
            let rows_of = |m: usize| {
                let (out, c) = operand(&dev, &vec![0.0; m * n], [m, n], wide, false);
                // SAFETY: the operands hold the matrices.
                unsafe { gemm(&dev, &Gemm::new([m, n, k], a, b, c)) }.unwrap();
                out.read(&dev)
            };
            let all = rows_of(MOST);
            for m in (1..=16).chain([31, 33, 64, 65, 127, 129]) {
                assert!(rows_of(m) == all[..m * n], "{m} rows, weight [{n}, {k}], {transposed} {wide}");
            }
        }
    }
}

#[test]
fn products_over_nothing_and_wrong_operands() {
    let Some(dev) = gpu() else { return };
    let c = upload(&dev, &[3.0f32; 6]).unwrap();
    let nothing = Operand::bf16(slice_addr(&c), 3);
    let call = Gemm {
        m: 2,
        n: 3,
        k: 0,
        a: Operand::bf16(slice_addr(&c), 0),
        b: nothing,
        c: Operand::f32(slice_addr(&c), 3),
        alpha: 1.0,
        beta: 1.0,
        source: None,
    };
    // SAFETY: nothing is read; C has 6 elements.
    unsafe {
        gemm(&dev, &call).unwrap();
        assert_eq!(download(&dev, &c).unwrap(), [3.0; 6]);
        gemm(&dev, &Gemm { beta: 0.0, ..call }).unwrap();
        assert_eq!(download(&dev, &c).unwrap(), [0.0; 6]);
        let mixed = Gemm { k: 1, b: Operand::f32(slice_addr(&c), 3), ..call };
        assert!(gemm(&dev, &mixed).unwrap_err().to_string().contains("do not fit together"));
    }
}

/// The matrix added may be another than C, also where nothing is summed.
#[test]
fn a_products_source_may_be_another_matrix() {
    let Some(dev) = gpu() else { return };
    for [m, n, k] in [[64, 128, 256], [3, 5, 7], [2, 9, 0]] {
        let (a, b, source) = (values(1, m * k + 1), values(2, k * n + 1), values(3, m * n));
        let (_a, a_on) = operand(&dev, &a[..m * k], [m, k], false, false);
        let (_b, b_on) = operand(&dev, &b[..k * n], [k, n], false, false);
        let (_source, source_on) = operand(&dev, &source, [m, n], false, false);
        let (out, c_on) = operand(&dev, &vec![9.0; m * n], [m, n], false, false);
        let call = Gemm { beta: 1.0, source: Some(source_on.addr), ..Gemm::new([m, n, k], a_on, b_on, c_on) };
        // SAFETY: the operands hold the matrices.
        unsafe { gemm(&dev, &call) }.unwrap();
        let want = |i: usize| {
            let dot = |j: usize| f64::from(a[i / n * k + j]) * f64::from(b[j * n + i % n]);
            f64::from(source[i]) + (0..k).map(dot).sum::<f64>()
        };
        let want: Vec<f64> = (0..m * n).map(want).collect();
        close(&format!("{m} {n} {k}"), &out.read(&dev), &want, 1.0 / 128.0);
    }
}

/// More than both pinned buffers, with a rest; and a weight as files hold it.
#[test]
fn large_arrays_go_through_pinned_memory() {
    let Some(dev) = gpu() else { return };
    let numbers: Vec<u32> = (0..20_000_003).collect();
    for _ in 0..2 {
        assert!(download(&dev, &upload(&dev, &numbers).unwrap()).unwrap() == numbers);
    }
    let weight = values(9, 3000 * 1001);
    let bytes: Vec<u8> = Cuda::elems_from_f32(weight.clone()).iter().flat_map(|x| x.0.to_le_bytes()).collect();
    let read = dev.weight_from_bf16(&bytes, 3000, 1001).unwrap().unwrap();
    assert!(Cuda::elems_to_f32(dev.tensor_read(&read).unwrap()) == weight);
    assert!(dev.weight_from_bf16(&bytes, 3000, 1000).is_err());
}

/// dfdx's clearing is left out only inside `unwritten`, and its caller is told.
#[test]
fn memory_is_cleared_unless_left_out() {
    let Some(dev) = gpu() else { return };
    // A pool that hands out what was freed last shows what was there.
    let full = || drop(upload(&dev, &[1.0f32; 1 << 16]).unwrap());
    full();
    let (made, left_out) = dev.unwritten(|| ZerosTensor::<f32>::try_zeros_like(&dev, &(1 << 16,)));
    assert!(made.is_ok() && left_out);
    let (_, left_out) = dev.unwritten(|| ());
    assert!(!left_out);
    drop(made);
    full();
    let cleared = ZerosTensor::<f32>::try_zeros_like(&dev, &(1 << 16,)).unwrap();
    assert!(vector_to_vec::<Cuda>(&cleared).iter().all(|x| *x == 0.0));
}

/// The rule that decoding one prompt and many give the same answers rests on.
#[test]
fn a_rows_bits_do_not_depend_on_the_number_of_rows() {
    let Some(dev) = gpu() else { return };
    for (n, k, wide) in [(576, 576, false), (1536, 576, false), (576, 1536, false), (16, 4096, true), (4096, 16, false)]
    {
        let (a, b) = (values(5, 4100 * k), values(6, n * k));
        let (_b, b_on) = operand(&dev, &b, [n, k], false, false);
        let (_a, a_on) = operand(&dev, &a, [4100, k], false, false);
        let rows = |m: usize| {
            let (out, c_on) = operand(&dev, &vec![0.0; m * n], [m, n], wide, false);
            let call = Gemm { m, n, k, a: a_on, b: b_on.t(), c: c_on, alpha: 1.0, beta: 0.0, source: None };
            // SAFETY: A has 4100 rows, of which m are used.
            unsafe { gemm(&dev, &call) }.unwrap();
            out.read(&dev)
        };
        let all = rows(4100);
        for m in [1, 2, 7, 8, 64, 100, 1000, 4096] {
            assert!(rows(m) == all[..m * n], "{m} of 4100 rows, {n} x {k}");
        }
    }
}
