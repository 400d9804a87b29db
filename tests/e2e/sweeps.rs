//! Sweeps through the program: what becomes of a grid, lists that go together and ablations, how often each stage of
//! them runs, and how parts of a sweep are chosen.
use crate::project::{Cases, Project};
use serde_json::Value;
use std::collections::BTreeMap;

/// A project with a manifest `s.toml` of these stages.
pub(crate) fn project(stages: &str) -> Project {
    let project = Project::new();
    manifest(&project, stages);
    project
}

pub(crate) fn manifest(project: &Project, stages: &str) {
    project.write("s.toml", format!("[experiment]\nname = \"s\"\nseed = 11\n{stages}"));
}

/// A stage that notes in the file `log` of the project that it ran, by its name and its variables, and writes them.
pub(crate) fn noting(name: &str, inputs: &str, variables: &[&str], more: &str) -> String {
    let words: String = variables.iter().map(|name| format!(" {name}=${name}")).collect();
    let env: Vec<String> = variables.iter().map(|name| format!("{name} = \"0\"")).collect();
    format!(
        "[stages.{name}]\nkind = \"command\"\ninputs = {{ {inputs} }}\nenv = {{ {} }}\n\
         command = [\"sh\", \"-c\", '''echo \"{name}{words}\" >> \"$ANNEAL_ROOT/log\"; \
         echo \"{name}{words}\" > \"$ANNEAL_OUT/out\"; {more}''']\n\n",
        env.join(", ")
    )
}

/// What ran since the last look, sorted.
pub(crate) fn ran(project: &Project) -> Vec<String> {
    let mut lines: Vec<String> =
        std::fs::read_to_string(project.path("log")).unwrap_or_default().lines().map(str::to_owned).collect();
    let _ = std::fs::remove_file(project.path("log"));
    lines.sort();
    lines
}

