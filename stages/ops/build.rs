//! With the feature `cuda`: compiles every `src/*/*.cu` with nvcc into machine code for several GPUs, and writes a table
//! of the images for `src/cuda/launch.rs`. Without the feature it does nothing and needs nothing.
//!
//! Environment: `NVCC` or `CUDA_PATH`, `CUDA_ROOT`, `CUDA_HOME` (whose `bin/nvcc` it is) or the PATH; and
//! `ANNEAL_CUDA_ARCHS`, e.g. `80 90a`, to compile for fewer GPUs. A kernel that spills registers fails the build, and so does
//! one whose asynchronous products ptxas makes wait for each other.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ARCHITECTURES: &str = "80 86 89 90a";

fn main() {
    println!("cargo:rustc-check-cfg=cfg(cuda_backend)");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo:rustc-cfg=cuda_backend");
    if let Err(message) = build() {
        println!("cargo::error={}", message.trim_end().replace('\n', "\ncargo::error="));
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    for name in ["ANNEAL_CUDA_ARCHS", "NVCC", "CUDA_PATH", "CUDA_ROOT", "CUDA_HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=src");
    let archs = std::env::var("ANNEAL_CUDA_ARCHS").unwrap_or_else(|_| ARCHITECTURES.to_string());
    let out = PathBuf::from(std::env::var("OUT_DIR").map_err(|e| e.to_string())?);
    let (sources, nvcc) = (sources()?, nvcc());
    let cores = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).max(1);
    for batch in sources.chunks(cores) {
        let compile = |source| compile(&nvcc, source, &out, &archs);
        std::thread::scope(|scope| {
            let jobs: Vec<_> = batch.iter().map(|source| scope.spawn(move || compile(source))).collect();
            let wait = |job: std::thread::ScopedJoinHandle<Result<(), String>>| {
                job.join().unwrap_or_else(|_| Err("a thread of the build stopped".to_string()))
            };
            jobs.into_iter().try_for_each(wait)
        })?;
    }
    let entry = |source: &PathBuf| {
        let name = stem(source);
        let path = image(&out, source);
        format!("    ({name:?}, &Aligned(*include_bytes!({path:?}))),\n")
    };
    let entries: String = sources.iter().map(entry).collect();
    let table = format!(
        "const ARCHITECTURES: &str = {archs:?};\nstatic FATBINS: &[(&str, &Aligned<[u8]>)] = &[\n{entries}];\n"
    );
    std::fs::write(out.join("kernels.rs"), table).map_err(|e| format!("kernels.rs: {e}"))
}

fn list(path: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(path).map_err(|e| format!("{}: {e}", path.display()))?;
    entries.map(|entry| Ok(entry.map_err(|e| format!("{}: {e}", path.display()))?.path())).collect()
}

fn sources() -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for folder in list(Path::new("src"))?.into_iter().filter(|path| path.is_dir()) {
        found.extend(list(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "cu")));
    }
    found.sort();
    Ok(found)
}

fn stem(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn image(out: &Path, source: &Path) -> PathBuf {
    out.join(format!("{}.fatbin", stem(source)))
}

fn nvcc() -> PathBuf {
    if let Some(named) = std::env::var_os("NVCC") {
        return named.into();
    }
    let roots = ["CUDA_PATH", "CUDA_ROOT", "CUDA_HOME"].into_iter().filter_map(std::env::var_os);
    let mut found = roots.map(|root| Path::new(&root).join("bin/nvcc")).filter(|path| path.is_file());
    found.next().unwrap_or_else(|| "nvcc".into())
}

/// Compiles one file and looks for what makes a kernel slow in what the assembler says.
fn compile(nvcc: &Path, source: &Path, out: &Path, archs: &str) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "-Xptxas", "-v", "-I", "src/cuda"]);
    for arch in archs.split([' ', ',']).filter(|arch| !arch.is_empty()) {
        command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    let output = command.arg("-o").arg(image(out, source)).arg(source).output().map_err(|error| {
        let advice = "set CUDA_PATH to a CUDA toolkit, or build through tools/cuda/toolkit.sh";
        format!("cannot run {}: {error}; {advice}", nvcc.display())
    })?;
    let said = text(&output);
    if !output.status.success() {
        return Err(format!("nvcc refuses {}:\n{said}", source.display()));
    }
    let mut kernel = "";
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function ") {
            kernel = rest;
        }
        if line.contains("spill stores") && !line.contains(" 0 bytes spill stores") {
            return Err(format!("{}: {kernel} spills registers: {}", source.display(), line.trim()));
        }
        if line.contains("wgmma") && line.contains("serializ") {
            return Err(format!("{}: products wait for each other: {}", source.display(), line.trim()));
        }
    }
    Ok(())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
