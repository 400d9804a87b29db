//! Every manifest of the repository is one that the program understands.
use crate::project::Project;
use anneal_engine::manifest::{LoadOptions, load};
use std::path::{Path, PathBuf};

/// All manifests below a folder.
fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(manifests(&path));
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_manifest_parses_and_plans() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let found = manifests(&root.join("manifests"));
    assert!(!found.is_empty(), "there are manifests");
    let project = Project::new();
    for path in found {
        let options = LoadOptions { sets: Vec::new(), cwd: root.to_owned(), root: None, any_size: false };
        let pipeline = load(&anneal_stages::registry(), &path, &options)
            .unwrap_or_else(|problems| panic!("{}: {problems:?}", path.display()));
        assert!(!pipeline.stages.is_empty(), "{}", path.display());
        // Files that are not in the repository are a remark for `plan`, fatal for `run`.
        let name = path.to_str().unwrap();
        let planned = project.anneal(&["plan", name, "--outputs", "planned"]);
        assert_eq!(planned.code, Some(0), "{name}: {}", planned.stderr);
        for node in &pipeline.stages {
            assert!(planned.stdout.contains(&node.name), "{name}: {}", planned.stdout);
        }
        if pipeline.stages.iter().any(|node| !node.missing.is_empty()) {
            assert!(planned.stderr.contains("warning: "), "{name}: {}", planned.stderr);
            let run = project.anneal(&["run", name, "--outputs", "planned"]);
            assert_eq!(run.code, Some(3), "{name}: {}", run.stderr);
            assert!(run.stderr.contains("error: "), "{name}: {}", run.stderr);
        } else {
            assert_eq!(planned.stderr, "", "{name}");
        }
    }
}

/// The memory of every cell of a sweep of the repository, with a single step in each.
fn swept(manifest: &str, trainers: &[&str]) -> Vec<(serde_json::Value, f64)> {
    let project = Project::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("manifests").join(manifest);
    let path = path.to_str().unwrap();
    let mut args = vec![path.to_owned(), "--outputs".to_owned(), "out".to_owned()];
    for trainer in trainers {
        args.extend(
            ["max_steps=1", "eval_examples=1"].iter().flat_map(|set| ["--set".to_owned(), format!("{trainer}.{set}")]),
        );
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (executed, _) = project.run(&args);
    let report = project.anneal(&[&["report", "--json"], &args[..]].concat());
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    let rows = report["results"].as_array().unwrap();
    assert_eq!(executed, 3 + rows.len());
    // Nothing needs what was trained.
    assert_eq!(std::fs::read_dir(project.path("out/objects-v1/trees")).unwrap().count(), 3);
    rows.iter().map(|row| (row["setting"].clone(), row["values"]["peak_mib"].as_f64().unwrap())).collect()
}

#[test]
fn batch_sizes_are_swept_on_the_tiny_model() {
    for (manifest, trainer) in [("sweep-batch-size.toml", "lora"), ("sweep-batch-size-fft.toml", "fft")] {
        let rows = swept(manifest, &[trainer]);
        let sizes: Vec<u64> = rows.iter().map(|(setting, _)| setting["batch_size"].as_u64().unwrap()).collect();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32]);
        assert!(rows.iter().all(|(setting, _)| setting["batch_size"] == setting["eval_batch_size"]));
        assert!(rows[5].1 > 2.0 * rows[0].1, "{rows:?}");
    }
}

#[test]
fn what_saves_memory_saves_memory_on_the_tiny_model() {
    let rows = swept("ablate-memory.toml", &["lora", "lora_accumulated", "fft", "fft_accumulated"]);
    assert_eq!(rows.len(), 18);
    for trainer in ["lora", "fft"] {
        let with = |key: &str, value: &str| {
            let found = rows.iter().find(|(setting, _)| setting[format!("{trainer}.{key}")] == value);
            found.unwrap_or_else(|| panic!("{trainer}.{key}={value} in {rows:?}")).1
        };
        let plain = rows.iter().filter(|(setting, _)| setting.as_object().is_none_or(serde_json::Map::is_empty));
        let most = plain.map(|(_, peak)| *peak).fold(0.0, f64::max);
        assert!(with("checkpointing", "full") < 0.8 * most, "{rows:?}");
    }
}
