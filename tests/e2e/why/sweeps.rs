//! `plan` and `explain` of sweeps: summed up where they are large, and a cell at a time.
use super::{CHAIN, plan, project, told};
use crate::project::Cases;
use serde_json::Value;

const SWEEP: &str = r#"
[sweep.grid]
raw.env = [{ COUNT = "1" }, { COUNT = "2" }]
"#;

/// Of these values of a variable.
fn sweep(values: std::ops::Range<usize>) -> String {
    let values: Vec<String> = values.map(|value| format!("{{ COUNT = \"{value}\" }}")).collect();
    format!("{CHAIN}\n[sweep.grid]\nraw.env = [{}]\n", values.join(", "))
}

#[test]
fn a_large_sweep_is_summed_up_and_a_cell_can_be_asked_for() {
    let project = project(&format!("{CHAIN}{SWEEP}"));
    let mut cases = Cases::default();
    project.run(&["c.toml"]);
    project.write("c.toml", sweep(1..44));
    cases.add("new cells", plan(&project, &[]));
    assert_eq!(plan(&project, &["--all"]).lines().count(), 43 * 3 + 2);
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let listed = plan(&project, &["--all"]);
    let instance = name(listed.lines().nth(3).unwrap());
    cases.add("an instance", told(&project, &["explain", "c.toml", &instance]));
    let ambiguous = project.anneal(&["explain", "c.toml", "clean"]);
    cases.add("which instance?", ambiguous.told());
    let json = project.anneal(&["plan", "--json", "c.toml"]).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    let stages = json["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 43 * 3);
    let first = stages.iter().find(|stage| stage["name"] == instance.as_str()).unwrap();
    assert_eq!((&first["base"], &first["setting"]["raw.env"]["COUNT"]), (&Value::from("raw"), &Value::from("4")));
    let cell = first["cell"].as_str().unwrap();
    cases.add("a cell", plan(&project, &["--cell", cell]));
    cases.add(
        "its last stage",
        told(&project, &["explain", "c.toml", "counted", "--cell", cell])
            .lines()
            .take(5)
            .collect::<Vec<_>>()
            .join("\n"),
    );
    project.write("data.txt", "other words\n");
    cases.add("another file", plan(&project, &[]));
    cases.add("a cell that is none", project.anneal(&["plan", "c.toml", "--cell", "raw.env=9"]).told());
    insta::assert_snapshot!(cases, @r#"
    ## new cells
    raw      43 instances: 2 cached, 41 to run
               41 x a new cell: never ran here
    clean    43 instances: 2 cached, 41 to look at again after others
               41 x a new cell: never ran here
    counted  43 instances: 2 cached, 41 to look at again after others
               41 x a new cell: never ran here

    129 stages: 6 cached, 41 to run, 82 after these

    ## an instance
    raw[env={"COUNT":"4"}] (command): it would run

    why
      raw[env={"COUNT":"4"}]  a new cell: never ran here

    key [DIGEST]
      schema: 1
      kind: command
      version: 1
      seed: 11
      numerics: cpu-f32
      params
        command: ["sh","-c","cat data.txt > {out}/raw; echo $COUNT >> {out}/raw"]
        env
          COUNT: 4
        files: ["(file)"]
      inputs: none
      sources
        data.txt: [DIGEST]

    no earlier result to compare with

    ## which instance?
    exit code 2
    error: stage `clean` has 43 instances
    help: name one, or add `--cell KEY=VALUE`: clean[raw.env={"COUNT":"1"}], clean[raw.env={"COUNT":"2"}], clean[raw.env={"COUNT":"3"}], clean[raw.env={"COUNT":"4"}], clean[raw.env={"COUNT":"5"}], clean[raw.env={"COUNT":"6"}], clean[raw.env={"COUNT":"7"}], clean[raw.env={"COUNT":"8"}], clean[raw.env={"COUNT":"9"}], clean[raw.env={"COUNT":"10"}], clean[raw.env={"COUNT":"11"}], clean[raw.env={"COUNT":"12"}], clean[raw.env={"COUNT":"13"}], clean[raw.env={"COUNT":"14"}], clean[raw.env={"COUNT":"15"}], clean[raw.env={"COUNT":"16"}], clean[raw.env={"COUNT":"17"}], clean[raw.env={"COUNT":"18"}], clean[raw.env={"COUNT":"19"}], clean[raw.env={"COUNT":"20"}] and 23 more

    ## a cell
    raw[env={"COUNT":"4"}]          run: a new cell: never ran here
    clean[raw.env={"COUNT":"4"}]    after raw[env={"COUNT":"4"}]: a new cell: never ran here
    counted[raw.env={"COUNT":"4"}]  after clean[raw.env={"COUNT":"4"}]: a new cell: never ran here

    3 stages: 0 cached, 1 to run, 2 after these

    ## its last stage
    counted[raw.env={"COUNT":"4"}] (command): its key holds the content of its inputs, so it is known after clean[raw.env={"COUNT":"4"}]

    why
      counted[raw.env={"COUNT":"4"}]  a new cell: never ran here

    ## another file
    raw      43 instances: 43 to run
               41 x a new cell: never ran here
               2 x sources.data.txt: [DIGEST] -> [DIGEST]
    clean    43 instances: 43 to look at again after others
               41 x a new cell: never ran here
               2 x upstream `raw`: sources.data.txt: [DIGEST] -> [DIGEST]
    counted  43 instances: 43 to look at again after others
               41 x a new cell: never ran here
               2 x upstream `raw`: sources.data.txt: [DIGEST] -> [DIGEST]

    129 stages: 0 cached, 43 to run, 86 after these

    ## a cell that is none
    exit code 2
    error: --cell raw.env=9: `raw.env` takes {"COUNT":"1"}, {"COUNT":"2"}, {"COUNT":"3"}, {"COUNT":"4"}, {"COUNT":"5"}, {"COUNT":"6"}, {"COUNT":"7"}, {"COUNT":"8"}, {"COUNT":"9"}, {"COUNT":"10"}, {"COUNT":"11"}, {"COUNT":"12"}, {"COUNT":"13"}, {"COUNT":"14"}, {"COUNT":"15"}, {"COUNT":"16"}, {"COUNT":"17"}, {"COUNT":"18"}, {"COUNT":"19"}, {"COUNT":"20"}, {"COUNT":"21"}, {"COUNT":"22"}, {"COUNT":"23"}, {"COUNT":"24"}, {"COUNT":"25"}, {"COUNT":"26"}, {"COUNT":"27"}, {"COUNT":"28"}, {"COUNT":"29"}, {"COUNT":"30"}
    help: swept are raw.env; `anneal report` lists the cells
    "#);
}
