//! Static tokens, for small set-ups: a line for each, `TOKEN [ro|rw|admin] [DATABASE,…]`.

use std::collections::HashMap;

use ring::hmac;

use super::grant::{Access, Grant};

/// Shortest static token that is accepted, in bytes: what is shorter can be found by trying.
const MIN_LEN: usize = 8;

/// An HMAC of a token.
pub(super) type Tag = [u8; 32];

/// The tag of a token under a key that only this process has.
pub(super) fn tag(key: &hmac::Key, token: &str) -> Tag {
    let mut tag = Tag::default();
    tag.copy_from_slice(hmac::sign(key, token.as_bytes()).as_ref());
    tag
}

/// Static tokens and what each grants.
///
/// Only tags are kept and compared, under a key that is random for the process: how long a comparison takes tells
/// about the tag, which nobody outside can compute, and so nothing about the token.
#[derive(Default)]
pub(super) struct TokenSet(HashMap<Tag, Grant>);

impl TokenSet {
    /// The tokens of a file. Empty lines and those that begin with `#` are skipped.
    pub(super) fn parse(content: &[u8], key: &hmac::Key) -> Result<TokenSet, String> {
        let text = std::str::from_utf8(content).map_err(|_| "it is not text".to_owned())?;
        let mut tokens = TokenSet::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                tokens.add(line, key).map_err(|problem| format!("line {}: {problem}", i + 1))?;
            }
        }
        if tokens.is_empty() { Err("it holds no token".into()) } else { Ok(tokens) }
    }

    /// Adds one line. The error does not quote it.
    pub(super) fn add(&mut self, line: &str, key: &hmac::Key) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let token = words.next().filter(|token| token.len() >= MIN_LEN).ok_or_else(|| {
            format!("a token has at least {MIN_LEN} characters (`openssl rand -hex 32` makes a good one)")
        })?;
        let (access, admin) = match words.next() {
            None | Some("rw") => (Access::ReadWrite, false),
            Some("ro") => (Access::ReadOnly, false),
            Some("admin") => (Access::ReadWrite, true),
            Some(_) => return Err("the word after the token must be ro, rw or admin".into()),
        };
        let grant = match words.next() {
            None => Grant::every(access),
            Some(names) => Grant::named(names.split(',').map(|name| (name.to_owned(), access))),
        };
        let grant = grant.with_admin(admin);
        if words.next().is_some() {
            return Err(
                "there is more on the line than a token, ro, rw or admin, and databases with commas between"
                    .into(),
            );
        }
        if self.0.insert(tag(key, token), grant).is_some() {
            return Err("the same token is there twice".into());
        }
        Ok(())
    }

    pub(super) fn get(&self, tag: Tag) -> Option<&Grant> {
        self.0.get(&tag)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
