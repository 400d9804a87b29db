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
