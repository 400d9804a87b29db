//! Every change is seen, and its first cause is the leaf that changed: for every parameter of every kind, every file,
//! every input, the seed, the arithmetic and the edition of the code. And what changes no result changes no key.
//!
//! Nothing is executed: results are published by hand, and forecasts are read. The kinds are the registry's, so that a
//! new kind or parameter is mutated from its first day.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod by_hand;
mod manifest;
mod values;
mod world;

use anneal_engine::cause::{Cause, Outlook, Reason};
use anneal_engine::stage::Stage;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use values::{Leaf, leaves};
use world::{World, renamed};

/// The one cause, in the stage itself, and the same one in the stage after it.
#[track_caller]
fn expect(world: &World, what: &str, path: &str) {
    let cause = world.own_cause(what);
    let Reason::Changed(change) = &cause.reason else { panic!("{what}: {cause:?}") };
    assert_eq!((change.path.as_str(), cause.also.len()), (path, 0), "{what}: {cause:?}");
    assert!(change.old != change.new, "{what}: {cause:?}");
    let after = world.cause_of("after");
    assert_eq!((after.via, after.reason), (vec![world.id("it")], cause.reason), "{what}, told downstream");
}

#[test]
fn every_parameter_of_every_kind_is_a_leaf_that_is_told() {
    let (mut covered, mut all) = (BTreeSet::new(), BTreeSet::new());
    for kind in anneal_stages::registry().kinds() {
        let before = World::new(kind);
        before.publish();
        for leaf in leaves(&kind.params()) {
            all.insert(format!("{}.{}", kind.kind(), leaf.path.join(".")));
            if mutate(&before, kind, &leaf) {
                covered.insert(format!("{}.{}", kind.kind(), leaf.path.join(".")));
            }
        }
    }
    assert_eq!(covered, all);
    assert!(all.len() > 60, "{all:?}");
}

/// Gives a parameter other values; says whether any of them is a change that must be seen, or rightly is none.
fn mutate(before: &World, kind: &Arc<dyn Stage>, leaf: &Leaf) -> bool {
    let name = format!("{}.{}", kind.kind(), leaf.path.join("."));
    let path = format!("params.{}", leaf.path.join("."));
    let mut seen = false;
    for (value, visible) in leaf.others() {
        let after = before.with_param(&leaf.path, value.clone());
        if visible {
            expect(&after, &format!("{name} = {value}"), &path);
        } else {
            assert!(after.all_cached(), "{name} = {value} must change nothing");
        }
        seen = true;
    }
    if leaf.optional {
        let after = before.with_param(&leaf.path, Value::Null);
        expect(&after, &format!("{name} left out"), &path);
    }
    if let (true, Some((_, map))) = (leaf.entry, leaf.path.split_last()) {
        expect(&before.with_param(map, json!({})), &format!("{name}, its only entry taken away"), &path);
        let empty = World::with(kind, map, json!({}));
        empty.publish();
        let only = leaf.others().swap_remove(0).0;
        expect(&empty.with_param(map, json!({ "k": only })), &format!("{name}, the first entry"), &path);
    }
    if let Some((one, other)) = leaf.swapped() {
        let one = World::with(kind, &leaf.path, one);
        one.publish();
        expect(&one.with_param(&leaf.path, other), &format!("{name}, two elements swapped"), &path);
    }
    seen
}

#[test]
fn seed_arithmetic_kind_and_edition_are_leaves_that_are_told() {
    for kind in anneal_stages::registry().kinds() {
        let before = World::new(kind);
        before.publish();
        let mut after = before.clone();
        after.seed += 1;
        expect(&after, "seed", "seed");
        let mut after = before.clone();
        after.kind = renamed(kind, "other-kind", kind.version());
        expect(&after, "kind", "kind");
        let mut after = before.clone();
        after.kind = renamed(kind, kind.kind(), kind.version() + 1);
        expect(&after, "version", "version");
        // In the key of every stage: the first cause is in the first.
        let mut after = before.clone();
        after.numerics = "cuda-bf16".to_owned();
        let cause = after.cause_of("it");
        let Reason::Changed(change) = &cause.reason else { panic!("{cause:?}") };
        assert_eq!(change.path, "numerics");
        assert_eq!(cause.via.is_empty(), before.ports().is_empty(), "{}", kind.kind());
        assert!(cause.via.is_empty() || cause.also.iter().any(|change| change.path == "numerics"));
    }
}

#[test]
fn every_file_is_a_leaf_that_is_told() {
    for kind in anneal_stages::registry().kinds() {
        let before = World::new(kind);
        before.publish();
        for file in world::FILES {
            before.write(file, "other content");
            expect(&before, file, &format!("sources.{file}"));
            before.write(file, file);
            assert!(before.all_cached(), "{file} is as it was");
        }
        let [one, two, ..] = world::FILES;
        before.write(one, two);
        before.write(two, one);
        let cause = before.own_cause("two files swapped");
        assert_eq!(cause.also.len(), 1, "{cause:?}");
    }
}

#[test]
fn every_input_is_told_with_the_stage_and_the_leaf_it_changed_for() {
    for kind in anneal_stages::registry().kinds() {
        for port in World::new(kind).ports() {
            let before = World::new(kind);
            before.publish();
            let mut after = before.clone();
            after.upstream.insert(port.clone(), "other".to_owned());
            let upstream = format!("up-{port}");
            let told = |cause: &Cause| {
                assert_eq!(cause.via, [after.id(&upstream)], "{} {port}: {cause:?}", kind.kind());
                let Reason::Changed(change) = &cause.reason else { panic!("{cause:?}") };
                assert_eq!(change.path, "params.command");
                assert_eq!(change.new.as_deref(), Some(r#"["other"]"#));
                assert!(cause.also.is_empty(), "{cause:?}");
            };
            // Before the upstream ran,
            assert!(matches!(after.outlook("it"), Outlook::After(waits, _) if waits == [after.id(&upstream)]));
            told(&after.cause_of("it"));
            let through = after.cause_of("after");
            assert_eq!(through.via, [after.id("it"), after.id(&upstream)]);
            // and when its new content is there.
            after.publish_only(&upstream);
            assert!(matches!(after.outlook("it"), Outlook::Run(_)));
            told(&after.cause_of("it"));
        }
    }
}

#[test]
fn an_input_from_another_stage_is_not_an_upstream_that_changed() {
    for kind in anneal_stages::registry().kinds() {
        for port in World::new(kind).ports() {
            let before = World::new(kind);
            before.publish();
            let mut after = before.clone();
            after.wires.insert(port.clone(), "spare".to_owned());
            let cause = after.own_cause("rewired");
            let expected = Reason::Rewired {
                port: port.clone(),
                before: Some(format!("up-{port}")),
                now: Some("spare".to_owned()),
            };
            assert_eq!(cause.reason, expected, "{} {port}", kind.kind());
        }
    }
}
