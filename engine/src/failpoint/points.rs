//! The list of all failpoints. The checker of crashes fails when a run of it never passes one of these.

/// Points of one part of the program.
#[derive(Debug, Clone, Copy)]
pub struct Area {
    /// Its name.
    pub name: &'static str,
    /// What its points protect.
    pub what: &'static str,
    /// Name of each point and where it lies, in the order in which they are passed.
    pub points: &'static [(&'static str, &'static str)],
}

/// The names of an area's points; none if there is no such area.
pub fn area(name: &str) -> Vec<&'static str> {
    let of = POINTS.iter().filter(|area| area.name == name);
    of.flat_map(|area| area.points).map(|(name, _)| *name).collect()
}

/// Every point, by area.
pub const POINTS: &[Area] = &[
    Area {
        name: "checkpoint",
        what: "what a training stage leaves for its next attempt",
        points: &[
            ("checkpoints-make", "before the folder of the key is made"),
            ("checkpoint-list", "before the folder is searched for the latest"),
            ("checkpoint-read", "before a checkpoint is read"),
            ("checkpoint-clear", "before what a crash left unfinished is removed"),
            ("checkpoint-folder", "before the unfinished folder is made"),
            ("checkpoint-tensors", "before parameters and moments are written"),
            ("checkpoint-state", "before the log is written"),
            ("checkpoint-sync", "before each file is synced"),
            ("checkpoint-rename", "before the folder gets its name"),
            ("checkpoint-renamed", "before the folder of checkpoints is synced"),
            ("checkpoint-remove", "before each older one is removed"),
        ],
    },
    Area {
        name: "commit",
        what: "the protocol that publishes a result",
        points: &[
            ("begin", "before anything"),
            ("reference-link", "before each link to a file outside"),
            ("folder-list", "before each folder of the result is read"),
            ("file-hash", "before each file is read"),
            ("file-hashed", "before it is made read-only"),
            ("file-protected", "before it is synced"),
            ("file-synced", "after that"),
            ("folder-sync", "before a folder is synced, whichever"),
            ("tree-synced", "before files outside are looked at again"),
            ("sources-checked", "after that"),
            ("tree-rename", "before the tree gets its name"),
            ("tree-exchange", "before a damaged tree is exchanged for a good one"),
            ("tree-renamed", "before the folder of trees is synced"),
            ("trees-synced", "after that"),
            ("record-create", "before the record's file is made"),
            ("record-created", "before it is synced"),
            ("record-synced", "before it gets its name"),
            ("record-renamed", "before the folder of records is synced"),
            ("records-synced", "after that: the result exists"),
            ("indexed", "after the index learned of it"),
            ("failure-forget", "before the failure of an earlier attempt is removed"),
            ("checkpoints-remove", "before the checkpoints are removed"),
            ("checkpoints-removed", "after that"),
        ],
    },
    Area {
        name: "failure",
        what: "rows that say why a key failed",
        points: &[
            ("failure-read", "before a row is read"),
            ("failure-create", "before its file is made"),
            ("failure-write", "before it is written"),
            ("failure-sync", "before it is synced"),
            ("failure-rename", "before it gets its name"),
            ("failure-renamed", "after that"),
        ],
    },
    Area {
        name: "index",
        what: "the file that spares reading all records",
        points: &[
            ("index-read", "before it is read"),
            ("index-rebuild", "before records are read again because it is torn or absent"),
            ("index-create", "before a new one is written"),
            ("index-written", "before it gets its name"),
            ("index-replaced", "after that"),
            ("index-open", "before it is opened for appending"),
            ("index-append", "before each line"),
            ("index-appended", "after it"),
        ],
    },
    Area {
        name: "latest",
        what: "readable names of the newest results",
        points: &[
            ("latest-folder", "before the experiment's folder is made"),
            ("latest-link", "before a link is made"),
            ("latest-rename", "before it gets its name"),
            ("latest-renamed", "after that"),
            ("latest-keys-write", "before the keys are written"),
            ("latest-keys-rename", "before they get their name"),
            ("latest-keys-renamed", "after that"),
        ],
    },
    Area {
        name: "lease",
        what: "locks on keys and slots",
        points: &[
            ("lease-open", "before a lock file is opened"),
            ("lease-lock", "before it is locked"),
            ("lease-taken", "after that"),
        ],
    },
    Area {
        name: "recording",
        what: "the folder of a run",
        points: &[
            ("run-folder", "before it is made"),
            ("run-file", "before each of its descriptions is written"),
            ("events-create", "before the file of events is made"),
            ("events-write", "before each event"),
            ("events-flush", "before events are handed to the system"),
        ],
    },
    Area {
        name: "source",
        what: "files outside the store",
        points: &[("source-open", "before one is opened to be hashed"), ("source-read", "before it is read")],
    },
    Area {
        name: "store",
        what: "opening, looking up, sweeping",
        points: &[
            ("store-folder", "before each of its folders is made"),
            ("sweep-begin", "before work that nobody does any more is looked for"),
            ("sweep-remove", "before each such folder is removed"),
            ("sweep-removed", "after that"),
            ("sweep-checkpoints", "before checkpoints of a finished key are removed"),
            ("record-read", "before a record is read"),
        ],
    },
    Area {
        name: "worker",
        what: "handing a stage to another process",
        points: &[
            ("job-write", "driver: before the job is written"),
            ("job-written", "driver: after that"),
            ("worker-log", "driver: before the worker's log is made"),
            ("worker-start", "driver: before the process is started"),
            ("worker-started", "driver: after that"),
            ("worker-ended", "driver: after its last event, before it is waited for"),
            ("worker-reaped", "driver: after that"),
            ("job-read", "worker: before the job is read"),
            ("worker-tell", "worker: before each event"),
        ],
    },
    Area {
        name: "workspace",
        what: "the folder in which a stage works",
        points: &[
            ("workspace-make", "before it is made"),
            ("workspace-made", "after that"),
            ("workspace-remove", "before it is removed, by whoever executed the stage"),
            ("workspace-removed", "after that"),
        ],
    },
];
