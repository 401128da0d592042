//! Secrets that servers want to be told, from files and the environment: never from the command line.

use std::path::Path;

use crate::error::CliError;

/// The variable that holds the token.
const TOKEN: &str = "AQUIFER_TOKEN";

/// The token: from the file, if one is named, else from the environment.
pub(crate) fn token(file: Option<&Path>) -> Result<Option<String>, CliError> {
    match file {
        Some(path) => read_secret(path, "token").map(Some),
        None => Ok(std::env::var(TOKEN).ok()),
    }
}

/// The first word of a file.
pub(crate) fn read_secret(path: &Path, what: &str) -> Result<String, CliError> {
    let failed = |source| CliError::File { action: "read", path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let word = text.split_whitespace().next();
    word.map(str::to_owned).ok_or_else(|| CliError::Usage(format!("{} holds no {what}", path.display())))
}
