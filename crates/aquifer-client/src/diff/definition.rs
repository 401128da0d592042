//! Definitions, whoever wrote them down: some engines keep the text of a statement, others write it anew.

/// The SQL that something was created with. Two are equal that say the same in the same words: white space, comments and
/// the case of letters outside of quotes are no difference.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Definition<'a>(pub(crate) &'a str);

impl PartialEq for Definition<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || Tokens(self.0).eq(Tokens(other.0))
    }
}

/// What a text consists of, without what is between.
struct Tokens<'a>(&'a str);

/// One of them, as far as it is to be compared.
#[derive(PartialEq)]
enum Token<'a> {
    /// A name without quotes, a keyword or a number.
    Word(Word<'a>),
    /// Something in quotes, with them.
    Quoted(&'a str),
    Sign(char),
}

struct Word<'a>(&'a str);

impl PartialEq for Word<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }
}

impl<'a> Tokens<'a> {
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    /// Goes to behind what this finds, or to the end.
    fn skip(&mut self, end: &str) {
        let length = self.0.find(end).map_or(self.0.len(), |at| at + end.len());
        self.take(length);
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            self.0 = self.0.trim_start();
            if self.0.starts_with("--") {
                self.skip("\n");
            } else if self.0.starts_with("/*") {
                self.skip("*/");
            } else {
                break;
            }
        }
        let first = self.0.chars().next()?;
        let quote = if first == '[' { ']' } else { first };
        if matches!(first, '\'' | '"' | '`' | '[') {
            // A quote within is there twice: then the next token begins with it, for both.
            let length = self.0[1..].find(quote).map_or(self.0.len(), |at| at + 2);
            return Some(Token::Quoted(self.take(length)));
        }
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '.') || !c.is_ascii();
        let length = self.0.find(|c| !is_word(c)).unwrap_or(self.0.len());
        if length > 0 {
            Some(Token::Word(Word(self.take(length))))
        } else {
            self.take(first.len_utf8()).chars().next().map(Token::Sign)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_definition_is_written_is_no_difference_and_what_it_says_is() {
        let same = [
            ("CREATE TABLE t(k INTEGER PRIMARY KEY, v)", "CREATE TABLE t (k INTEGER PRIMARY KEY, v)"),
            ("create table t(a,b check(a>0))", "CREATE TABLE t (a, b CHECK (a > 0))"),
            ("CREATE TABLE t(a -- the first\n, b /* it's */)", "CREATE TABLE t (a, b)"),
            ("CREATE TABLE t(a DEFAULT 'it''s  x')", "CREATE TABLE t (a DEFAULT 'it''s  x')"),
        ];
        let other = [
            ("CREATE TABLE t(a, b)", "CREATE TABLE t(a, c)"),
            ("CREATE TABLE t(a, b)", "CREATE TABLE t(a)"),
            ("CREATE TABLE t(a DEFAULT 'x y')", "CREATE TABLE t(a DEFAULT 'x  y')"),
            ("CREATE TABLE t(a DEFAULT 'x')", "CREATE TABLE t(a DEFAULT 'X')"),
            ("CREATE TABLE t(a b)", "CREATE TABLE t(ab)"),
            ("CREATE TABLE t(a, \"ž", "CREATE TABLE t(a, \"y"),
        ];
        for (a, b) in same {
            assert!(Definition(a) == Definition(b), "{a}\n{b}");
        }
        for (a, b) in other {
            assert!(Definition(a) != Definition(b), "{a}\n{b}");
        }
    }
}
