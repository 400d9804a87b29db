//! The bytes of every stage kind on the tiny inputs. Whoever changes what a stage makes must raise its `VERSION`, or
//! results of the old code would pass for those of the new; this test notices.
//!
//! Files, ids and initial weights are the same on every machine. What training makes depends on whether the processor
//! fuses multiplication and addition, not on the width of its registers (sums are kept in sixteen parts in every case),
//! so it is pinned for both sorts of x86-64. The exponentials and cosines are those of glibc.
use crate::project::Project;

/// Stage of the tiny manifest, its kind, the digest of its output.
type Pin = (&'static str, &'static str, &'static str);

const EVERYWHERE: [Pin; 3] = [
    ("data", "load", "1c506aec9ad37a3c29886deff9cce21ea6e49088901c9ac3c86f2195308e1c3e"),
    ("base", "load", "98aa1ddaabc4ca2e106c382d278f5f6f3479e182f0b4c614bdafdfd131391f43"),
    ("tokens", "tokenize", "3befd76e44d43c629940cf1dd476416db5903963dfb63f70e29c5be8efbab8e6"),
];

/// Of a manifest of its own.
const COMMAND: Pin = ("greeting", "command", "1dd844dbd62b6d8f82fe7774ed4d395fb020fec1d271ac073f7e0553321ad065");
const COMMAND_MANIFEST: &str = r#"
[experiment]
name = "pinned"
[stages.greeting]
kind = "command"
command = ["sh", "-c", "mkdir {out}/a && printf '%s %s %s\\n' \"$ANNEAL_SEED\" \"$LANG\" {{x}} > {out}/a/b && echo > {out}/c"]
outputs = ["a/"]
"#;

/// With fused multiplication and addition: AVX2 and FMA, or AVX-512.
const FUSED: [Pin; 6] = [
    ("lora", "train-lora", "e456fd8b35940a6dd17ca331f2288925005e67b158d5cbee6894ba1458bd14de"),
    ("fft", "train-fft", "dd458f474a1ad8317140fe472aea7950aa5caee6e6950d8b1cd5fc19ad57cb99"),
    ("merged", "consolidate", "99eb24e7adf32d60175e8ebc77153f4177ca2e31de827d0d7d91bd424ecc4c01"),
    ("tuned", "consolidate", "25d2f56f0509a39610509230223627e66b534ed107868065e1461435053c65eb"),
    ("answers", "infer", "40fe986323fe6cf7b0dba1c18861c617ede6fd03486aa285cbca8997efc09bfa"),
    ("score", "evaluate", "0181fbdd19ea0b820c867bf9afdace912b5cd6b34ee43e102d01171f4881fb4a"),
];

/// With separate multiplication and addition.
const SEPARATE: [Pin; 6] = [
    ("lora", "train-lora", "209709f336fe9fc25e4649b69758f6e7817d2374ca3c4a0437f8f72e12ee8108"),
    ("fft", "train-fft", "cc95d23726e3fb337544d8df3530ed4fbe6aa562e93625aa7ea779e8ca2994b4"),
    ("merged", "consolidate", "d49defbbe556c52117b66fd73816b282cdd6cb5f7dc4be7f54ffd1c4d55ffdc4"),
    ("tuned", "consolidate", "9176c6e946bcc9b317eb7e1ee1ad5eac5b634a17bd24892ce55afd8b91b44448"),
    ("answers", "infer", "40fe986323fe6cf7b0dba1c18861c617ede6fd03486aa285cbca8997efc09bfa"),
    ("score", "evaluate", "0181fbdd19ea0b820c867bf9afdace912b5cd6b34ee43e102d01171f4881fb4a"),
];

/// The pins for this machine's floating-point results.
fn here() -> Option<&'static [Pin]> {
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    {
        let fused = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        Some(if fused { &FUSED } else { &SEPARATE })
    }
    #[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
    None
}

#[test]
fn every_stage_kind_makes_the_pinned_bytes() {
    let project = Project::new();
    project.run(&["tiny.toml"]);
    let mut digests = project.digests(&["tiny.toml"]);
    project.write("command.toml", COMMAND_MANIFEST);
    project.run(&["command.toml"]);
    digests.extend(project.digests(&["command.toml"]));
    let kinds = anneal_stages::registry();
    let floats = here().unwrap_or_else(|| {
        println!("skipped: no pins for this machine's instruction set; what training makes is not compared");
        &[]
    });
    let mut changed = String::new();
    for (stage, kind, pinned) in EVERYWHERE.iter().chain([&COMMAND]).chain(floats) {
        let found = &digests[*stage];
        if found != pinned {
            let version = kinds.get(kind).unwrap().version();
            changed += &format!("\n    (\"{stage}\", \"{kind}\", \"{found}\"), // VERSION {version}");
        }
    }
    assert!(
        changed.is_empty(),
        "stages make other bytes than before. If that is meant, raise VERSION of each kind whose own code changed (not \
         of those that only got other inputs) and pin the new digests, for both sorts of processors (a user-mode emulator shows the \
         other one):{changed}"
    );
    for kind in kinds.kinds() {
        let pinned = EVERYWHERE.iter().chain([&COMMAND]).chain(&FUSED).any(|(_, pinned, _)| *pinned == kind.kind());
        assert!(pinned, "no stage of kind {} is pinned", kind.kind());
    }
}
