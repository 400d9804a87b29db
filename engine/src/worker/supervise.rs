//! The driver's side of a worker process: starts it, passes its events on, waits for its end and says what came of it.
use super::evidence::{Evidence, classify, tail, telling};
use super::watch::Watch;
use super::{Job, WorkerCommand};
use crate::event::{Event, Stamped};
use crate::failpoint::pass;
use crate::lease::Lease;
use crate::memory::oom_kills;
use crate::stop::Stop;
use crate::store::{Miss, Record, Store};
use crate::{Failure, FailureClass};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A worker that may be told to stop, or a process group that a stage leads in this process. Empty once its number may
/// belong to somebody else.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live(Arc<Mutex<Option<(Pid, Role)>>>);

#[derive(Debug, Clone, Copy)]
enum Role {
    Worker,
    /// Asked to stop by its stage, which sees the wish itself.
    Adopted,
}

impl Live {
    fn set(&self, pid: Option<Pid>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pid.map(|pid| (pid, Role::Worker));
    }

    /// Takes over a process group; see [`Launch::adopt`](crate::Launch::adopt).
    pub(crate) fn adopt(&self, group: Option<u32>) {
        let pid = group.and_then(|group| i32::try_from(group).ok()).and_then(Pid::from_raw);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pid.map(|pid| (pid, Role::Adopted));
    }

    /// Asks it to stop, or, in a hurry, ends it and all that it started.
    pub(crate) fn stop(&self, hurry: bool) {
        let pid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended already; it is not reaped yet, so the number is still its own.
        let _ = match *pid {
            Some((pid, _)) if hurry => kill_process_group(pid, Signal::KILL),
            Some((pid, Role::Worker)) => kill_process(pid, Signal::TERM),
            Some((_, Role::Adopted)) | None => Ok(()),
        };
    }
}

/// What to start, and under which conditions.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    /// How to start it.
    pub(crate) command: &'a WorkerCommand,
    /// Threads it should use.
    pub(crate) threads: usize,
    /// GPUs that it may see, as `CUDA_VISIBLE_DEVICES` calls them; `None`: whatever the driver sees.
    pub(crate) gpus: Option<String>,
    /// It is ended after this time.
    pub(crate) timeout: Option<Duration>,
    /// Where its standard error goes.
    pub(crate) log: &'a Path,
    /// The wish to stop.
    pub(crate) stop: &'a Stop,
}

/// An execution without a result.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Why.
    pub(crate) failure: Failure,
    /// The last lines of its log.
    pub(crate) log: Vec<String>,
    /// Largest resident memory that was seen from outside, MiB.
    pub(crate) peak_mib: Option<f64>,
}

impl Lost {
    /// Nothing is known but why.
    pub(crate) fn of(failure: Failure) -> Self {
        Self { failure, log: Vec::new(), peak_mib: None }
    }
}

/// Runs a job in a process of its own, until that process ends; it keeps the leases. `started` gets its number; `emit`
/// its events but the last one.
pub(crate) fn supervise(
    job: &Job,
    leases: Vec<Lease>,
    store: &Store,
    setting: &Setting<'_>,
    live: &Live,
    started: impl FnOnce(u32),
    mut emit: impl FnMut(Stamped),
) -> Result<Arc<Record>, Lost> {
    let kills = oom_kills();
    let mut child = spawn(job, leases, setting).map_err(|failure| {
        super::clear(&job.folder);
        Lost::of(failure)
    })?;
    let _ = pass("worker-started");
    let pid = child.id();
    live.set(i32::try_from(pid).ok().and_then(Pid::from_raw));
    started(pid);
    let watch = Watch::start(pid, live, setting.timeout);
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
    let (timed_out, peak_mib) = watch.finish();
    // Killed, it could not clean up; no other process knows this folder's name.
    super::clear(&job.folder);
    let lost = |failure, log| Lost { failure, log: telling(log), peak_mib };
    // Asked to stop, a stage may say that it was interrupted: here it is known by whom.
    let because_of_time = |failure: &Failure| timed_out && failure.class != FailureClass::Bug;
    if let Some(Event::StageFailed { failure, .. }) = last {
        let failure = if because_of_time(&failure) { out_of_time(job, setting) } else { failure };
        return Err(lost(failure, tail(setting.log)));
    }
    // The store is the truth: a worker may be killed between publishing and saying so. Its process number tells its
    // result from an older one. Files that were not to be kept may be gone already: a stage that made equal ones, and ended
    // before, took them along.
    if let Ok(record) | Err(Miss::Dropped(record)) = store.look_up(&job.key)
        && record.pid == pid
    {
        return Ok(record);
    }
    let log = tail(setting.log);
    let status = status.map_err(|e| lost(Failure::bug(format!("cannot wait for worker {pid}: {e}")), log.clone()))?;
    let oom_kill = kills.zip(oom_kills()).is_some_and(|(before, after)| after > before);
    let limited = job.memory_limit_mib.is_some();
    let evidence = Evidence { status, log: &log, oom_kill, limited, stopped: setting.stop.requested() };
    let failure = classify(&job.stage, &evidence);
    let failure = if because_of_time(&failure) { out_of_time(job, setting) } else { failure };
    Err(lost(failure, log))
}

fn out_of_time(job: &Job, setting: &Setting<'_>) -> Failure {
    let seconds = setting.timeout.unwrap_or_default().as_secs_f64();
    Failure::new(FailureClass::Timeout, format!("stage `{}` was ended after {seconds} s, its `timeout`", job.stage))
        .hint("raise `timeout`; what was saved in its checkpoints is kept")
}

fn spawn(job: &Job, leases: Vec<Lease>, setting: &Setting<'_>) -> Result<Child, Failure> {
    let path = job.folder.join("job.json");
    let text = serde_json::to_vec_pretty(job).map_err(|e| Failure::bug(format!("cannot write a job: {e}")))?;
    pass("job-write")
        .and_then(|()| std::fs::write(&path, text))
        .and_then(|()| pass("job-written"))
        .map_err(|e| Failure::io("write", &path, &e))?;
    // Without a log the work can still be done.
    // Appended to by several: the worker, this process, and the programs that the worker starts.
    let log = pass("worker-log")
        .and_then(|()| std::fs::File::create(setting.log))
        .and_then(|_| std::fs::OpenOptions::new().append(true).open(setting.log))
        .map_or_else(|_| Stdio::null(), Stdio::from);
    let WorkerCommand { program, args } = setting.command;
    let leases = Lease::into_stdio(leases).map_err(|e| Failure::bug(format!("cannot hand leases to a worker: {e}")))?;
    let mut command = Command::new(program);
    if let Some(gpus) = &setting.gpus {
        command.env("CUDA_VISIBLE_DEVICES", gpus);
    }
    command
        .args(args)
        .arg(&path)
        .stdin(leases)
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
        // What it started ends with it. Nobody else can have its number before it is waited for.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    live.set(None);
    child.wait()
}

fn note(log: &Path, line: &[u8]) {
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).open(log) {
        let _ = file.write_all(&[line, b"\n"].concat());
    }
}
