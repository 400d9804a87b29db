//! Listens to a program: what it says on both its outputs goes into the log, in the order in which it comes, and lines of
//! its standard output that tell metrics are sent on.
//!
//! The log is made with the first word: most programs say nothing, and hundreds of empty files would hide the others.
//! Unaware of processes.
use super::metrics::{LONGEST, is_metric};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Copies both outputs into the log until nobody writes to them any more, and tells lines of the first that mean a metric.
pub(super) fn listen(stdout: impl Read + AsFd, stderr: impl Read + AsFd, log: PathBuf, mut metric: impl FnMut(&[u8])) {
    let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
    let (mut buffer, mut log, mut lines) = (vec![0; 16 << 10], Log::Unmade(log), Lines::default());
    while stdout.is_some() || stderr.is_some() {
        let (said, warned) = match ready(stdout.as_ref(), stderr.as_ref()) {
            Ok(ready) => ready,
            Err(Errno::INTR) => continue,
            // Neither is read any further; the program finds its pipes closed.
            Err(_) => break,
        };
        if said {
            match read(&mut stdout, &mut buffer) {
                Some(bytes) => {
                    log.write(bytes);
                    lines.take(bytes, &mut metric);
                }
                None => lines.end(&mut metric),
            }
        }
        if warned && let Some(bytes) = read(&mut stderr, &mut buffer) {
            log.write(bytes);
        }
    }
}

/// Waits until one of them has something to say, or ends; says which.
fn ready(stdout: Option<&impl AsFd>, stderr: Option<&impl AsFd>) -> Result<(bool, bool), Errno> {
    let mut waiting = Vec::with_capacity(2);
    waiting.extend(stdout.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    waiting.extend(stderr.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    poll(&mut waiting, None)?;
    let mut ready = waiting.iter().map(|pipe| !pipe.revents().is_empty());
    let said = stdout.is_some() && ready.next() == Some(true);
    Ok((said, stderr.is_some() && ready.next() == Some(true)))
}

/// What one of them says, possibly nothing; `None` at its end, after which it is not asked again.
fn read<'a>(pipe: &mut Option<impl Read>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
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

    #[test]
    fn both_outputs_are_logged_and_one_tells_metrics() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let heard = |script: &str| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut heard = Vec::new();
            let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
            listen(stdout, stderr, log.clone(), |line| heard.push(String::from_utf8(line.to_vec()).unwrap()));
            child.wait().unwrap();
            heard
        };
        assert!(heard("true").is_empty() && !log.exists());
        let script = "echo one; sleep 0.05; echo 'anneal: metric a 1' >&2; sleep 0.05; echo 'anneal: metric b 2'; \
                      exec 2>&-; sleep 0.05; printf 'anneal: metric c 3'";
        assert_eq!(heard(script), ["anneal: metric b 2", "anneal: metric c 3"]);
        let expected = "one\nanneal: metric a 1\nanneal: metric b 2\nanneal: metric c 3";
        assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
        // What is there stays, and a line without end does not fill the memory.
        let long =
            "i=0; while [ $i -lt 2000 ]; do printf 0123456789; i=$((i+1)); done; echo; echo 'anneal: metric d 4'";
        assert_eq!(heard(long), ["anneal: metric d 4"]);
        assert_eq!(std::fs::metadata(&log).unwrap().len() as usize, expected.len() + 20_001 + 19);
    }

    #[test]
    fn a_program_is_heard_out_without_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "echo lost; echo 'anneal: metric a 1'"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut heard = 0;
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        listen(stdout, stderr, dir.path().join("no/folder"), |_| heard += 1);
        assert!(child.wait().unwrap().success());
        assert_eq!(heard, 1);
    }
}
