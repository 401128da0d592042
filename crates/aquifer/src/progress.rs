//! Progress on stderr: a bar with rate and time left on a terminal, a plain line now and then otherwise.

use std::io::{self, IsTerminal, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::units::{Bytes, Length};

/// All bars of the process, so that a log line can be written between them.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of one piece of work that is measured in bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    how: How,
}

#[derive(Debug)]
enum How {
    Silent,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

#[derive(Debug)]
struct Lines {
    what: String,
    started: Instant,
    last: Instant,
    total: u64,
}

impl Progress {
    /// Starts to show. With `quiet` nothing ever is.
    pub(crate) fn start(what: &str, quiet: bool) -> Progress {
        let how = if quiet {
            How::Silent
        } else if io::stderr().is_terminal() {
            let bar = BARS.add(ProgressBar::no_length());
            bar.set_style(style(false));
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            How::Bar(bar)
        } else {
            let now = Instant::now();
            How::Lines(Mutex::new(Lines { what: what.to_owned(), started: now, last: now, total: 0 }))
        };
        Progress { how }
    }

    /// What is being done now.
    pub(crate) fn phase(&self, what: &str) {
        match &self.how {
            How::Silent => {}
            How::Bar(bar) => bar.set_message(what.to_owned()),
            How::Lines(lines) => what.clone_into(&mut lock(lines).what),
        }
    }

    /// `done` of `total` bytes; a total of 0 is one that is not known.
    pub(crate) fn set(&self, done: u64, total: u64) {
        match &self.how {
            How::Silent => {}
            How::Bar(bar) => {
                if total > 0 && bar.length() != Some(total) {
                    bar.set_length(total);
                    bar.set_style(style(true));
                }
                bar.set_position(done);
            }
            How::Lines(lines) => {
                let mut lines = lock(lines);
                lines.total = total;
                let now = Instant::now();
                if now.duration_since(lines.last) >= LINE_EVERY {
                    lines.last = now;
                    note(&line(&lines.what, done, total, now.duration_since(lines.started)));
                }
            }
        }
    }

    /// Takes the bar away: the command's own output says what was done.
    pub(crate) fn finish(&self) {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
            BARS.remove(bar);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn lock(lines: &Mutex<Lines>) -> std::sync::MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{msg} [{bar:20}] {percent:>3}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left"
    } else {
        "{msg} {spinner} {binary_bytes} {elapsed}"
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = format!("{what}: {}", Bytes(done));
    if total > 0 {
        line += &format!(" of {} ({} %)", Bytes(total), done.saturating_mul(100) / total);
    }
    line += &format!(", {}/s", Bytes(rate as u64));
    if total > done && rate >= 1.0 {
        let left = Duration::from_secs_f64((total - done) as f64 / rate);
        line += &format!(", {} left", Length(left));
    }
    line
}

/// A line for people on stderr, above the bars if there are any.
pub(crate) fn note(text: &str) {
    // Nowhere to say it if stderr is closed.
    BARS.suspend(|| drop(writeln!(io::stderr(), "{text}")));
}

/// Where log lines go: stderr, above the bars.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write_all(buf))?;
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_tell_rate_and_time_left() {
        let ten = Duration::from_secs(10);
        assert_eq!(
            line("restore", 10 << 20, 40 << 20, ten),
            "restore: 10.0 MiB of 40.0 MiB (25 %), 1.00 MiB/s, 30s left"
        );
        assert_eq!(line("verify", 10 << 20, 0, ten), "verify: 10.0 MiB, 1.00 MiB/s");
        assert_eq!(line("copy", 0, 10, Duration::ZERO), "copy: 0 B of 10 B (0 %), 0 B/s");
    }
}