/// How often each stage ran since the last look.
fn counted(project: &Project) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in ran(project) {
        *counts.entry(line.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

/// The report as JSON.
#[track_caller]
pub(crate) fn report(project: &Project, args: &[&str]) -> Value {
    let outcome = project.anneal(&[&["report", "--json", "s.toml"], args].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// The rows of results.
#[track_caller]
pub(crate) fn rows(project: &Project, args: &[&str]) -> Vec<Value> {
    report(project, args)["results"].as_array().unwrap().clone()
}

const METRIC: &str = "echo \"anneal: metric em $X\"";

/// `up` is reached by nothing, `prep` by the grid, `work` by all, `left` by the list.
fn combined() -> String {
    let stages = [
        noting("up", "", &[], ""),
        noting("prep", "up = \"up\"", &["G"], ""),
        noting("work", "prep = \"prep\"", &["Y", "Z", "W", "X"], METRIC),
        noting("side", "up = \"up\"", &["Y"], "echo 'anneal: metric em 1'"),
    ];
    stages.concat()
        + r#"
[sweep.grid]
"prep.env.G" = ["1", "2"]

[sweep.zip]
"work.env.Y" = ["a", "b", "c"]
"work.env.Z" = ["A", "B", "C"]

[sweep.ablate]
"work.env.W" = ["w"]
"work.env.X" = ["3", "4"]
"#
}

fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn every_stage_runs_once_for_all_cells_that_share_it() {
    let project = project(&combined());
    let cells = 2 * 3 * (1 + 3);
    assert_eq!(project.run(&["s.toml"]), (1 + 2 + cells + 1, 0));
    let lines = ran(&project);
    assert!(lines.iter().any(|line| line == "work Y=b Z=B W=0 X=0"), "{lines:#?}");
    assert!(lines.iter().any(|line| line == "work Y=c Z=C W=w X=0"), "{lines:#?}");
    let distinct: std::collections::BTreeSet<&String> = lines.iter().collect();
    // Those of both `prep` say the same.
    assert_eq!((distinct.len(), lines.len()), (1 + 2 + cells / 2 + 1, 1 + 2 + cells + 1));
    assert_eq!(project.run(&["s.toml"]), (0, 1 + 2 + cells + 1));

    let all = rows(&project, &[]);
    assert_eq!(all.len(), cells + 1);
    let names: std::collections::BTreeSet<&str> = all.iter().filter_map(|row| row["cell"].as_str()).collect();
    assert_eq!(names.len(), cells, "each cell has a name of its own");
    // One more value on an axis, at its front: nothing that there was runs again, and keeps its name.
    let more = combined().replace("[\"1\", \"2\"]", "[\"3\", \"1\", \"2\"]");
    manifest(&project, &more);
    assert_eq!(project.run(&["s.toml"]).0, 1 + cells / 2);
    let now = rows(&project, &[]);
    assert!(names.iter().all(|name| now.iter().any(|row| row["cell"] == **name)));
}

#[test]
fn parts_of_a_sweep_are_chosen_by_cell_and_by_stage() {
    let project = project(&combined());
    project.run(&["s.toml", "--cell", "env.G=1,env.Y=b,env.W=w"]);
    assert_eq!(counted(&project), counts(&[("up", 1), ("prep", 1), ("work", 1), ("side", 1)]));
    // Of an ablation that is not named, all of it; and two cells.
    project.run(&["s.toml", "--cell", "env.G=1,env.Y=b", "--cell", "prep.env.G=2,env.Z=C,env.X=4", "--only", "work"]);
    assert_eq!(counted(&project), counts(&[("prep", 1), ("work", 4)]));
    let row = rows(&project, &["--filter", "state=not run"])[0].clone();
    let (cell, stage) = (row["cell"].as_str().unwrap(), row["stage"].as_str().unwrap());
    project.run(&["s.toml", "--cell", cell]);
    assert_eq!(counted(&project)["work"], 1);
    let after = rows(&project, &["--filter", &format!("cell={cell}")]);
    assert_eq!((after.len(), &after[0]["stage"], &after[0]["status"]["state"]), (1, &stage.into(), &"done".into()));
    // A stage, and a single instance of one.
    let other = Project::new();
    manifest(&other, &combined());
    other.run(&["s.toml", "--only", "prep"]);
    assert_eq!(counted(&other), counts(&[("up", 1), ("prep", 2)]));
    other.run(&["s.toml", "--only", "work[prep.env.G=2,env.Y=a,env.Z=A,env.X=3]"]);
    assert_eq!(counted(&other), counts(&[("work", 1)]));

    let mut cases = Cases::default();
    for cell in ["env.G=7", "Q=1", "G", "ffff", "env.G=1,Y"] {
        let outcome = project.anneal(&["run", "s.toml", "--cell", cell]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        cases.add(cell, outcome.told());
    }
    assert_eq!(ran(&project), [""; 0]);
    insta::assert_snapshot!(cases, @r"
    ## env.G=7
    exit code 2
    error: --cell env.G=7: `env.G` takes 1, 2
    help: swept are prep.env.G, work.env.Y, work.env.Z, work.env.W, work.env.X; `anneal report` lists the cells

    ## Q=1
    exit code 2
    error: --cell Q=1: `Q` is not swept
    help: swept are prep.env.G, work.env.Y, work.env.Z, work.env.W, work.env.X; `anneal report` lists the cells

    ## G
    exit code 2
    error: --cell G: there is no such cell
    help: swept are prep.env.G, work.env.Y, work.env.Z, work.env.W, work.env.X; `anneal report` lists the cells

    ## ffff
    exit code 2
    error: --cell ffff: there is no such cell
    help: swept are prep.env.G, work.env.Y, work.env.Z, work.env.W, work.env.X; `anneal report` lists the cells

    ## env.G=1,Y
    exit code 2
    error: --cell env.G=1,Y: `Y` is no `KEY=VALUE`
    help: swept are prep.env.G, work.env.Y, work.env.Z, work.env.W, work.env.X; `anneal report` lists the cells
    ");
}

#[test]
fn seeds_are_cells_of_the_whole_manifest() {
    let stages = noting("up", "", &[], "echo $ANNEAL_SEED > \"$ANNEAL_OUT/seed\"")
        + &noting("work", "up = \"up\"", &["X"], METRIC)
        + "[sweep.grid]\n\"experiment.seed\" = [1, 2, 3]\n";
    let project = project(&stages);
    assert_eq!(project.run(&["s.toml"]), (6, 0));
    let seeds: Vec<Value> = rows(&project, &[]).iter().map(|row| row["setting"]["seed"].clone()).collect();
    assert_eq!(seeds, [1, 2, 3]);
    let seed = std::fs::read_to_string(project.artifact("s", "up[seed=2]").join("seed")).unwrap();
    assert_eq!(seed, "2\n");
    // A cell is what a manifest with that seed would be: nothing runs again.
    manifest(&project, &stages.replace("[sweep.grid]\n\"experiment.seed\" = [1, 2, 3]\n", ""));
    assert_eq!(project.run(&["s.toml", "--set", "experiment.seed=2"]), (0, 2));
}

#[test]
fn rows_are_sorted_filtered_and_the_best_is_named() {
    let stages = noting("work", "", &["X"], METRIC) + "[sweep.grid]\n\"work.env.X\" = [\"5\", \"30\", \"9\", \"20\"]\n";
    let project = project(&stages);
    project.run(&["s.toml"]);
    let order = |args: &[&str]| -> Vec<String> {
        rows(&project, args).iter().map(|row| row["setting"]["env.X"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(order(&[]), ["5", "30", "9", "20"]);
    assert_eq!(order(&["--sort", "em"]), ["30", "20", "9", "5"]);
    assert_eq!(order(&["--sort", "-em"]), ["5", "9", "20", "30"]);
    assert_eq!(order(&["--filter", "em>=9", "--filter", "em<30", "--sort", "em"]), ["20", "9"]);
    assert_eq!(report(&project, &["--best", "em", "--filter", "env.X!=30"])["best"]["setting"]["env.X"], "20");
    let mut cases = Cases::default();
    let table = project.anneal(&["report", "s.toml", "--sort", "em", "--best", "em", "--filter", "em<30"]);
    cases.add("text", table.filtered(&table.stdout).lines().last().unwrap_or_default());
    for args in [["--sort", "speed"], ["--best", "speed"], ["--filter", "em"], ["--filter", "speed=1"]] {
        let outcome = project.anneal(&[&["report", "s.toml"], &args[..]].concat());
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        cases.add(&args.join(" "), outcome.told());
    }
    insta::assert_snapshot!(cases, @r"
    ## text
    best em: work [4e5cc437] env.X=20 (EM 20.00)
    ## --sort speed
    exit code 2
    error: a row of this report has no `speed`
    help: it has answers, cell, em, env.X, eval_loss, f1, gpu_peak_mib, infer_seconds, label, last_step, peak_mib, scale, stage, state, tokens_per_second, train_loss, train_seconds

    ## --best speed
    exit code 2
    error: there is no column `speed`
    help: the columns are em

    ## --filter em
    exit code 2
    error: `em` is no condition
    help: write KEY and a value with one of = != < <= > >= between, such as `peak_mib<=40 GiB`

    ## --filter speed=1
    exit code 2
    error: a row of this report has no `speed`
    help: it has answers, cell, em, env.X, eval_loss, f1, gpu_peak_mib, infer_seconds, label, last_step, peak_mib, scale, stage, state, tokens_per_second, train_loss, train_seconds
    ");
}

#[test]
fn wrong_sweeps_are_told_before_anything_runs() {
    let mut cases = Cases::default();
    let values: Vec<String> = (0..1000).map(|value| format!("\"{value}\"")).collect();
    let axis = |name: &str| format!("\"work.env.{name}\" = [{}]\n", values.join(", "));
    let work = noting("work", "", &["X", "Y"], "");
    let huge = format!("{work}[sweep.grid]\n{}{}", axis("X"), axis("Y"));
    for (name, stages) in [
        ("a million cells", huge.as_str()),
        ("an unknown parameter", &format!("{work}[sweep.grid]\n\"work.comand\" = [[\"a\"], [\"b\"]]\n")),
        ("an unknown stage", &format!("{work}[sweep.zip]\n\"wrok.env.X\" = [\"1\"]\n")),
        (
            "lists of two lengths",
            &format!("{work}[sweep.zip]\n\"work.env.X\" = [\"1\"]\n\"work.env.Y\" = [\"1\", \"2\"]\n"),
        ),
        ("a value of a wrong type", &format!("{work}[sweep.ablate]\n\"work.env.X\" = [\"1\", 2]\n")),
        (
            "no number to grow",
            &format!("{work}[sweep]\nassume_monotone = \"X\"\ngrid = {{ \"work.env.X\" = [\"1\", \"2\"] }}\n"),
        ),
    ] {
        let project = project(stages);
        let outcome = project.anneal(&["run", "s.toml"]);
        assert_eq!((outcome.code, ran(&project).len()), (Some(3), 0), "{name}: {outcome:?}");
        assert!(!project.path("outputs").exists());
        let told = outcome.told();
        cases.add(
            name,
            told.lines().filter(|line| line.len() < 200).fold(String::new(), |text, line| text + line + "\n"),
        );
    }
    insta::assert_snapshot!(cases, @r#"
    ## a million cells
    exit code 3
    error: this sweep has 1000000 cells
      --> s.toml:10:2
       |
    10 | [sweep.grid]
       |  ^^^^^ combines `work.env.X`, `work.env.Y`
       |
       = help: take values away, or add `--yes` if you mean it

    1 problem in s.toml

    ## an unknown parameter
    exit code 3
    error: stage kind `command` has no parameter `comand`
      --> s.toml:11:1
       |
    11 | "work.comand" = [["a"], ["b"]]
       | ^^^^^^^^^^^^^
       |
       = help: did you mean `command`?

    1 problem in s.toml

    ## an unknown stage
    exit code 3
    error: there is no stage `wrok` to sweep over
      --> s.toml:11:1
       |
    11 | "wrok.env.X" = ["1"]
       | ^^^^^^^^^^^^
       |
       = help: did you mean `work`?

    1 problem in s.toml

    ## lists of two lengths
    exit code 3
    error: `work.env.Y` has 2 values and `work.env.X` has 1
      --> s.toml:12:1
       |
    12 | "work.env.Y" = ["1", "2"]
       | ^^^^^^^^^^^^
       |
       = help: lists in `sweep.zip` go together, so they have one length

    1 problem in s.toml

    ## a value of a wrong type
    exit code 3
    error: `X` cannot be an integer
      --> s.toml:11:22
       |
    11 | "work.env.X" = ["1", 2]
       |                      ^ expected text
       |
       = help: put it in quotes

    1 problem in s.toml

    ## no number to grow
    exit code 3
    error: `X` is no number, so it has no larger values
      --> s.toml:11:19
       |
    11 | assume_monotone = "X"
       |                   ^^^

    1 problem in s.toml
    "#);
}
