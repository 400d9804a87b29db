//! Programs as stages, through real manifests: what goes into their keys, what they see, what becomes of what they
//! write, and how they fail.
mod ending;

use crate::project::{Cases, Outcome, Project};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

/// A manifest of these stages in a project of its own.
fn project(stages: &str) -> Project {
    let project = Project::new();
    manifest(&project, stages);
    project
}

fn manifest(project: &Project, stages: &str) {
    project.write("c.toml", format!("[experiment]\nname = \"c\"\nseed = 11\n{stages}"));
}

/// One stage `a` that runs a shell script.
fn shell(script: &str, more: &str) -> String {
    format!("[stages.a]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n{more}\n")
}

fn read(project: &Project, stage: &str, file: &str) -> String {
    std::fs::read_to_string(project.artifact("c", stage).join(file)).unwrap()
}

/// The files of a stage's artifact, sorted.
fn files(project: &Project, stage: &str) -> Vec<String> {
    let root = project.artifact("c", stage);
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn json(project: &Project) -> Outcome {
    project.anneal(&["run", "--json", "c.toml"])
}

/// What a stage's notes say.
fn notes(outcome: &Outcome) -> Vec<String> {
    let events = outcome.events();
    let notes = events.iter().filter(|event| event["event"]["type"] == "note");
    notes.map(|event| event["event"]["message"].as_str().unwrap().to_owned()).collect()
}

/// The failure of a run that must fail.
fn failure(outcome: &Outcome) -> Value {
    let events = outcome.events();
    let failed = events.iter().find(|event| event["event"]["type"] == "stage-failed");
    failed.unwrap_or_else(|| panic!("{outcome:?}"))["event"]["failure"].clone()
}

#[test]
fn a_chain_runs_once_and_again_only_as_far_as_bytes_change() {
    let project = project(
        r#"
[stages.raw]
kind = "command"
command = ["sh", "scripts/make.sh", "{out}/data.txt"]
files = ["scripts"]

[stages.clean]
kind = "command"
inputs = { raw = "raw" }
command = ["scripts/clean.sh", "{input:raw}/data.txt"]
files = ["scripts/clean.sh", "data/words.txt"]
env = { SUFFIX = "!" }
outputs = ["clean.txt", "folder/"]

[stages.both]
kind = "command"
inputs = { one = "raw", the-other = "clean" }
command = ["sh", "-c", '''cat "$ANNEAL_INPUT_ONE/data.txt" "$ANNEAL_INPUT_THE_OTHER/clean.txt" > "{out}/all.txt"''']
"#,
    );
    project.write("scripts/make.sh", "printf 'b\\na\\n' > \"$1\"\n");
    project.write(
        "scripts/clean.sh",
        "#!/bin/sh\nsort \"$1\" data/words.txt > \"$ANNEAL_OUT/clean.txt\"\nmkdir \"$ANNEAL_OUT/folder\"\n\
         echo $SUFFIX > \"$ANNEAL_OUT/folder/x\"\necho left > \"$ANNEAL_OUT/rest.txt\"\n",
    );
    std::fs::set_permissions(project.path("scripts/clean.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    project.write("data/words.txt", "aa\n");

    let outcome = json(&project);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(notes(&outcome), ["left behind, not among its outputs: rest.txt"]);
    assert_eq!(read(&project, "both", "all.txt"), "b\na\na\naa\nb\n");
    assert_eq!(files(&project, "clean"), ["clean.txt", "folder/x"]);
    assert_eq!(project.run(&["c.toml"]), (0, 3));
    // A file that is declared by two stages, then one of one stage; the third takes bytes, not histories.
    project.write("scripts/make.sh", "printf 'b\\na\\n' > \"$1\" # the same\n");
    assert_eq!(project.run(&["c.toml"]), (1, 2));
    project.write("data/words.txt", "aaa\n");
    assert_eq!(project.run(&["c.toml"]), (2, 1));
    project.write("data/words.txt", "aa\n");
    assert_eq!(project.run(&["c.toml"]), (0, 3));
    // Every parameter, the seed and a new file in a declared folder.
    assert_eq!(project.run(&["c.toml", "--set", "clean.env.SUFFIX=?"]), (2, 1));
    assert_eq!(project.run(&["c.toml", "--set", "clean.env.OTHER=1"]), (1, 2));
    assert_eq!(project.run(&["c.toml", "--set", "clean.outputs=[\"clean.txt\"]"]), (2, 1));
    assert_eq!(
        project.run(&["c.toml", "--set", "raw.command=[\"sh\", \"scripts/make.sh\", \"{out}/data.txt\", \"x\"]"]),
        (1, 2)
    );
    assert_eq!(project.run(&["c.toml", "--set", "experiment.seed=12"]).0, 3);
    project.write("scripts/more/new.txt", "");
    assert_eq!(project.run(&["c.toml"]), (1, 2));
    // Where the project lies is in no key.
    let elsewhere = Project::named("else where");
    for file in ["c.toml", "scripts/make.sh", "scripts/clean.sh", "scripts/more/new.txt", "data/words.txt"] {
        elsewhere.write(file, project.read(file));
    }
    std::fs::set_permissions(elsewhere.path("scripts/clean.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    elsewhere.run(&["c.toml"]);
    let keys = |project: &Project| {
        let plan: Value = serde_json::from_str(&project.anneal(&["plan", "--json", "c.toml"]).stdout).unwrap();
        plan["stages"].as_array().unwrap().iter().map(|stage| stage["key"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&elsewhere), keys(&project));
    assert!(keys(&project).iter().all(Value::is_string));
}

#[test]
fn a_program_sees_a_small_and_known_world() {
    let script = "env | sort | cut -d= -f1 > {out}/names; env > {out}/all; cat > {out}/stdin; pwd > {out}/pwd; \
                  ls -A > {out}/files; touch scratch $TMPDIR/x; echo {{literal}} '{root}' > {out}/words";
    let project = project(&shell(script, "env = { MINE = \"{seed} {{}}\", LANG = \"C\" }\nfiles = [\"train.json\"]"));
    let mut command = project.command(&["run", "c.toml"]);
    command.env("SECRET", "1").env("LC_ALL", "de_DE.UTF-8").env("TZ", "Asia/Tokyo").env("OMP_NUM_THREADS", "3");
    let outcome = project.outcome(command);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let names = read(&project, "a", "names");
    let shells_own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let passed = ["HOME", "USER", "LOGNAME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"];
    let names: Vec<&str> = names.lines().filter(|name| !shells_own.contains(name) && !passed.contains(name)).collect();
    let expected =
        ["ANNEAL_OUT", "ANNEAL_ROOT", "ANNEAL_SEED", "LANG", "MINE", "OMP_NUM_THREADS", "PATH", "TMPDIR", "TZ"];
    assert_eq!(names, expected);
    let all = read(&project, "a", "all");
    for line in ["ANNEAL_SEED=11", "MINE=11 {}", "LANG=C", "TZ=UTC", "OMP_NUM_THREADS=3"] {
        assert!(all.lines().any(|found| found == line), "{line} in {all}");
    }
    assert_eq!(read(&project, "a", "stdin"), "");
    assert_eq!(read(&project, "a", "files"), "train.json\n");
    assert_eq!(
        read(&project, "a", "words"),
        format!("{{literal}} {}\n", project.path(".").parent().unwrap().join("project").display())
    );
    // The folder it worked in is gone, and nothing was written beside the manifest.
    assert!(!std::path::Path::new(read(&project, "a", "pwd").trim()).exists());
    assert!(!project.path("scratch").exists());
}

#[test]
fn metrics_are_recorded_and_mistakes_are_told() {
    let script = "echo 'anneal: metric em 12.5'; echo 'anneal: metric em 13'; echo 'anneal: metric bad NaN'; echo talk; \
                  echo 'anneal: metric loud 1' >&2; printf 'anneal: metric last -1e3'";
    let project = project(&shell(script, ""));
    let outcome = json(&project);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let events = outcome.events();
    let finished = events.iter().find(|event| event["event"]["type"] == "stage-finished").unwrap();
    assert_eq!(finished["event"]["metrics"], serde_json::json!({"em": 13.0, "last": -1000.0}));
    let notes = notes(&outcome);
    assert!(notes.len() == 1 && notes[0].starts_with("not recorded: `bad NaN`"), "{notes:?}");
    let run = std::fs::read_dir(project.path("outputs/runs")).unwrap().next().unwrap().unwrap().path();
    let log = std::fs::read_to_string(run.join("a.log")).unwrap();
    assert!(log.contains("talk\n") && log.contains("anneal: metric loud 1\n"), "{log}");
}

#[test]
fn failures_say_what_and_where() {
    let mut cases = Cases::default();
    let project = Project::new();
    let mut add = |name: &str, code: i32, stages: &str| {
        manifest(&project, stages);
        let outcome = project.anneal(&["run", "c.toml"]);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        cases.add(name, outcome.told());
    };
    add("an exit code", 3, &shell("echo one; echo two; exit 7", ""));
    add("silence", 3, &shell("exit 1", ""));
    add("a signal", 1, &shell("kill -SEGV $$", ""));
    add("out of memory", 5, &shell("echo 'MemoryError: 8 TiB' >&2; exit 1", ""));
    add("a missing program", 3, "[stages.a]\nkind = \"command\"\ncommand = [\"cpp_no_such_program\"]\n");
    add("a missing file of that name", 3, "[stages.a]\nkind = \"command\"\ncommand = [\"/no/such/program\"]\n");
    project.write("tool", "#!/no/such/shell\n");
    add("a program without x", 3, "[stages.a]\nkind = \"command\"\ncommand = [\"./tool\"]\nfiles = [\"tool\"]\n");
    std::fs::set_permissions(project.path("tool"), PermissionsExt::from_mode(0o755)).unwrap();
    add(
        "a script without its interpreter",
        3,
        "[stages.a]\nkind = \"command\"\ncommand = [\"./tool\"]\nfiles = [\"tool\"]\n",
    );
    add(
        "a missing output",
        3,
        &shell("mkdir -p {out}/x && echo > {out}/x/y && echo > {out}/f", r#"outputs = ["z.json", "x", "f/"]"#),
    );
    add("nothing written", 3, &shell("true", "outputs = [\"z.json\"]"));
    add("a link that leads outside", 3, &shell("ln -s /etc/passwd {out}/p", ""));
    add("a pipe", 3, &shell("mkfifo {out}/pipe", ""));
    insta::assert_snapshot!(cases);
}

#[test]
fn manifests_with_mistakes() {
    let mut cases = Cases::default();
    let project = Project::new();
    let mut add = |name: &str, stages: &str| {
        manifest(&project, stages);
        let outcome = project.anneal(&["run", "c.toml"]);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        cases.add(name, outcome.told());
    };
    let stage = |text: &str| format!("[stages.a]\nkind = \"command\"\n{text}\n");
    add("no command", &stage(""));
    add("an empty command", &stage("command = []"));
    add("placeholders", &stage("command = [\"awk\", \"{print}\", \"{input:raw}\", \"a}\"]\nenv = { A = \"{\" }"));
    add("variables", &stage("command = [\"true\"]\nenv = { ANNEAL_OUT = \"x\", \"A=B\" = \"\" }"));
    add(
        "inputs that are one variable",
        &stage(
            "command = [\"true\"]\ninputs = { x-y = \"b\", x_y = \"b\" }\n[stages.b]\nkind = \"command\"\ncommand = [\"true\"]",
        ),
    );
    add("outputs", &stage("command = [\"true\"]\noutputs = [\"/x\", \"../y\", \"\", \"a/\", \"a/b\", \"c\", \"c\"]"));
    add("a program that is not declared", &stage("command = [\"scripts/run.sh\"]"));
    add("files", &stage("command = [\"true\"]\nfiles = [\"nowhere\", \"/etc/passwd\", \"../x\"]"));
    assert!(!project.path("outputs").exists());
    insta::assert_snapshot!(cases);
}

#[test]
fn links_within_the_artifact_become_files() {
    let script = "echo x > {out}/x; ln -s x {out}/y; ln {out}/x {out}/z; echo u > u; ln u {out}/u; chmod 600 u";
    let project = project(&shell(script, ""));
    assert_eq!(project.run(&["c.toml"]), (1, 0));
    assert_eq!(files(&project, "a"), ["u", "x", "y", "z"]);
    assert_eq!(read(&project, "a", "y") + &read(&project, "a", "z"), "x\nx\n");
    for file in ["x", "y", "z"] {
        assert!(std::fs::symlink_metadata(project.artifact("c", "a").join(file)).unwrap().is_file());
    }
}

#[test]
fn an_input_that_was_written_to_spoils_the_result() {
    let stages = "[stages.b]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"echo x > {out}/x; echo y > {out}/y\"]\n";
    let write = shell(
        "chmod u+w {input:in} {input:in}/x && printf 'z\\n' > {input:in}/x && echo done > {out}/done",
        "inputs = { in = \"b\" }",
    );
    let project = project(&format!("{stages}{write}"));
    let outcome = json(&project);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    let failure = failure(&outcome);
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("its input `in` changed while the program ran (x)"), "{message}");
    // What the hint says mends it.
    std::fs::remove_dir_all(project.artifact("c", "b")).unwrap();
    manifest(&project, stages);
    assert_eq!(project.run(&["c.toml"]), (1, 0));
    assert_eq!(read(&project, "b", "x"), "x\n");
}

#[test]
fn a_file_that_changes_meanwhile_spoils_the_result() {
    let script = "cat words > {out}/words; echo more >> {root}/words";
    let project = project(&shell(script, "files = [\"words\"]"));
    project.write("words", "a\n");
    let outcome = json(&project);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(failure(&outcome)["message"].as_str().unwrap().contains("words"), "{outcome:?}");
    assert!(project.digests(&["c.toml"]).is_empty());
}

#[test]
fn artifacts_of_other_kinds_are_inputs_like_any() {
    let script = "ls {input:model} > {out}/model; ls $ANNEAL_INPUT_TOKENS > {out}/tokens; wc -l < {input:data}/train.json > {out}/lines";
    let project = Project::new();
    let text = project.read("tiny.toml");
    let more = shell(script, "inputs = { model = \"base\", tokens = \"tokens\", data = \"data\" }");
    project.write("c.toml", text.replace("name = \"tiny\"", "name = \"c\"") + &more);
    assert_eq!(project.run(&["c.toml", "--only", "a"]), (4, 0));
    assert!(read(&project, "a", "model").contains("config.json\n"));
    assert!(read(&project, "a", "tokens").contains("train.tokens.safetensors\n"));
    assert_eq!(project.run(&["c.toml", "--only", "a"]), (0, 4));
}

#[test]
fn three_hundred_stages_run_and_leave_no_empty_logs() {
    let stage = |i: usize| {
        let (input, from) = if i == 0 {
            (String::new(), "seed.txt".to_owned())
        } else {
            (format!("inputs = {{ a = \"s{}\" }}\n", i / 2), "{input:a}/f".to_owned())
        };
        let more = if i == 0 { "files = [\"seed.txt\"]\n" } else { "" };
        format!(
            "[stages.s{}]\nkind = \"command\"\n{input}command = [\"cp\", \"{from}\", \"{{out}}/f\"]\nenv = {{ N = \"{i}\" }}\n{more}",
            i + 1
        )
    };
    let stages: String = (0..300).map(|i| stage(i).replace("\"s0\"", "\"s1\"")).collect();
    let project = project(&stages);
    project.write("seed.txt", "seed\n");
    assert_eq!(project.run(&["c.toml"]), (300, 0));
    assert_eq!(read(&project, "s300", "f"), "seed\n");
    assert_eq!(project.run(&["c.toml"]), (0, 300));
    for run in std::fs::read_dir(project.path("outputs/runs")).unwrap() {
        let logs = std::fs::read_dir(run.unwrap().path()).unwrap();
        assert!(logs.map(|file| file.unwrap().path()).all(|file| file.extension().is_none_or(|e| e != "log")));
    }
    assert_eq!(std::fs::read_dir(project.path("outputs/objects-v1/tmp")).unwrap().count(), 0);
}
