//! Listens to a program: what it says on both its outputs goes into the log, about in the order in which it comes, and
//! lines of its standard output that tell metrics are sent on.
//!
//! The log is made with the first word: most programs say nothing, and hundreds of empty files would hide the others.
//! Unaware of processes.
use super::metrics::{LONGEST, is_metric};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// What is still read of what others go on saying after it was enough.
const MOST: usize = 1 << 20;

/// Copies both outputs into the log until nobody writes to them any more; once the other end of `enough` is closed, only
/// what is there. Tells lines of the first that mean a metric, and `None` when nobody writes to the first any more.
pub(super) fn listen(
    stdout: impl Read + AsFd,
    stderr: impl Read + AsFd,
    enough: impl AsFd,
    log: PathBuf,
    mut metric: impl FnMut(Option<&[u8]>),
) {
    let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
    let (mut buffer, mut log, mut lines) = (vec![0; 16 << 10], Log::Unmade(log), Lines::default());
    // What may still be read; without end until it is enough.
    let (mut ending, mut rest) = (false, usize::MAX);
    while stdout.is_some() || stderr.is_some() {
        let ready = match ready(stdout.as_ref(), stderr.as_ref(), (!ending).then_some(&enough)) {
            Ok(ready) => ready,
            Err(Errno::INTR) => continue,
            // Neither is read any further; the program finds its pipes closed.
            Err(_) => break,
        };
        // Where both have said something, which was first cannot be told; errors at the end are found more easily.
        let mut read = 0;
        if ready.stdout {
            match hear(&mut stdout, &mut buffer) {
                Some(bytes) => {
                    read += bytes.len();
                    log.write(bytes);
                    lines.take(bytes, &mut |line| metric(Some(line)));
                }
                None => {
                    lines.end(&mut |line| metric(Some(line)));
                    metric(None);
                }
            }
        }
        if ready.stderr
            && let Some(bytes) = hear(&mut stderr, &mut buffer)
        {
            read += bytes.len();
            log.write(bytes);
        }
        if ending {
            rest = rest.saturating_sub(read);
            if rest == 0 || !(ready.stdout || ready.stderr) {
                break;
            }
        } else if ready.enough {
            (ending, rest) = (true, MOST);
        }
    }
    // Cut off, a line may say less than it means.
    if stdout.is_some() && rest > 0 {
        lines.end(&mut |line| metric(Some(line)));
    }
}

/// What can be read, or has ended.
struct Ready {
    stdout: bool,
    stderr: bool,
    enough: bool,
}

/// Waits until there is something, but once it is enough only looks.
fn ready(stdout: Option<&impl AsFd>, stderr: Option<&impl AsFd>, enough: Option<&impl AsFd>) -> Result<Ready, Errno> {
    let mut waiting = Vec::with_capacity(3);
    waiting.extend(stdout.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    waiting.extend(stderr.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    waiting.extend(enough.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    let now = Timespec::default();
    poll(&mut waiting, if enough.is_some() { None } else { Some(&now) })?;
    let mut ready = waiting.iter().map(|pipe| !pipe.revents().is_empty());
    let mut next = |there: bool| there && ready.next() == Some(true);
    Ok(Ready { stdout: next(stdout.is_some()), stderr: next(stderr.is_some()), enough: next(enough.is_some()) })
}

/// What one of them says, possibly nothing; `None` at its end, after which it is not asked again.
fn hear<'a>(pipe: &mut Option<impl Read>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let read = match pipe.as_mut()?.read(buffer) {
        Ok(read) => read,
        Err(e) if e.kind() == ErrorKind::Interrupted => return Some(&[]),
        Err(_) => 0,
    };
    if read == 0 {
        *pipe = None;
        return None;
    }
    buffer.get(..read)
}

/// A log that may not be there yet.
enum Log {
    Unmade(PathBuf),
    Open(File),
    /// It could not be made or written; without it the work can still be done.
    Lost,
}

impl Log {
    fn write(&mut self, bytes: &[u8]) {
        if let (Self::Unmade(path), false) = (&*self, bytes.is_empty()) {
            *self = OpenOptions::new().append(true).create(true).open(path).map_or(Self::Lost, Self::Open);
        }
        if let Self::Open(file) = self
            && file.write_all(bytes).is_err()
        {
            *self = Self::Lost;
        }
    }
}

/// The line that is being said.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    /// It is longer than any that tells a metric.
    long: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], metric: &mut impl FnMut(&[u8])) {
        for byte in bytes {
            match byte {
                b'\n' => self.end(metric),
                _ if self.line.len() < LONGEST => self.line.push(*byte),
                _ => self.long = true,
            }
        }
    }

    fn end(&mut self, metric: &mut impl FnMut(&[u8])) {
        if !std::mem::take(&mut self.long) && is_metric(&self.line) {
            metric(&self.line);
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// What a script was heard to tell. `enough` is said when it ended. Whether the end of its output is told is left to
    /// chance: programs that other tests start at this moment may hold it a little longer.
    fn heard(script: &str, log: &std::path::Path) -> Vec<String> {
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (enough, says_enough) = std::io::pipe().unwrap();
        let (mut heard, log) = (Vec::new(), log.to_owned());
        std::thread::scope(|scope| {
            let listener = scope.spawn(|| {
                let told =
                    |line: Option<&[u8]>| heard.extend(line.map(|line| String::from_utf8(line.to_vec()).unwrap()));
                listen(stdout, stderr, enough, log, told);
            });
            child.wait().unwrap();
            drop(says_enough);
            listener.join().unwrap();
        });
        heard
    }

    #[test]
    fn both_outputs_are_logged_and_one_tells_metrics() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert!(heard("true", &log).is_empty() && !log.exists());
        let script = "echo one; sleep 0.05; echo 'anneal: metric a 1' >&2; sleep 0.05; echo 'anneal: metric b 2'; \
                      exec 2>&-; sleep 0.05; printf 'anneal: metric c 3'";
        assert_eq!(heard(script, &log), ["anneal: metric b 2", "anneal: metric c 3"]);
        let expected = "one\nanneal: metric a 1\nanneal: metric b 2\nanneal: metric c 3";
        assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
        // What is there stays, and a line without end does not fill the memory.
        let long =
            "i=0; while [ $i -lt 2000 ]; do printf 0123456789; i=$((i+1)); done; echo; echo 'anneal: metric d 4'";
        assert_eq!(heard(long, &log), ["anneal: metric d 4"]);
        assert_eq!(std::fs::metadata(&log).unwrap().len() as usize, expected.len() + 20_001 + 19);
    }

    #[test]
    fn nobody_is_waited_for_who_holds_the_outputs_when_it_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let begun = std::time::Instant::now();
        let log = dir.path().join("log");
        // One that is silent, and one that never stops.
        let found =
            heard("sleep 20 & (while :; do echo more; done) >&2 & echo 'anneal: metric a 1'; echo err >&2", &log);
        assert_eq!(found, ["anneal: metric a 1"]);
        assert!(begun.elapsed() < std::time::Duration::from_secs(10));
        assert!(std::fs::read_to_string(&log).unwrap().contains("err\n"));
    }

    #[test]
    fn a_program_is_heard_out_without_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let found = heard("echo lost; echo 'anneal: metric a 1'", &dir.path().join("no/folder"));
        assert_eq!(found, ["anneal: metric a 1"]);
    }
}
