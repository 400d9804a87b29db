//! A program's process: starts it, keeps what it says, listens for metrics, and sees that it ends.
//!
//! Two threads stand by a program, one that listens to it and one that waits for its end; the stage's own thread hears
//! of both and of the wish to stop. Unaware of what an end means.
use super::listen::listen;
use super::metrics::Metrics;
use anneal_engine::StageContext;
use anneal_engine::memory::{self, oom_kills};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What a program gets to end in when it was asked to stop.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// How long the wish to stop may go unseen.
const TICK: Duration = Duration::from_millis(20);
/// How long to wait for the rest of what an ended program said: somebody may still hold its standard output.
const REST: Duration = Duration::from_secs(1);
/// How often to try to start a file that somebody still writes to.
const BUSY: u32 = 50;

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// It was asked to stop before.
    pub(super) stopped: bool,
    /// The kernel killed something for want of memory meanwhile.
    pub(super) oom_kill: bool,
    pub(super) metrics: BTreeMap<String, f64>,
    /// Metrics that could not be understood.
    pub(super) complaints: Vec<String>,
}

enum Message {
    Metric(Vec<u8>),
    /// Nobody writes to its standard output any more.
    Closed,
    Exited,
}

/// Runs a program to its end; asked to stop, it gets `grace` for that.
///
/// # Errors
/// It could not be started.
pub(super) fn run(command: &mut Command, context: &StageContext<'_>, grace: Duration) -> std::io::Result<Ended> {
    let kills = oom_kills();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let own_group = context.launch.adopt.is_some();
    if own_group {
        command.process_group(0);
    }
    let (enough, says_enough) = std::io::pipe()?;
    let mut child = start(command)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(adopt) = context.launch.adopt {
        adopt(Some(child.id()));
    }
    let (send, receive) = channel();
    let mut listener = None;
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        let (send, log) = (send.clone(), context.launch.log.to_owned());
        // Without a thread to spare the program would wait for a reader for ever; its own pipes are closed instead.
        let thread = std::thread::Builder::new().name("listen".to_owned()).spawn(move || {
            // A receiver that is gone listens no more.
            let metric = |line: Option<&[u8]>| {
                drop(send.send(line.map_or(Message::Closed, |line| Message::Metric(line.to_vec()))));
            };
            listen(stdout, stderr, enough, log, metric);
        });
        listener = thread.ok().map(|thread| (thread, says_enough));
    }
    let waiter = std::thread::Builder::new().name("wait".to_owned()).spawn(move || {
        wait(pid);
        let _ = send.send(Message::Exited);
    });
    let (mut metrics, mut asked, mut exited, mut closed) = (Metrics::default(), None, None, false);
    let (mut killed, mut peak_kib) = (false, 0);
    loop {
        match receive.recv_timeout(TICK) {
            Ok(Message::Metric(line)) => metrics.take(&line),
            Ok(Message::Closed) => closed = true,
            Ok(Message::Exited) => {
                exited = Some(Instant::now());
                // What it left running would write on while its files are hashed; what was asked to stop with it gets
                // a moment for that. It is not waited for yet, so its number is still its own.
                if own_group && asked.is_none() {
                    signal(pid, own_group, Signal::KILL);
                }
            }
            // A program that ends within a tick has no memory worth knowing.
            Err(RecvTimeoutError::Timeout) => peak_kib = memory::tree_kib(child.id()).unwrap_or(0).max(peak_kib),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if exited.is_some_and(|at| closed || at.elapsed() > REST) {
            break;
        }
        if asked.is_none() && exited.is_none() && (context.stop)() {
            asked = Some(Instant::now());
            signal(pid, own_group, Signal::TERM);
        }
        if asked.is_some_and(|at| at.elapsed() > grace) && !std::mem::replace(&mut killed, true) {
            signal(pid, own_group, Signal::KILL);
        }
    }
    if exited.is_none() {
        // There was no thread to spare for this.
        wait(pid);
    }
    if own_group {
        signal(pid, own_group, Signal::KILL);
    }
    if let Ok(waiter) = waiter {
        // It does not panic; if it did, the next lines would wait instead.
        let _ = waiter.join();
    }
    // What it said until now is all in the log then; what others say who outlive it is nobody's any more.
    if let Some((thread, says_enough)) = listener {
        drop(says_enough);
        let _ = thread.join();
        receive.try_iter().for_each(|message| {
            if let Message::Metric(line) = message {
                metrics.take(&line);
            }
        });
    }
    if let Some(adopt) = context.launch.adopt {
        adopt(None);
    }
    let status = child.wait()?;
    context.programs_mib.set((peak_kib > 0).then_some(peak_kib as f64 / 1024.0));
    let oom_kill = kills.zip(oom_kills()).is_some_and(|(before, after)| after > before);
    Ok(Ended { status, stopped: asked.is_some(), oom_kill, metrics: metrics.values, complaints: metrics.complaints })
}

/// Starts it. A file that was just copied may be open for writing still, in a child that another thread starts at this
/// moment; that child's own start closes it.
fn start(command: &mut Command) -> std::io::Result<Child> {
    for _ in 0..BUSY {
        match command.spawn() {
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    command.spawn()
}

/// To all that it started too, if they are a group of their own; a worker must not kill itself.
fn signal(pid: Option<Pid>, group: bool, signal: Signal) {
    if let Some(pid) = pid {
        // It may have ended already.
        let _ = if group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    }
}

/// Waits for the end, but leaves the number to the program.
fn wait(pid: Option<Pid>) {
    let Some(pid) = pid else { return };
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
}
