//! Statements that wait to be sent: in memory while they are small, and else in a file that is nobody's.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use aquifer_sqlite::btree::Value;

use super::exact::{Question, is_delicate};
use super::{PushError, Reals, Result, Step, Summary, Transform, statements};
use crate::diff::Diff;

/// Bytes of statements that are held in memory.
const HELD: usize = 4 << 20;

/// All statements of a push, and what they do.
#[derive(Debug)]
pub struct Kept {
    summary: Summary,
    /// What the server is to be asked before.
    questions: Vec<Question>,
    held: Vec<Step>,
    /// Those behind the ones that are held.
    file: Option<File>,
}

/// Makes the statements for local changes, for a server that reads reals so: see [`statements`]. What is more than 4 MiB goes into a file in `directory`
/// that has no name and vanishes with the process.
///
/// # Errors
/// As [`statements`]; the file cannot be written.
pub fn prepare(
    local: &Diff,
    takes_part: &dyn Fn(&str) -> bool,
    transform: Option<&dyn Transform>,
    reals: Reals,
    directory: &Path,
) -> Result<Kept> {
    let (mut held, mut bytes, mut file, mut questions) = (Vec::new(), 0, None, Vec::new());
    let summary = statements(local, takes_part, transform, reals, &mut |step: Step| {
        let is_about = |question| match question {
            Question::Reals => {
                step.args.iter().any(|arg| matches!(arg, Value::Real(real) if is_delicate(*real)))
            }
            Question::Texts => step.sql.contains("CAST(? AS TEXT)"),
        };
        for question in [Question::Reals, Question::Texts] {
            if !questions.contains(&question) && is_about(question) {
                questions.push(question);
            }
        }
        if file.is_none() && bytes + step.bytes() <= HELD {
            bytes += step.bytes();
            held.push(step);
            return Ok(());
        }
        let out = match &mut file {
            Some(out) => out,
            none => none.insert(BufWriter::new(tempfile::tempfile_in(directory)?)),
        };
        write(out, &step).map_err(PushError::Sink)
    })?;
    let file = file.map(BufWriter::into_inner).transpose().map_err(io::IntoInnerError::into_error)?;
    Ok(Kept { summary, questions, held, file })
}

impl Kept {
    /// What the statements do.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.summary.is_empty()
    }

    /// What the server is to be asked before the statements.
    pub(super) fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// The statements, in order; those in the file one by one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn steps(&self) -> Result<impl Iterator<Item = Result<Step>> + Send + '_> {
        let mut file = match &self.file {
            Some(file) => {
                let mut file: &File = file;
                file.rewind()?;
                Some(BufReader::new(file))
            }
            None => None,
        };
        let from_file = std::iter::from_fn(move || read(file.as_mut()?).map_err(PushError::Sink).transpose());
        Ok(self.held.iter().cloned().map(Ok).chain(from_file))
    }
}

impl Step {
    /// Bytes that it takes on the wire, about.
    pub(super) fn bytes(&self) -> usize {
        let value = |value: &Value| match value {
            Value::Null => 16,
            Value::Integer(_) | Value::Real(_) => 48,
            Value::Text(text) => text.len() + 32,
            Value::Blob(blob) => blob.len() * 4 / 3 + 32,
        };
        self.sql.len() + 128 + self.args.iter().map(value).sum::<usize>()
    }
}

fn write(out: &mut impl Write, step: &Step) -> io::Result<()> {
    let mut bytes = |tag: u8, bytes: &[u8]| {
        out.write_all(&[tag])?;
        out.write_all(&(bytes.len() as u64).to_le_bytes())?;
        out.write_all(bytes)
    };
    bytes(u8::from(step.is_optional), step.sql.as_bytes())?;
    bytes(0, step.about.as_bytes())?;
    bytes(0, &(step.args.len() as u64).to_le_bytes())?;
    for arg in &step.args {
        match arg {
            Value::Null => bytes(0, &[])?,
            Value::Integer(n) => bytes(1, &n.to_le_bytes())?,
            Value::Real(n) => bytes(2, &n.to_le_bytes())?,
            Value::Text(text) => bytes(3, text)?,
            Value::Blob(blob) => bytes(4, blob)?,
        }
    }
    Ok(())
}

/// The next step; `None` at the end.
fn read(from: &mut impl Read) -> io::Result<Option<Step>> {
    let mut tag = [0];
    if from.read(&mut tag)? == 0 {
        return Ok(None);
    }
    let sql = text(bytes(from)?)?;
    let (_, about) = tagged(from)?;
    let (_, count) = tagged(from)?;
    let mut args = Vec::new();
    for _ in 0..u64::from_le_bytes(number(&count)?) {
        let (tag, bytes) = tagged(from)?;
        args.push(match tag {
            0 => Value::Null,
            1 => Value::Integer(i64::from_le_bytes(number(&bytes)?)),
            2 => Value::Real(f64::from_le_bytes(number(&bytes)?)),
            3 => Value::Text(bytes),
            _ => Value::Blob(bytes),
        });
    }
    Ok(Some(Step { sql, args, about: text(about)?, is_optional: tag == [1] }))
}

fn tagged(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut tag = [0];
    from.read_exact(&mut tag)?;
    Ok((tag[0], bytes(from)?))
}

fn bytes(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn number(bytes: &[u8]) -> io::Result<[u8; 8]> {
    bytes.try_into().map_err(|_| io::ErrorKind::InvalidData.into())
}

fn text(bytes: Vec<u8>) -> io::Result<Arc<str>> {
    let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(text.into())
}
