//! The store in one process: hits, damage, republishing, the index. Crashes are in `tests/crash.rs`.
use super::*;
use crate::options::Keep;
use crate::{FailureClass, Source};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

fn draft(store: &Store, key: &str, files: &[(&str, &str)]) -> Draft {
    let key = Digest::of(key.as_bytes());
    let folder = store.workspace(&key).unwrap();
    for (name, text) in files {
        let path = folder.join("out").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    Draft {
        key,
        document: serde_json::json!({"kind": "test"}),
        kind: "test".to_owned(),
        version: 1,
        artifact: "text".to_owned(),
        folder,
        references: Vec::new(),
        sources: Vec::new(),
        keep: Keep::All,
        metrics: BTreeMap::from([("em".to_owned(), 12.5)]),
        started: 1.0,
        seconds: 2.0,
        peak_mib: Some(3.5),
    }
}

fn publish(store: &Store, key: &str, files: &[(&str, &str)]) -> Arc<Record> {
    store.publish(draft(store, key, files)).unwrap()
}

fn source(store: &Store, path: &Path) -> (Source, Stamp, Digest) {
    let (stamp, digest) = store.digest(path).unwrap();
    (Source { name: "file".to_owned(), path: path.to_owned(), stamp: None }, stamp, digest)
}

#[test]
fn what_is_published_is_found_read_only_and_with_all_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.look_up(&Digest::of(b"a")), Err(Miss::Absent));
    let record = publish(&store, "a", &[("b/c.txt", "deep"), ("a.txt", "flat")]);
    assert_eq!(record.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["a.txt", "b/c.txt"]);
    let again = Store::open(dir.path()).unwrap().look_up(&record.key).unwrap();
    assert_eq!((again.output, again.metrics.get("em"), again.peak_mib), (record.output, Some(&12.5), Some(3.5)));
    let file = store.tree(&record.output).join("b/c.txt");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "deep");
    let full = store.record(&record.key).unwrap();
    assert_eq!(full.document["kind"], "test");
    assert!(full.hardware.is_some_and(|hardware| hardware.cores > 0));
}

#[test]
fn a_missing_or_short_file_is_no_hit_and_publishing_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let record = publish(&store, "a", &[("a.txt", "good")]);
    let tree = store.tree(&record.output);
    let file = tree.join("a.txt");
    let damages: [&dyn Fn(); 5] = [
        &|| std::fs::remove_file(&file).unwrap(),
        &|| std::fs::remove_dir_all(&tree).unwrap(),
        &|| {
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, "go").unwrap();
        },
        &|| {
            std::fs::remove_dir_all(&tree).unwrap();
            std::os::unix::fs::symlink("/nowhere", &tree).unwrap();
        },
        &|| {
            std::fs::remove_dir_all(&tree).unwrap();
            std::fs::write(&tree, "a file").unwrap();
        },
    ];
    for damage in damages {
        damage();
        assert!(matches!(store.look_up(&record.key), Err(Miss::Damaged(_))));
        publish(&store, "a", &[("a.txt", "good")]);
        assert!(store.look_up(&record.key).is_ok());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "good");
        if std::fs::symlink_metadata(&tree).unwrap().is_symlink() {
            panic!("the dangling link was not replaced");
        }
    }
}

#[test]
fn a_silent_change_of_equal_size_is_mended_when_the_stage_is_forced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let record = publish(&store, "a", &[("a.txt", "good")]);
    let file = store.tree(&record.output).join("a.txt");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "evil").unwrap();
    publish(&store, "a", &[("a.txt", "good")]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "good");
}

#[test]
fn two_keys_with_equal_bytes_share_one_tree() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (a, b) = (publish(&store, "a", &[("x", "same")]), publish(&store, "b", &[("x", "same")]));
    assert_eq!(a.output, b.output);
    assert_eq!(std::fs::read_dir(dir.path().join("objects-v1/trees")).unwrap().count(), 1);
    assert!(store.look_up(&a.key).is_ok() && store.look_up(&b.key).is_ok());
}

