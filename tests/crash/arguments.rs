//! The arguments of the checker of crashes.
//!
//! Unaware of what they lead to.
use std::path::PathBuf;

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    /// All chance follows from it.
    pub(crate) seed: u64,
    /// Number of the first schedule.
    pub(crate) first: u64,
    /// How many.
    pub(crate) schedules: u64,
    /// None begins after so many seconds.
    pub(crate) seconds: u64,
    /// Schedules at once.
    pub(crate) jobs: usize,
    /// Where outputs folders are made. Processes are killed, not the machine: what was written is seen by the next
    /// process whether or not it reached a disk, so a folder in memory proves the same as one on a disk, sooner.
    pub(crate) dir: PathBuf,
    /// The program under test.
    pub(crate) program: PathBuf,
    /// One schedule only, told in full.
    pub(crate) replay: bool,
}

impl Arguments {
    /// Reads the command line.
    pub(crate) fn read() -> Result<Self, String> {
        let here = std::env::current_exe().map_err(|e| format!("cannot find this program's own file: {e}"))?;
        let memory = PathBuf::from("/dev/shm");
        let mut this = Self {
            seed: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_secs()),
            first: 0,
            schedules: 1500,
            seconds: u64::MAX / 2,
            jobs: 2 * std::thread::available_parallelism().map_or(1, usize::from),
            dir: if memory.is_dir() { memory } else { std::env::temp_dir() },
            program: here.with_file_name("anneal-under-test"),
            replay: false,
        };
        let mut words = std::env::args().skip(1);
        while let Some(option) = words.next() {
            let value = words.next().ok_or_else(|| format!("{option} needs a value"))?;
            let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{option} {text}: not a number"));
            match option.as_str() {
                "--seed" => this.seed = number(&value)?,
                "--schedules" => this.schedules = number(&value)?,
                "--seconds" => this.seconds = number(&value)?,
                "--jobs" => this.jobs = number(&value)?.max(1) as usize,
                "--dir" => this.dir = PathBuf::from(value),
                "--program" => this.program = PathBuf::from(value),
                "--replay" => {
                    let (seed, index) = value.split_once(':').ok_or("--replay needs SEED:INDEX")?;
                    (this.seed, this.first, this.schedules, this.replay) = (number(seed)?, number(index)?, 1, true);
                }
                other => return Err(format!("unknown option {other}")),
            }
        }
        if !this.program.exists() {
            return Err(format!(
                "{} is not there; build it: cargo build -p anneal-tests --bins",
                this.program.display()
            ));
        }
        Ok(this)
    }
}
