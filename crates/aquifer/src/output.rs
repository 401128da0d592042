//! What a command says on stdout: one document, as text for people or as JSON for programs.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::CliError;

/// The result of a command.
pub(crate) trait Report: Serialize {
    /// Writes it for people.
    fn human(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// As JSON.
    pub(crate) json: bool,
    /// Without progress and remarks on stderr.
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints a command's result: a pretty JSON document, or text.
    pub(crate) fn print(self, report: &impl Report) -> Result<(), CliError> {
        let mut text = Vec::new();
        if self.json {
            serde_json::to_writer_pretty(&mut text, report)
                .map_err(|e| CliError::Output(io::Error::other(e)))?;
            text.push(b'\n');
        } else {
            report.human(&mut text).map_err(CliError::Output)?;
        }
        write_stdout(&text)
    }

    /// Prints one of many results as it comes: a JSON document on one line, or text.
    pub(crate) fn print_line(self, report: &impl Report) -> Result<(), CliError> {
        let mut text = Vec::new();
        if self.json {
            serde_json::to_writer(&mut text, report).map_err(|e| CliError::Output(io::Error::other(e)))?;
            text.push(b'\n');
        } else {
            report.human(&mut text).map_err(CliError::Output)?;
        }
        write_stdout(&text)
    }
}

/// Writes to stdout. A reader who has gone (`aquifer ls | head`) is no error.
pub(crate) fn write_stdout(text: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(e)),
        _ => Ok(()),
    }
}

/// Aligned columns without lines around them.
#[derive(Debug)]
pub(crate) struct Columns {
    table: Table,
}

impl Columns {
    /// With these headings; those that start with '>' are of numbers, aligned to the right.
    pub(crate) fn new(headings: &[&str]) -> Columns {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
        for (column, heading) in table.column_iter_mut().zip(headings) {
            column.set_padding((0, 2)).set_constraint(ColumnConstraint::ContentWidth);
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Columns { table }
    }

    /// Appends a row.
    pub(crate) fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.table.add_row(cells.into_iter().map(|cell| cell.to_string()));
    }

    /// Writes the table.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for line in self.table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Writes `name: value` lines, the values aligned.
pub(crate) fn write_fields(out: &mut dyn Write, fields: &[(&str, String)]) -> io::Result<()> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    for (name, value) in fields {
        writeln!(out, "{:width$} {value}", format!("{name}:"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_blanks() {
        let mut columns = Columns::new(&["NAME", ">SIZE"]);
        columns.row(["a", "1"]);
        columns.row(["longer", "12345"]);
        let mut text = Vec::new();
        columns.write(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "NAME     SIZE\na           1\nlonger  12345\n");
    }

    #[test]
    fn fields_are_aligned_by_the_longest_name() {
        let mut text = Vec::new();
        write_fields(&mut text, &[("a", "1".into()), ("long", "2".into())]).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "a:    1\nlong: 2\n");
    }
}