#[test]
fn a_file_outside_is_linked_and_watched() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("outputs")).unwrap();
    let outside = dir.path().join("wéights file.bin");
    std::fs::write(&outside, "weights").unwrap();
    let mut linked = draft(&store, "a", &[("config.json", "{}")]);
    linked.sources = vec![source(&store, &outside)];
    linked.references = vec![("w/weights.bin".to_owned(), outside.clone(), Digest::of(b"weights").to_string())];
    let record = store.publish(linked).unwrap();
    assert!(store.look_up(&record.key).is_ok());
    // Same bytes as if it had been copied.
    let copied = publish(&store, "b", &[("config.json", "{}"), ("w/weights.bin", "weights")]);
    assert_eq!(copied.output, record.output);

    // Touched, but equal: read again, still a hit. Changed, gone: no hit.
    std::fs::write(&outside, "weights").unwrap();
    assert!(store.look_up(&record.key).is_ok());
    std::fs::write(&outside, "WEIGHTS").unwrap();
    assert!(matches!(store.look_up(&record.key), Err(Miss::Damaged(why)) if why.contains("has changed")));
    std::fs::remove_file(&outside).unwrap();
    assert!(matches!(store.look_up(&record.key), Err(Miss::Damaged(why)) if why.contains("not there")));
}

#[test]
fn a_source_that_moved_under_the_stage_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("outputs")).unwrap();
    let path = dir.path().join("data.json");
    std::fs::write(&path, "old").unwrap();
    let mut draft = draft(&store, "a", &[("x", "from old")]);
    draft.sources = vec![source(&store, &path)];
    std::fs::write(&path, "new").unwrap();
    let failure = store.publish(draft).unwrap_err();
    assert_eq!(failure.class, FailureClass::User);
    assert!(failure.message.contains("data.json changed while the stage ran"), "{failure}");
    assert_eq!(store.look_up(&Digest::of(b"a")), Err(Miss::Absent));
}

#[test]
fn a_reference_to_something_that_is_no_source_is_a_bug() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut draft = draft(&store, "a", &[]);
    draft.references = vec![("x".to_owned(), "/etc/hostname".into(), Digest::of(b"").to_string())];
    assert_eq!(store.publish(draft).unwrap_err().class, FailureClass::Bug);
}

#[test]
fn the_index_is_only_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let record = publish(&Store::open(dir.path()).unwrap(), "a", &[("x", "text")]);
    let index = dir.path().join("objects-v1/index");
    let good = std::fs::read(&index).unwrap();
    assert!(good.starts_with(b"anneal index 3\n"));
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    let torn = [&good[..], b"0123abcd {\"Rec"].concat();
    for bytes in [&b""[..], b"rubbish", &good[..good.len() / 2], &flipped, &torn, b"anneal index 99\n"] {
        std::fs::write(&index, bytes).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.complaint().is_some(), "{}", String::from_utf8_lossy(bytes));
        assert!(store.look_up(&record.key).is_ok());
        assert_eq!(std::fs::read(&index).unwrap(), good, "mended");
    }
    // One of an earlier version, or none: nothing to complain about.
    std::fs::write(&index, b"anneal index 1\nwhatever\n").unwrap();
    assert_eq!(Store::open(dir.path()).unwrap().complaint(), None);
    assert_eq!(std::fs::read(&index).unwrap(), good);
    std::fs::remove_file(&index).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.complaint(), None);
    assert!(store.look_up(&record.key).is_ok());
    // A record that is gone is gone, whatever the index says.
    std::fs::remove_file(dir.path().join("objects-v1/records").join(format!("{}.json", record.key))).unwrap();
    assert_eq!(Store::open(dir.path()).unwrap().look_up(&record.key), Err(Miss::Absent));
}

