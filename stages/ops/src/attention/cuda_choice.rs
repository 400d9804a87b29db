//! Which kernels of attention a device runs for a head size, and what their blocks need.
//!
//! Head sizes that are multiples of 8 up to 128 run on tensor cores, in tiles with room for 64, 80, 96 or 128 elements;
//! with room for 64 and 128, on compute capability 9.0, in products of whole warpgroups. Other sizes up to 256 run on plain
//! kernels. The choice never depends on numbers of rows: a row has the same bits in any batch. Unaware of what the kernels
//! compute.

use dfdx::prelude::Cuda;

use super::Heads;
use super::plan::{FORWARD_ROWS, LOW, TALL};
use crate::OpError;
use crate::cuda::{Bf16, warpgroup_products};

const OP: &str = "attention";

/// Rows of a block of keys: `KEYS` of tiles.cuh; also of a block of queries in the key kernels, `QUERIES`.
const BLOCK: usize = 64;
/// The largest head size.
pub(super) const WIDEST: usize = 256;

/// Kernels for a head size.
pub(super) struct Kernels {
    /// Elements of a head that a tile has room for; 0 for the plain kernels, which have no tiles.
    room: usize,
    /// Whether these are the kernels of `attention_hopper.cu`, which go over tiles of [`TALL`] rows.
    pub(super) hopper: bool,
    pub(super) forward: &'static str,
    pub(super) backward_kv: &'static str,
    pub(super) backward_q: &'static str,
}

macro_rules! kernels {
    ($room:expr, $suffix:literal) => {
        Kernels {
            room: $room,
            hopper: false,
            forward: concat!("anneal_attention_forward_", $suffix),
            backward_kv: concat!("anneal_attention_backward_kv_", $suffix),
            backward_q: concat!("anneal_attention_backward_q_", $suffix),
        }
    };
    (hopper $room:expr, $suffix:literal) => {
        Kernels {
            room: $room,
            hopper: true,
            forward: concat!("anneal_attention_hopper_forward_", $suffix),
            backward_kv: concat!("anneal_attention_hopper_kv_", $suffix),
            backward_q: concat!("anneal_attention_hopper_q_", $suffix),
        }
    };
}

const HOPPER: [Kernels; 2] = [kernels!(hopper 64, "64"), kernels!(hopper 128, "128")];
const TENSOR_CORES: [Kernels; 4] = [kernels!(64, "64"), kernels!(80, "80"), kernels!(96, "96"), kernels!(128, "128")];
const PLAIN: Kernels = kernels!(0, "plain");

impl Kernels {
    /// Those for heads on the device.
    ///
    /// # Errors
    /// If the heads are wider than any kernel takes.
    pub(super) fn of(dev: &Cuda, heads: Heads) -> Result<&'static Self, OpError> {
        let dim = heads.head_dim;
        if dim > WIDEST {
            let message = format!("heads of {dim} elements: the CUDA kernels take up to {WIDEST}");
            return Err(OpError::argument(OP, message));
        }
        Ok(choose(dim, warpgroup_products(dev)))
    }

    /// Threads of a block: `THREADS` of mma.cuh, or `HOPPER_THREADS` of ring.cuh.
    pub(super) fn threads(&self) -> usize {
        if self.hopper { 384 } else { 128 }
    }

    /// Bytes of shared memory for tiles of so many rows together.
    fn tiles(&self, rows: usize) -> usize {
        match (self.room, self.hopper) {
            (0, _) => 0,
            (room, true) => rows * room * size_of::<Bf16>(),
            (room, false) => rows * (room + 8) * size_of::<Bf16>(),
        }
    }

    /// A block's shared memory with `rows` of its own and `stages` in a ring, each of two blocks, `beside` bytes and a
    /// barrier. It begins at a multiple of 1024.
    fn ring(&self, rows: usize, stages: usize, beside: usize) -> usize {
        1024 + self.tiles(rows) + stages * (self.tiles(2 * BLOCK) + beside + 8)
    }

    /// Bytes of shared memory of a block of `forward`.
    pub(super) fn forward_shared(&self) -> usize {
        match self.hopper {
            true => self.ring(FORWARD_ROWS, if self.room == 128 { 5 } else { 6 }, 0),
            false => self.tiles(FORWARD_ROWS + 2 * BLOCK),
        }
    }

    /// Bytes of shared memory of a block of `backward_q`.
    pub(super) fn backward_q_shared(&self) -> usize {
        if self.hopper { self.ring(2 * TALL, 4, 0) } else { self.tiles(2 * LOW + 2 * BLOCK) }
    }

    /// Bytes of shared memory of a block of `backward_kv`, where a block may have `limit`, and how many blocks of queries
    /// are in flight if the kernel is to be told.
    pub(super) fn backward_kv_shared(&self, limit: usize) -> (usize, Option<i32>) {
        let statistics = 2 * BLOCK * size_of::<f32>();
        if self.hopper {
            return (self.ring(2 * TALL, 4, statistics + 16), None);
        }
        if self.room == 0 {
            return (0, None);
        }
        // Two in flight if two such blocks of threads fit a multiprocessor, else one.
        let (tiles, stage) = (self.tiles(2 * LOW), self.tiles(2 * BLOCK) + statistics);
        let stages = if 2 * (tiles + 2 * stage) <= limit { 2 } else { 1 };
        (tiles + stages * stage, Some(stages as i32))
    }
}

/// Kernels for heads of `dim` elements, at most [`WIDEST`].
fn choose(dim: usize, warpgroups: bool) -> &'static Kernels {
    let fits = TENSOR_CORES.iter().find(|kernels| dim.is_multiple_of(8) && dim <= kernels.room);
    let Some(fits) = fits else { return &PLAIN };
    HOPPER.iter().find(|kernels| warpgroups && kernels.room == fits.room).unwrap_or(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_size_has_its_kernels() {
        let name = |dim, warpgroups| choose(dim, warpgroups).forward.trim_start_matches("anneal_attention_");
        assert_eq!([8, 64, 72, 88, 104, 128].map(|dim| name(dim, false)), {
            ["forward_64", "forward_64", "forward_80", "forward_96", "forward_128", "forward_128"]
        });
        assert_eq!([64, 80, 96, 120].map(|dim| name(dim, true)), {
            ["hopper_forward_64", "forward_80", "forward_96", "hopper_forward_128"]
        });
        assert_eq!([33, 136, 256].map(|dim| name(dim, true)), ["forward_plain"; 3]);
    }

    #[test]
    fn blocks_fit_a_multiprocessor() {
        for kernels in &HOPPER {
            let most = [kernels.forward_shared(), kernels.backward_q_shared(), kernels.backward_kv_shared(0).0];
            assert!(most.iter().all(|bytes| *bytes <= 227 * 1024), "{most:?}");
        }
        // `BARRIERS + 8 * STAGES` of the kernels, and what a block may lack to a multiple of 1024.
        let wide = &HOPPER[1];
        assert_eq!(wide.forward_shared(), 1024 + 0x30000 + 5 * 8);
        assert_eq!(wide.backward_q_shared(), 1024 + 0x30000 + 4 * 8);
        assert_eq!(wide.backward_kv_shared(0).0, 1024 + 0x30840 + 4 * 8);
        // 100 KiB a block where there is no room for two blocks in flight.
        assert_eq!(TENSOR_CORES[3].backward_kv_shared(100 * 1024), (4 * 64 * 272 + 512, Some(1)));
        assert_eq!(TENSOR_CORES[3].backward_kv_shared(227 * 1024), (6 * 64 * 272 + 1024, Some(2)));
    }
}
