//! Any bytes as a GGUF file: no panic and no memory beyond a small multiple of the file; every tensor that the header
//! promises can be read; an error names the file.
//!
//! `cargo +nightly fuzz run gguf` in `tests/` (with a stable compiler: `RUSTC_BOOTSTRAP=1 cargo fuzz run gguf`).
#![no_main]

use anneal_stages::gguf::Gguf;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let name = Path::new("m.gguf");
    match Gguf::from_bytes(name, bytes.to_vec()) {
        Ok(file) => {
            for tensor in file.tensors() {
                assert!(tensor.offset + tensor.bytes <= bytes.len() as u64, "{tensor:?}");
                assert!(file.read_f32(&tensor.name, &tensor.shape).is_ok(), "{tensor:?}");
            }
            if let Err(failure) = file.check() {
                assert!(failure.message.starts_with("m.gguf: "), "{failure}");
            }
        }
        Err(failure) => assert!(failure.message.starts_with("m.gguf: byte "), "{failure}"),
    }
});
