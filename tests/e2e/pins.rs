//! The bytes of every stage kind on the tiny inputs. Whoever changes what a stage makes must raise its `VERSION`, or
//! results of the old code would pass for those of the new; this test notices.
//!
//! Files, ids and initial weights are the same on every machine. Sums of floating-point numbers depend on the width of
//! a register (sixteen lanes with AVX-512, eight with AVX2) and on fused multiplication, so what training makes is
//! pinned for each of these classes.
use crate::project::Project;

/// Stage of the tiny manifest, its kind, the digest of its output.
type Pin = (&'static str, &'static str, &'static str);

const EVERYWHERE: [Pin; 3] = [("data", "load", "?"), ("base", "load", "?"), ("tokens", "tokenize", "?")];

const AVX512: [Pin; 6] = [
    ("lora", "train-lora", "?"),
    ("fft", "train-fft", "?"),
    ("merged", "consolidate", "?"),
    ("tuned", "consolidate", "?"),
    ("answers", "infer", "?"),
    ("score", "evaluate", "?"),
];

const AVX2: [Pin; 6] = [
    ("lora", "train-lora", "?"),
    ("fft", "train-fft", "?"),
    ("merged", "consolidate", "?"),
    ("tuned", "consolidate", "?"),
    ("answers", "infer", "?"),
    ("score", "evaluate", "?"),
];

/// The pins for this machine's floating-point results.
fn here() -> Option<&'static [Pin]> {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx2 {
            return Some(if avx512 { &AVX512 } else { &AVX2 });
        }
    }
    None
}

#[test]
fn every_stage_kind_makes_the_pinned_bytes() {
    let project = Project::new();
    project.run(&["tiny.toml"]);
    let digests = project.digests(&["tiny.toml"]);
    let kinds = anneal_stages::registry();
    let floats = here().unwrap_or_else(|| {
        println!("skipped: no pins for this machine's instruction set; what training makes is not compared");
        &[]
    });
    let mut changed = String::new();
    for (stage, kind, pinned) in EVERYWHERE.iter().chain(floats) {
        let found = &digests[*stage];
        if found != pinned {
            let version = kinds.get(kind).unwrap().version();
            changed += &format!("\n    (\"{stage}\", \"{kind}\", \"{found}\"), // VERSION {version}");
        }
    }
    assert!(
        changed.is_empty(),
        "stages make other bytes than before. If that is meant, raise VERSION of each kind whose own code changed (not \
         of those that only got other inputs) and pin the new digests, for every class of machines:{changed}"
    );
    for kind in kinds.kinds() {
        let pinned = EVERYWHERE.iter().chain(&AVX512).any(|(_, pinned, _)| *pinned == kind.kind());
        assert!(pinned, "no stage of kind {} is pinned", kind.kind());
    }
}
