//! What a statement sets out to do, by its first word.

/// The kind of a statement. A guess, made without preparing it: nothing may depend on it but speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// There is no word in the text.
    None,
    /// It most probably writes nothing: SELECT, WITH, VALUES.
    Reads,
    /// It writes rows: INSERT, UPDATE, DELETE, REPLACE.
    Writes,
    /// It begins a transaction that holds the write lock from the start.
    BeginsWrite,
    /// It begins or ends another transaction, or a part of one.
    Transaction,
    /// EXPLAIN, PRAGMA.
    Tells,
    /// Anything else: the schema, VACUUM, ANALYZE, or no SQL at all.
    Other,
}

impl Verb {
    /// Of the first statement in `sql`.
    pub(crate) fn of(sql: &str) -> Self {
        let mut words = Words(sql);
        let Some(first) = words.next() else { return Self::None };
        let is = |words: &[&str]| words.iter().any(|word| first.eq_ignore_ascii_case(word));
        if is(&["SELECT", "WITH", "VALUES"]) {
            Self::Reads
        } else if is(&["INSERT", "UPDATE", "DELETE", "REPLACE"]) {
            Self::Writes
        } else if is(&["BEGIN"]) {
            let immediate =
                |word: &str| ["IMMEDIATE", "EXCLUSIVE"].iter().any(|w| word.eq_ignore_ascii_case(w));
            if words.next().is_some_and(immediate) { Self::BeginsWrite } else { Self::Transaction }
        } else if is(&["COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"]) {
            Self::Transaction
        } else if is(&["EXPLAIN", "PRAGMA"]) {
            Self::Tells
        } else {
            Self::Other
        }
    }

    /// Whether such a statement wants the write lock.
    pub(crate) fn wants_lock(self) -> bool {
        matches!(self, Self::Writes | Self::BeginsWrite | Self::Other)
    }
}

/// The words of a text, without its comments.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let text = self.0.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';');
            let comment = match text.get(..2) {
                Some("--") => "\n",
                Some("/*") => "*/",
                _ => {
                    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
                    // What is no word ends the search: it is the statement's first character all the same.
                    let end = if end == 0 { text.chars().next()?.len_utf8() } else { end };
                    let (word, rest) = text.split_at(end);
                    self.0 = rest;
                    return Some(word);
                }
            };
            self.0 = text[2..].split_once(comment).map_or("", |(_, rest)| rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_found_behind_comments_and_in_any_case() {
        for (sql, verb) in [
            ("", Verb::None),
            (" ; -- nothing", Verb::None),
            ("/* open", Verb::None),
            ("select 1", Verb::Reads),
            ("-- a\n/* b */ ;\tWith x AS (SELECT 1) SELECT * FROM x", Verb::Reads),
            ("INSERT INTO t VALUES (1)", Verb::Writes),
            ("replace\ninto t values (1)", Verb::Writes),
            ("BEGIN", Verb::Transaction),
            ("BEGIN;", Verb::Transaction),
            ("begin deferred", Verb::Transaction),
            ("BEGIN /* now */ Immediate TRANSACTION", Verb::BeginsWrite),
            ("COMMIT", Verb::Transaction),
            ("PRAGMA user_version", Verb::Tells),
            ("CREATE TABLE t (a)", Verb::Other),
            ("VACUUM", Verb::Other),
            ("\"quoted\"", Verb::Other),
            ("é", Verb::Other),
        ] {
            assert_eq!(Verb::of(sql), verb, "{sql}");
        }
    }
}
