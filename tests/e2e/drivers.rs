//! Many drivers on one store and one host: every cell runs once, nobody waits for the dead, and cores are shared.
use crate::project::Project;
use crate::sweeps::{noting, project, ran, rows};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A driver under way.
fn start(project: &Project, args: &[&str]) -> Child {
    let mut command = project.command(&[&["run", "--json", "s.toml"], args].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// It must end well; how many stages it executed.
#[track_caller]
fn executed(child: Child) -> usize {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap().matches("\"stage-finished\"").count()
}

/// A sweep over so many values of `work.env.X`.
fn sweep(stages: &str, cells: usize) -> String {
    let values: Vec<String> = (0..cells).map(|cell| format!("\"{cell}\"")).collect();
    format!("{stages}[sweep.grid]\n\"work.env.X\" = [{}]\n", values.join(", "))
}

fn lines(project: &Project) -> Vec<String> {
    let text = std::fs::read_to_string(project.path("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn sixteen_drivers_execute_forty_cells_once() {
    let stages = noting("up", "", &[], "") + &noting("work", "up = \"up\"", &["X"], "echo 'anneal: metric em 1'");
    let project = project(&sweep(&stages, 40));
    let drivers: Vec<Child> = (0..16).map(|_| start(&project, &[])).collect();
    let all: usize = drivers.into_iter().map(executed).sum();
    let mut expected: Vec<String> = (0..40).map(|cell| format!("work X={cell}")).chain(["up".to_owned()]).collect();
    expected.sort();
    assert_eq!((ran(&project), all), (expected, 41));
    assert_eq!(rows(&project, &["--filter", "state=done"]).len(), 40);
    assert_eq!(project.run(&["s.toml"]), (0, 41));
}

#[test]
fn drivers_that_keep_metrics_alone_take_no_files_from_each_other() {
    let big = noting("big", "", &[], "head -c 100000 /dev/zero > \"$ANNEAL_OUT/zeros\"; echo 'anneal: metric em 1'");
    let big = big.trim_end().to_owned() + "\nkeep = \"metrics\"\n\n";
    let work = noting("work", "big = \"big\"", &["X"], "test $(wc -c < \"$ANNEAL_INPUT_BIG/zeros\") = 100000");
    let project = project(&sweep(&(big + &work), 8));
    let drivers: Vec<Child> = (0..6).map(|_| start(&project, &[])).collect();
    assert_eq!(drivers.into_iter().map(executed).sum::<usize>(), 9);
    assert_eq!(ran(&project).len(), 9);
    assert_eq!(std::fs::read_dir(project.path("outputs/objects-v1/trees")).unwrap().count(), 8);
    // Later ones make the files again, once, however many need them.
    let drivers: Vec<Child> = (0..6).map(|_| start(&project, &["--set", "work.env.Y=1"])).collect();
    drivers.into_iter().for_each(|driver| assert!(executed(driver) <= 9));
    let again = ran(&project);
    assert_eq!(again.iter().filter(|line| line.starts_with("work")).count(), 8, "{again:?}");
    assert_eq!(again.len(), 9, "{again:?}");
}

#[test]
fn files_that_another_driver_needed_and_removed_meanwhile_are_not_made_again() {
    let hold = "while [ -e \"$ANNEAL_ROOT/hold\" ]; do sleep 0.01; done; echo 'anneal: metric em 1'";
    let kept_small = |stage: String| stage.trim_end().to_owned() + "\nkeep = \"metrics\"\n\n";
    let big = kept_small(noting("big", "", &[], hold));
    // Its files are gone too, so whether `big` is needed hangs on what needs `mid`.
    let mid = kept_small(noting("mid", "big = \"big\"", &[], ""));
    let work = noting("work", "mid = \"mid\"", &["X"], "");
    let project = project(&sweep(&(big + &mid + &work), 3));
    assert_eq!(project.run(&["s.toml"]), (5, 0));
    ran(&project);
    project.write("hold", "");
    let first = start(&project, &["--set", "work.env.Y=1"]);
    while lines(&project) != ["big"] {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut second = start(&project, &["--set", "work.env.Y=1"]);
    let mut told = BufReader::new(second.stdout.take().unwrap()).lines();
    assert!(told.any(|line| line.unwrap().contains("\"stage-waiting\"")));
    // The second looks away while the first does everything and removes what it made.
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &second.id().to_string()]).status().unwrap();
        assert!(status.success());
    };
    signal("-STOP");
    std::fs::remove_file(project.path("hold")).unwrap();
    assert_eq!(executed(first), 5);
    signal("-CONT");
    assert_eq!(told.filter(|line| line.as_ref().unwrap().contains("\"stage-finished\"")).count(), 0);
    assert_eq!(second.wait().unwrap().code(), Some(0));
    assert_eq!(ran(&project), ["big", "mid", "work X=0", "work X=1", "work X=2"]);
}

#[test]
fn a_stage_of_the_same_key_as_one_that_is_not_made_again_after_all_goes_on() {
    let stage = |name: &str, inputs: &str, keep: &str, script: &str| {
        let says = if inputs.is_empty() { "same" } else { inputs.split(' ').next().unwrap() };
        format!(
            "[stages.{name}]\nkind = \"command\"\n{keep}inputs = {{ {inputs} }}\n\
             command = [\"sh\", \"-c\", '''echo {says} > \"$ANNEAL_OUT/out\"; {script}''']\n\n"
        )
    };
    let metrics = "keep = \"metrics\"\n";
    // `late` has the key of `early`, and that is found out later.
    let hold = "while [ -e \"$ANNEAL_ROOT/hold\" ]; do sleep 0.01; done";
    let stages = stage("p", "", "", "true")
        + &stage("q", "", "", hold)
        + &stage("early", "i = \"p\"", metrics, "true")
        + &stage("late", "i = \"q\"", metrics, "true")
        + &stage("c", "x = \"early\"", "", "true")
        + &stage("d", "x = \"late\"", "", "echo d >> \"$ANNEAL_ROOT/log\"");
    let project = project(&stages);
    project.run(&["s.toml"]);
    let plan = project.anneal(&["plan", "--json", "s.toml"]);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    let key = |name: &str| {
        let stage = plan["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == name).unwrap();
        stage["key"].as_str().unwrap().to_owned()
    };
    assert_eq!(key("early"), key("late"));
    let record = |name: &str| project.path(&format!("outputs/objects-v1/records/{}.json", key(name)));
    let of_c = std::fs::read(record("c")).unwrap();
    ["c", "d", "q"].iter().for_each(|name| std::fs::remove_file(record(name)).unwrap());
    let lock = project.path(&format!("outputs/objects-v1/locks/{}.lock", key("early")));
    let lock = std::fs::File::open(lock).unwrap();
    lock.lock().unwrap();
    std::fs::remove_file(project.path("log")).unwrap();
    project.write("hold", "");

    // Files of `early` are needed for `c`, and somebody else makes them; then `late` waits for that too.
    let mut driver = start(&project, &[]);
    let mut told = BufReader::new(driver.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|line| line.contains("\"stage-waiting\"")));
    std::fs::remove_file(project.path("hold")).unwrap();
    assert!(told.any(|line| line.contains("\"stage-finished\"")), "q");
    std::thread::sleep(Duration::from_millis(100));
    // Somebody else makes `c`, and lets go.
    std::fs::write(project.path("record"), of_c).unwrap();
    std::fs::rename(project.path("record"), record("c")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(lock);
    let rest: Vec<String> = told.collect();
    assert_eq!(driver.wait().unwrap().code(), Some(0), "{rest:?}");
    assert_eq!(lines(&project), ["d"], "{rest:?}");
}

#[test]
fn a_driver_that_is_killed_leaves_its_work_to_the_others() {
    // In workers, which outlive their driver.
    let work =
        noting("work", "", &["X"], "sleep 0.2; echo 'anneal: metric em 1'").trim_end().to_owned() + "\nthreads = 1\n";
    let project = project(&sweep(&work, 12));
    let mut drivers: Vec<Child> = (0..3).map(|_| start(&project, &["--jobs", "2"])).collect();
    while lines(&project).len() < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut killed = drivers.remove(0);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let finished: usize = drivers.into_iter().map(executed).sum();
    assert!(finished <= 12);
    let mut begun = ran(&project);
    begun.dedup();
    assert_eq!(begun.len(), 12);
    assert_eq!(rows(&project, &["--filter", "state=done"]).len(), 12);
    assert_eq!(project.run(&["s.toml"]), (0, 12));
}

#[test]
fn drivers_on_one_host_share_its_cores() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let work = noting("work", "", &["X"], "sleep 0.1; echo end >> \"$ANNEAL_ROOT/log\"").trim_end().to_owned();
    let project = project(&sweep(&(work + "\nthreads = 2\n"), 6));
    // Two stores, so that no lease of a key keeps them apart.
    let drivers = ["one", "two"].map(|outputs| start(&project, &["--outputs", outputs]));
    assert_eq!(drivers.map(executed), [6, 6]);
    let (mut now, mut most) = (0_i64, 0_i64);
    for line in lines(&project) {
        now += if line == "end" { -1 } else { 1 };
        most = most.max(now);
    }
    assert_eq!(now, 0);
    assert!(most >= 1 && most <= (cores / 2).max(1) as i64, "{most} at once on {cores} cores");
    // And with a folder of its own for each, as on two hosts, nobody waits: the limit is the slots', not the store's.
    assert!(project.path("../project.slots/cpu-0.lock").exists());
}
