//! The CPU runs a block op by op: its ops are long.

use dfdx::prelude::Cpu;

use super::DecoderKernel;

impl DecoderKernel for Cpu {
    type Prepared = ();
}
