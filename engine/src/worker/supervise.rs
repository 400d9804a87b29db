//! The driver's side of a worker process: starts it, passes its events on, waits for its end and says what came of it.
use super::evidence::{Evidence, classify, tail, telling};
use super::{Job, WorkerCommand};
use crate::Failure;
use crate::event::{Event, Stamped};
use crate::failpoint::pass;
use crate::lease::Lease;
use crate::memory::oom_kills;
use crate::stop::Stop;
use crate::store::{Record, Store};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// A worker that may be told to stop. Empty once its number may belong to somebody else.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live(Arc<Mutex<Option<Pid>>>);

impl Live {
    fn set(&self, pid: Option<Pid>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pid;
    }

    /// Asks it to stop, or, in a hurry, ends it and all that it started.
    pub(crate) fn stop(&self, hurry: bool) {
        let pid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = *pid {
            // It may have ended already; it is not reaped yet, so the number is still its own.
            let _ = if hurry { kill_process_group(pid, Signal::KILL) } else { kill_process(pid, Signal::TERM) };
        }
    }
}

/// What to start, and under which conditions.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    /// How to start it.
    pub(crate) command: &'a WorkerCommand,
    /// Threads it should use.
    pub(crate) threads: usize,
    /// Where its standard error goes.
    pub(crate) log: &'a Path,
    /// The wish to stop.
    pub(crate) stop: &'a Stop,
}

/// Runs a job in a process of its own, until that process ends. `started` gets its number; `emit` its events but the
/// last one. On failure, also returns the last lines of its log.
pub(crate) fn supervise(
    job: &Job,
    lease: Lease,
    store: &Store,
    setting: &Setting<'_>,
    live: &Live,
    started: impl FnOnce(u32),
    mut emit: impl FnMut(Stamped),
) -> Result<Arc<Record>, (Failure, Vec<String>)> {
    let kills = oom_kills();
    let mut child = spawn(job, lease, setting).map_err(|failure| {
        super::clear(&job.folder);
        (failure, Vec::new())
    })?;
    let _ = pass("worker-started");
    let pid = child.id();
    live.set(i32::try_from(pid).ok().and_then(Pid::from_raw));
    started(pid);
    let mut last = None;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            match serde_json::from_slice::<Stamped>(&line) {
                Ok(Stamped { event: event @ (Event::StageFinished { .. } | Event::StageFailed { .. }), .. }) => {
                    last = Some(event);
                }
                Ok(event) => emit(event),
                // Something the stage, or a library, printed: it belongs into the log.
                Err(_) => note(setting.log, &line),
            }
        }
    }
    let _ = pass("worker-ended");
    let status = reap(&mut child, live);
    let _ = pass("worker-reaped");
    // Killed, it could not clean up; no other process knows this folder's name.
    super::clear(&job.folder);
    if let Some(Event::StageFailed { failure, .. }) = last {
        return Err((failure, telling(tail(setting.log))));
    }
    // The store is the truth: a worker may be killed between publishing and saying so. Its process number tells its
    // result from an older one.
    if let Some(record) = store.look_up(&job.key).ok().filter(|record| record.pid == pid) {
        return Ok(record);
    }
    let log = tail(setting.log);
    let status =
        status.map_err(|e| (Failure::bug(format!("cannot wait for worker {pid}: {e}")), telling(log.clone())))?;
    let oom_kill = kills.zip(oom_kills()).is_some_and(|(before, after)| after > before);
    let evidence = Evidence { status, log: &log, oom_kill, stopped: setting.stop.requested() };
    Err((classify(&job.stage, &evidence), telling(log)))
}

fn spawn(job: &Job, lease: Lease, setting: &Setting<'_>) -> Result<Child, Failure> {
    let path = job.folder.join("job.json");
    let text = serde_json::to_vec_pretty(job).map_err(|e| Failure::bug(format!("cannot write a job: {e}")))?;
    pass("job-write")
        .and_then(|()| std::fs::write(&path, text))
        .and_then(|()| pass("job-written"))
        .map_err(|e| Failure::io("write", &path, &e))?;
    // Without a log the work can still be done.
    let log = pass("worker-log")
        .and_then(|()| std::fs::File::create(setting.log))
        .map_or_else(|_| Stdio::null(), Stdio::from);
    let WorkerCommand { program, args } = setting.command;
    let mut command = Command::new(program);
    command
        .args(args)
        .arg(&path)
        .stdin(lease.into_stdio())
        .stdout(Stdio::piped())
        .stderr(log)
        // Ctrl+C reaches the driver only, which then asks its workers.
        .process_group(0)
        .env("RAYON_NUM_THREADS", setting.threads.to_string());
    pass("worker-start").and_then(|()| command.spawn()).map_err(|e| Failure::io("start", program, &e))
}

/// Waits for the end, and makes sure that nobody signals the number once it is free.
fn reap(child: &mut Child, live: &Live) -> std::io::Result<std::process::ExitStatus> {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // An error here only means that the next line waits instead.
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    }
    live.set(None);
    child.wait()
}

fn note(log: &Path, line: &[u8]) {
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).open(log) {
        let _ = file.write_all(&[line, b"\n"].concat());
    }
}
