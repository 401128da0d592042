//! Processes that benches start and watch.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Result;

/// The program under measurement, built with optimisations.
pub(super) fn aquifer() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built =
        Command::new(cargo).args(["build", "--quiet", "--release", "--package", "aquifer"]).status()?;
    if !built.success() {
        return Err("cannot build aquifer".into());
    }
    let path = std::env::current_exe()?.with_file_name("aquifer");
    if path.exists() { Ok(path) } else { Err(format!("no program at {}", path.display()).into()) }
}

/// A program that runs until it is dropped.
pub(super) struct Running {
    child: Child,
}

impl Running {
    pub(super) fn start(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> Result<Running> {
        Running::start_in(program, arguments, &[])
    }

    /// The same, with these variables added to the environment.
    pub(super) fn start_in(
        program: impl AsRef<OsStr>,
        arguments: &[&OsStr],
        environment: &[(String, String)],
    ) -> Result<Running> {
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Running { child })
    }

    /// Asks it to end, and waits until it has.
    pub(super) fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }

    /// Bytes of memory that it holds now.
    pub(super) fn resident(&self) -> Result<u64> {
        memory(self.child.id(), "VmRSS:")
    }

    /// CPU time that it has used, user and system.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Fields after the program's name in parentheses; utime and stime are the 14th and 15th of all, in ticks.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().filter_map(|&i| fields.get(i)?.parse::<u64>().ok()).sum();
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program that ran to its end has taken.
pub(super) struct Taken {
    pub(super) wall: Duration,
    /// The most memory that it held at once, in bytes.
    pub(super) peak: u64,
    pub(super) output: String,
}

/// Runs a program to its end.
pub(super) fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> Result<Taken> {
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = child.stdout.take().map(|out| std::thread::spawn(move || lines(BufReader::new(out))));
    let mut peak = 0;
    let status = loop {
        // The high-water mark only grows, so the last look before the end is the answer.
        peak = memory(child.id(), "VmHWM:").unwrap_or(peak).max(peak);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let wall = start.elapsed();
    let output = output.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if status.success() {
        Ok(Taken { wall, peak, output })
    } else {
        Err(format!("{status}: {output}").into())
    }
}

fn lines(from: impl BufRead) -> String {
    from.lines().map_while(std::result::Result::ok).collect::<Vec<_>>().join("\n")
}

fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
