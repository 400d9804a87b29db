//! The machine: toolchain, numerics classes, cores, memory. Unaware of files that runs read or write.
mod gpu;

use super::Finding;
use std::path::Path;
use std::process::Command;

/// Below this, bytes, even a small model does not train.
const LITTLE_MEMORY: u64 = 2 << 30;

pub(super) fn look(numerics: &[&str], root: &Path) -> Vec<Finding> {
    let mut findings = vec![Finding::fine("anneal", format!("version {}", env!("CARGO_PKG_VERSION")))];
    findings.extend(toolchain(root));
    findings.push(device(numerics, Path::new("/dev/nvidiactl").exists()));
    findings.extend(gpu::look());
    findings.push(processor());
    findings.push(memory());
    findings
}

/// Only a checkout names a toolchain; whoever has the binary alone needs none.
fn toolchain(root: &Path) -> Option<Finding> {
    let text = std::fs::read_to_string(root.join("rust-toolchain.toml")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    let wanted = table.get("toolchain")?.get("channel")?.as_str()?.to_owned();
    // A look must not install anything, which rustup would do by itself.
    let asked = Command::new("rustc").arg("--version").current_dir(root).env("RUSTUP_AUTO_INSTALL", "0").output();
    let found = asked.ok().filter(|output| output.status.success());
    let found = found.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    Some(judge_toolchain(&wanted, found.as_deref()))
}

fn judge_toolchain(wanted: &str, found: Option<&str>) -> Finding {
    let next = format!("to build from source, run `rustup toolchain install {wanted}`");
    let version = found.and_then(|line| line.split_whitespace().nth(1));
    match (found, version) {
        (Some(line), Some(version)) if version == wanted || version.starts_with(&format!("{wanted}.")) => {
            Finding::fine("toolchain", line)
        }
        (Some(line), _) => Finding::missing("toolchain", format!("{line}; rust-toolchain.toml names {wanted}"), next),
        (None, _) => Finding::missing("toolchain", format!("no rustc {wanted}"), next),
    }
}

fn device(numerics: &[&str], gpu: bool) -> Finding {
    let classes = numerics.join(", ");
    let on_gpu = numerics.iter().any(|class| class.starts_with("cuda"));
    match (gpu, on_gpu) {
        (true, false) => Finding::missing(
            "numerics",
            format!("{classes}; the NVIDIA GPU here is not used by this build"),
            "to use it, build with `cargo build --release --features cuda`",
        ),
        (false, true) => {
            Finding::fine("numerics", format!("{classes}; there is no NVIDIA GPU here, so only the CPU's"))
        }
        _ => Finding::fine("numerics", classes),
    }
}

fn processor() -> Finding {
    let cores = anneal_engine::lease::cores();
    let (fast, names) = vector_units();
    let text = format!("{cores}, {names}");
    if fast {
        return Finding::fine("cores", text);
    }
    Finding::missing("cores", text, "expect slow runs: choose a machine whose processor has AVX2 and FMA")
}

#[cfg(target_arch = "x86_64")]
fn vector_units() -> (bool, String) {
    let units = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
    ];
    let there: Vec<&str> = units.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    let names = if there.is_empty() { "without vector units".to_owned() } else { format!("with {}", there.join(", ")) };
    (units[0].1 && units[1].1, names)
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_units() -> (bool, String) {
    (true, std::env::consts::ARCH.to_owned())
}

fn memory() -> Finding {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    judge_memory(&read("/proc/meminfo"), &read("/sys/fs/cgroup/memory.max"), &read("/sys/fs/cgroup/memory.current"))
}

/// From `/proc/meminfo` and a control group's limit and use, which says `max` or nothing where there is none.
fn judge_memory(meminfo: &str, limit: &str, used: &str) -> Finding {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let (Some(total), Some(free)) = (field("MemTotal:"), field("MemAvailable:")) else {
        return Finding::fine("memory", "this system does not say how much there is");
    };
    let limit: Option<u64> = limit.trim().parse().ok();
    let left = limit.map(|limit| limit.saturating_sub(used.trim().parse().unwrap_or(0)));
    let free = left.map_or(free, |left| left.min(free));
    let total = limit.map_or(total, |limit| limit.min(total));
    let text = format!("{} free of {}", super::outputs::size(free), super::outputs::size(total));
    if free < LITTLE_MEMORY {
        return Finding::missing("memory", text, "end other programs, or choose a small model and a small batch_size");
    }
    Finding::fine("memory", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Level;

    #[test]
    fn memory_is_the_least_of_what_system_and_group_leave() {
        let meminfo = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n";
        for (limit, used, text, level) in [
            ("max\n", "", "8.0 GiB free of 16.0 GiB", Level::Fine),
            ("", "", "8.0 GiB free of 16.0 GiB", Level::Fine),
            ("6442450944\n", "1073741824\n", "5.0 GiB free of 6.0 GiB", Level::Fine),
            ("2147483648", "1073741824", "1.0 GiB free of 2.0 GiB", Level::Missing),
        ] {
            let found = judge_memory(meminfo, limit, used);
            assert_eq!((found.text.as_str(), found.level), (text, level));
        }
        assert!(judge_memory("", "", "").text.contains("does not say"));
    }

    #[test]
    fn a_toolchain_is_judged_by_its_version() {
        for (found, level) in [
            (Some("rustc 1.95.0 (abc 2026-01-01)"), Level::Fine),
            (Some("rustc 1.9.0 (abc)"), Level::Missing),
            (Some("rustc 1.950.0"), Level::Missing),
            (Some(""), Level::Missing),
            (None, Level::Missing),
        ] {
            assert_eq!(judge_toolchain("1.95", found).level, level, "{found:?}");
        }
        assert_eq!(judge_toolchain("1.95.0", Some("rustc 1.95.0 (x)")).level, Level::Fine);
    }

    #[test]
    fn a_gpu_without_a_class_is_said() {
        assert!(device(&["cpu-f32"], true).text.contains("is not used by this build"));
        assert!(device(&["cuda-bf16", "cpu-f32"], false).text.contains("no NVIDIA GPU"));
        assert_eq!(device(&["cpu-f32"], false).text, "cpu-f32");
    }
}
