//! The list of points is in order, and rules do what they say.
use super::act::{Action, Failpoints, Rule};
use super::{POINTS, area};
use rustix::io::Errno;
use std::collections::BTreeSet;

#[test]
fn names_are_unique_and_areas_are_sorted() {
    let areas: Vec<&str> = POINTS.iter().map(|area| area.name).collect();
    assert!(areas.is_sorted(), "{areas:?}");
    let names: Vec<&str> = POINTS.iter().flat_map(|area| area.points).map(|(name, _)| *name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a name is there twice");
    assert!(names.len() >= 45, "{}", names.len());
    for name in names {
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name} cannot be written in a rule");
    }
    assert_eq!(area("commit").first(), Some(&"begin"));
    assert!(area("no such area").is_empty());
}

#[test]
fn a_rule_acts_once_at_its_passage_and_on_whom_it_names() {
    let rule = Rule::parse("worker:tree-synced@2=enospc").unwrap();
    let met =
        [("tree-synced", false), ("tree-synced", true), ("begin", true), ("tree-synced", true), ("tree-synced", true)]
            .map(|(name, worker)| rule.meet(name, worker));
    assert_eq!(met, [None, None, None, Some(Action::Fail(Errno::NOSPC)), None]);
    let anybody = Rule::parse("begin=kill").unwrap();
    assert_eq!((anybody.meet("begin", true), anybody.meet("begin", false)), (Some(Action::Kill), None));
    assert_eq!(Rule::parse("driver:begin=kill-all").unwrap().meet("begin", true), None);
}

#[test]
fn what_is_no_rule_is_ignored() {
    for text in ["", "begin", "begin=", "begin@0=kill", "begin@x=kill", "someone:begin=kill", "begin=explode"] {
        assert!(Rule::parse(text).is_none(), "{text}");
    }
    assert!(Failpoints::new("", None).is_none());
}

#[test]
fn several_rules_count_apart_and_passages_are_logged() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let points = Failpoints::new("a=eio; b@2=eacces", Some(&log)).unwrap();
    let met = ["b", "a", "b"].map(|name| points.meet(name, false));
    assert_eq!(met, [None, Some(Action::Fail(Errno::IO)), Some(Action::Fail(Errno::ACCESS))]);
    let text = std::fs::read_to_string(log).unwrap().replace(&std::process::id().to_string(), "1");
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["1 driver b", "1 driver a Fail(IO)", "1 driver b Fail(ACCESS)"].map(|line| line
            .replace("Fail(IO)", &format!("{:?}", Action::Fail(Errno::IO)))
            .replace("Fail(ACCESS)", &format!("{:?}", Action::Fail(Errno::ACCESS))))
    );
    assert!(Action::Fail(Errno::IO).take(false).is_err());
}
