//! The seven stages run, once: what is unchanged does not run again, and a change reaches as far as its bytes.
use crate::project::Project;
use std::collections::BTreeSet;

/// Stages of the tiny manifest.
const STAGES: usize = 9;

#[test]
fn all_seven_kinds_run_and_a_second_run_executes_nothing() {
    let project = Project::new();
    let manifest = std::fs::read_to_string(project.path("tiny.toml")).unwrap();
    // What a command makes is up to its program; `command` has manifests of its own.
    for kind in anneal_stages::registry().kinds().iter().filter(|kind| kind.kind() != "command") {
        assert!(manifest.contains(&format!("kind = \"{}\"", kind.kind())), "{} is not in tiny.toml", kind.kind());
    }
    assert_eq!(project.run(&["tiny.toml"]), (STAGES, 0));
    assert_eq!(project.digests(&["tiny.toml"]).len(), STAGES);
    assert_eq!(project.run(&["tiny.toml"]), (0, STAGES));
    // Words that change nothing.
    project.edit("rank = 4\nalpha = 8\n", "alpha = 8.0 # a comment\nrank = 0x4\n");
    project.edit("train-fft\"\n", "train-fft\"\nepochs = 3.0 # the default\n");
    assert_eq!(project.run(&["tiny.toml"]), (0, STAGES));
    // The links lead to whole results.
    let score = std::fs::read_to_string(project.artifact("tiny", "score").join("scores.json")).unwrap();
    assert!(score.contains("\"em\""), "{score}");
    let answers = std::fs::read_to_string(project.artifact("tiny", "answers").join("answers.jsonl")).unwrap();
    assert_eq!(answers.lines().count(), 2);
}

/// What runs after a change, by stage names.
fn executed(project: &Project, args: &[&str]) -> BTreeSet<String> {
    let outcome = project.anneal(&[&["run", "--json", "tiny.toml"], args].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let finished = outcome.events().into_iter().filter(|event| event["event"]["type"] == "stage-finished");
    finished.map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_change_reaches_as_far_as_its_bytes() {
    let project = Project::new();
    project.run(&["tiny.toml"]);
    let before = project.digests(&["tiny.toml"]);
    // By --set: another rank makes another adapter; nothing that does not use it runs. So small a model may well give
    // the same answers, and then nothing is scored again.
    let set = ["--set", "lora.rank=2"];
    let mut expected = names(&["lora", "merged", "answers"]);
    let ran = executed(&project, &set);
    let after = project.digests(&[&["tiny.toml"], &set[..]].concat());
    assert!(after["lora"] != before["lora"] && after["merged"] != before["merged"]);
    expected.extend((after["answers"] != before["answers"]).then(|| "score".to_owned()));
    assert_eq!(ran, expected);
    // By hand in the file: the same keys, so it is all there.
    project.edit("rank = 4", "rank = 2");
    assert_eq!(executed(&project, &[]), names(&[]));
    project.edit("rank = 2", "rank = 4");
    assert_eq!(executed(&project, &[]), names(&[]));
    // Checkpoints at other steps are another key, but the same adapter: the change stops there.
    assert_eq!(executed(&project, &["--set", "lora.checkpoint_every=2"]), names(&["lora"]));
    assert_eq!(project.digests(&["tiny.toml", "--set", "lora.checkpoint_every=2"]), before);
    // Only a label of the report.
    assert_eq!(executed(&project, &["--set", "score.label=a label"]), names(&["score"]));
    // A file that changes its spelling, not its questions, is another data set, but makes the same tokens.
    let text = project.read("train.json");
    project.write("train.json", text + "\n");
    assert_eq!(executed(&project, &[]), names(&["data", "base", "tokens", "score"]));
    // The seed is in every key.
    let all = executed(&project, &["--set", "experiment.seed=8"]);
    assert_eq!(all.len(), STAGES, "{all:?}");
}

#[test]
fn results_do_not_depend_on_jobs_threads_or_place() {
    let first = Project::new();
    first.run(&["tiny.toml", "--jobs", "1"]);
    let digests = first.digests(&["tiny.toml"]);
    assert_eq!(digests.len(), STAGES);
    let second = Project::named("a folder with spaces, Ünïcödé and 表");
    for (jobs, threads, outputs) in [("4", "1", "outputs"), ("1", "2", "other outputs/ž"), ("2", "4", "third")] {
        let args = ["run", "tiny.toml", "--jobs", jobs, "--outputs", outputs];
        let mut command = second.command(&args);
        command.env("RAYON_NUM_THREADS", threads);
        let outcome = second.outcome(command);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(second.digests(&["tiny.toml", "--outputs", outputs]), digests, "jobs {jobs}, threads {threads}");
    }
}

#[test]
fn a_result_that_was_removed_or_edited_is_made_again() {
    let project = Project::new();
    project.run(&["tiny.toml"]);
    let digests = project.digests(&["tiny.toml"]);
    let answers = project.artifact("tiny", "answers");
    std::fs::remove_dir_all(&answers).unwrap();
    assert_eq!(project.run(&["tiny.toml"]), (1, STAGES - 1));
    // Shortened, as by a crash of the disk.
    let adapter = project.artifact("tiny", "lora").join("adapter_model.safetensors");
    let bytes = std::fs::read(&adapter).unwrap();
    std::fs::remove_file(&adapter).unwrap();
    std::fs::write(&adapter, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(project.run(&["tiny.toml"]), (1, STAGES - 1));
    assert_eq!(std::fs::read(&adapter).unwrap(), bytes);
    // Every record, the index, the links: all of it is an index or can be made again.
    std::fs::remove_dir_all(project.path("outputs/objects-v1/records")).unwrap();
    std::fs::remove_dir_all(project.path("outputs/latest")).unwrap();
    std::fs::write(project.path("outputs/objects-v1/index"), "rubbish\n{\"\0").unwrap();
    assert_eq!(project.run(&["tiny.toml"]), (STAGES, 0));
    assert_eq!(project.digests(&["tiny.toml"]), digests);
}

#[test]
fn two_runs_at_once_execute_every_stage_once() {
    let project = Project::new();
    let args = ["run", "--json", "tiny.toml", "--set", "lora.max_steps=20"];
    let children: Vec<_> = (0..3)
        .map(|_| {
            let mut command = project.command(&args);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let mut finished = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        finished.extend(text.lines().filter(|line| line.contains("\"stage-finished\"")).map(str::to_owned));
    }
    assert_eq!(finished.len(), STAGES, "{finished:#?}");
}