#[test]
fn another_process_s_record_is_found_without_an_index_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (early, late) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
    let record = publish(&late, "a", &[("x", "text")]);
    assert_eq!(early.look_up(&record.key).unwrap().output, record.output);
}

#[test]
fn an_index_full_of_old_lines_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    publish(&Store::open(dir.path()).unwrap(), "a", &[("x", "text")]);
    let index = dir.path().join("objects-v1/index");
    let good = std::fs::read(&index).unwrap();
    let (header, frame) = good.split_at(good.iter().position(|b| *b == b'\n').unwrap() + 1);
    std::fs::write(&index, [header, &frame.repeat(2000)].concat()).unwrap();
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(std::fs::read(&index).unwrap(), good);
}

#[test]
fn work_in_progress_is_swept_when_its_lease_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let key = Digest::of(b"a");
    let lease = store.leases().try_key(&key).unwrap();
    let folder = store.workspace(&key).unwrap();
    assert_eq!(store.sweep(), 0);
    assert!(folder.exists());
    drop(lease);
    assert_eq!(store.sweep(), 1);
    assert!(!folder.exists());
}

#[test]
fn rows_of_failures_stand_until_their_limits_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let key = Digest::of(b"a");
    let row = |class, memory| FailureRow {
        key,
        stage: "lora".to_owned(),
        kind: "train-lora".to_owned(),
        failure: Failure::new(class, "why"),
        seconds: 1.0,
        peak_mib: Some(10.0),
        last_step: Some(7),
        log: vec!["last words".to_owned()],
        time: 0.0,
        limits: Limits { host_memory_mib: memory, ..Limits::default() },
        document: serde_json::Value::Null,
    };
    store.record_failure(&row(FailureClass::Oom, Some(100))).unwrap();
    assert_eq!(store.failure(&key), Some(row(FailureClass::Oom, Some(100))));
    let here = Limits { host_memory_mib: Some(100), ..Limits::default() };
    assert!(row(FailureClass::Oom, Some(100)).is_final(&here));
    assert!(!row(FailureClass::Oom, Some(200)).is_final(&here));
    assert!(row(FailureClass::Nan, Some(200)).is_final(&here));
    assert!(!row(FailureClass::Bug, Some(100)).is_final(&here));
    let with = |change: fn(&mut Limits)| {
        let mut limits = here.clone();
        change(&mut limits);
        limits
    };
    let oom = row(FailureClass::Oom, Some(100));
    assert!(!oom.is_final(&with(|limits| limits.memory_limit_mib = Some(50))));
    assert!(!oom.is_final(&with(|limits| limits.device_memory_mib = Some(50))));
    assert!(oom.is_final(&with(|limits| limits.timeout_seconds = Some(1.0))));
    let limited = FailureRow { limits: with(|limits| limits.memory_limit_mib = Some(50)), ..oom };
    // Within a limit of its own, another machine's memory is no reason to hope.
    assert!(limited.is_final(&with(|limits| (limits.memory_limit_mib, limits.host_memory_mib) = (Some(50), Some(7)))));
    let timeout = FailureRow { limits: with(|l| l.timeout_seconds = Some(9.0)), ..row(FailureClass::Timeout, None) };
    assert!(timeout.is_final(&with(|limits| limits.timeout_seconds = Some(9.0))));
    assert!(!timeout.is_final(&with(|limits| limits.timeout_seconds = Some(10.0))));
    publish(&store, "a", &[("x", "it worked")]);
    assert_eq!(store.failure(&key), None);
}

#[test]
fn the_newest_result_has_a_readable_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for text in ["one", "two"] {
        let record = publish(&store, text, &[("x", text)]);
        let mut latest = Latest::of(&store, "../quick");
        latest.link("a/b", record.key, &record.output).unwrap();
        latest.save().unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("latest/_.._quick/a_b/x")).unwrap(), text);
        assert_eq!(Latest::of(&store, "../quick").key("a/b"), Some(record.key));
    }
}
