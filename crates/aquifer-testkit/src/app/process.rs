//! The application process as a test sees it.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{AppOptions, Language};

/// Longer than any answer takes on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Why the application did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AppError {
    #[error("cannot start or talk to the application: {0}")]
    Io(#[from] io::Error),
    #[error("the application said: {0}")]
    Failed(String),
    #[error("the application ended without an answer")]
    Ended,
    #[error("no answer from the application within {} s", PATIENCE.as_secs())]
    Silent,
}

/// A running application; killed when dropped.
#[derive(Debug)]
pub struct AppProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Arc<Heard>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Heard {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    ready: bool,
    acknowledged: u64,
    busy: u64,
    answers: std::collections::VecDeque<Result<String, String>>,
    ended: bool,
}

impl AppProcess {
    /// Starts the application on `db` and waits until it has opened it.
    pub fn start(language: Language, db: &Path, options: &AppOptions) -> Result<AppProcess, AppError> {
        let mut child = language
            .command()?
            .arg(db)
            .arg(serde_json::to_string(options).map_err(io::Error::other)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{language:?} application: {error}")))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or(AppError::Ended)?;
        let heard = Arc::<Heard>::default();
        let listener = thread::spawn({
            let heard = Arc::clone(&heard);
            move || heard.listen(stdout)
        });
        let app = AppProcess { child, stdin, heard, listener: Some(listener) };
        app.heard.wait(|said| said.ready.then_some(Ok(())))?;
        Ok(app)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last transaction that the application said was committed.
    pub fn acknowledged(&self) -> u64 {
        self.heard.lock().acknowledged
    }

    /// How often a transaction found the database locked for longer than its busy timeout.
    pub fn busy(&self) -> u64 {
        self.heard.lock().busy
    }

    /// Commits `count` transactions and returns the number of the last.
    pub fn commit(&mut self, count: u64) -> Result<u64, AppError> {
        self.ask(&format!("commit {count}"))?;
        Ok(self.acknowledged())
    }

    /// Lets it commit as fast as it can, until the next command (see [`stop`](Self::stop)) or a kill.
    pub fn run(&mut self) -> Result<(), AppError> {
        self.tell("run")
    }

    /// Ends [`run`](Self::run) and returns the number of the last transaction.
    pub fn stop(&mut self) -> Result<u64, AppError> {
        // The command that stops it is answered after `run` is.
        self.tell("sql SELECT 1")?;
        self.answer()?;
        self.answer()?;
        Ok(self.acknowledged())
    }

    /// Waits until transaction `n` is acknowledged; returns the last one that is.
    pub fn wait_acknowledged(&self, n: u64) -> Result<u64, AppError> {
        self.heard.wait(|said| (said.acknowledged >= n).then_some(Ok(said.acknowledged)))
    }

    /// Runs one statement; returns its first row, tab-separated.
    pub fn sql(&mut self, statement: &str) -> Result<String, AppError> {
        self.ask(&format!("sql {statement}"))
    }

    /// Closes the connection; the process stays.
    pub fn close(&mut self) -> Result<(), AppError> {
        self.ask("close").map(drop)
    }

    /// Opens the database again after [`close`](Self::close).
    pub fn open(&mut self) -> Result<(), AppError> {
        self.ask("open").map(drop)
    }

    /// Closes the database in order and ends; returns the number of the last transaction.
    pub fn quit(mut self) -> Result<u64, AppError> {
        self.ask("quit")?;
        self.end();
        Ok(self.acknowledged())
    }

    /// SIGKILL. Returns the number of the last acknowledged transaction; the one after it may have been
    /// committed, too.
    pub fn kill(mut self) -> u64 {
        // Fails only where the process has already ended.
        let _ = self.child.kill();
        self.end();
        self.acknowledged()
    }

    fn ask(&mut self, command: &str) -> Result<String, AppError> {
        self.tell(command)?;
        self.answer()
    }

    fn tell(&mut self, command: &str) -> Result<(), AppError> {
        let stdin = self.stdin.as_mut().ok_or(AppError::Ended)?;
        writeln!(stdin, "{command}")?;
        Ok(())
    }

    fn answer(&self) -> Result<String, AppError> {
        self.heard.wait(|said| Some(said.answers.pop_front()?.map_err(AppError::Failed)))
    }

    /// Waits for the end of the process and of what it said.
    fn end(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Drop for AppProcess {
    fn drop(&mut self) {
        if self.listener.is_some() {
            let _ = self.child.kill();
            self.end();
        }
    }
}

impl Heard {
    fn listen(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let mut said = self.lock();
            match word {
                "ready" => {
                    said.ready = true;
                    said.acknowledged = rest.parse().unwrap_or_default();
                }
                "committed" => said.acknowledged = rest.parse().unwrap_or(said.acknowledged),
                "busy" => said.busy += 1,
                "ok" => said.answers.push_back(Ok(rest.to_owned())),
                _ => said.answers.push_back(Err(line.trim_start_matches("error ").to_owned())),
            }
            drop(said);
            self.more.notify_all();
        }
        self.lock().ended = true;
        self.more.notify_all();
    }

    /// Waits for `answer` to find one; what the application said before it ended counts.
    fn wait<T>(
        &self,
        mut answer: impl FnMut(&mut Said) -> Option<Result<T, AppError>>,
    ) -> Result<T, AppError> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = self.lock();
        loop {
            if let Some(answer) = answer(&mut said) {
                return answer;
            }
            if said.ended {
                return Err(match said.answers.pop_back() {
                    Some(Err(message)) => AppError::Failed(message),
                    _ => AppError::Ended,
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(AppError::Silent);
            }
            said = self.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
