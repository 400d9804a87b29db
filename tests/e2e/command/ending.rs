//! Programs that are ended: by Ctrl+C, by a run that was killed, by their own end while others go on.
use super::{manifest, project, shell};
use crate::project::Project;
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A run of `c.toml` whose program has begun: it wrote its number to `pid`.
fn begun(project: &Project) -> (Child, Pid) {
    let mut command = project.command(&["run", "c.toml"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = || {
        let text = std::fs::read_to_string(project.path("pid")).unwrap_or_default();
        text.ends_with('\n').then(|| text.trim().parse().ok().and_then(Pid::from_raw)).flatten()
    };
    while begun().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    (child, begun().unwrap())
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits until there is no such process any more, or only its remains; a test that waits in vain never ends.
fn gone(pid: Pid) {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn ctrl_c_asks_the_program_and_all_it_started() {
    let script = "(trap 'echo asked > {root}/asked; exit' TERM; echo $$ > {root}/pid; while :; do sleep 0.05; done) & \
                  sleep 1000";
    for signal in [Signal::INT, Signal::TERM] {
        let project = project(&shell(script, ""));
        let (mut child, pid) = begun(&project);
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(4), "the code of `interrupted`");
        gone(pid);
        while !project.path("asked").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Being asked is no failure: the same command runs it again.
        manifest(&project, &shell("true", ""));
        assert_eq!(project.run(&["c.toml"]), (1, 0));
    }
}

#[test]
fn a_second_ctrl_c_ends_a_program_that_does_not_listen() {
    let project = project(&shell("trap '' TERM INT; echo $$ > {root}/pid; while :; do sleep 0.05; done", ""));
    let (mut child, pid) = begun(&project);
    send(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(50));
    send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(4));
    gone(pid);
}

#[test]
fn what_a_killed_run_left_at_work_is_ended_by_the_next() {
    let script = "test -e {root}/pid && exit 0; echo $$ > {root}/pid; exec sleep 1000";
    let project = project(&shell(script, ""));
    let (mut child, pid) = begun(&project);
    send(&child, Signal::KILL);
    child.wait().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists());
    assert_eq!(project.run(&["c.toml"]), (1, 0));
    gone(pid);
}

#[test]
fn what_a_program_leaves_running_ends_with_it() {
    let script = "(trap '' HUP; echo $(sh -c 'echo $PPID') > {root}/pid; exec sleep 1000) & \
                  while ! test -s {root}/pid; do sleep 0.01; done; echo done > {out}/done";
    let project = project(&shell(script, ""));
    assert_eq!(project.run(&["c.toml"]), (1, 0));
    gone(Pid::from_raw(project.read("pid").trim().parse().unwrap()).unwrap());
}
