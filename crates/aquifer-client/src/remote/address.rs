//! Which URLs there are.

use std::fmt;

use reqwest::Url;

/// Why a URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is not a URL.
    #[error("'{url}' is no URL: {reason}; a remote looks like https://example.com/db/shop")]
    Malformed {
        /// As it was given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// It is of another protocol.
    #[error("'{0}' is none of libsql://, turso://, https:// and http://")]
    Scheme(String),
    /// It has a part that a remote has no use for. The message does not repeat it: it may be a secret.
    #[error("a remote's URL has no {0}: give a token as an option of its own")]
    Part(&'static str),
}

/// Where a database is: its URL, without a slash at the end.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    url: Url,
    text: String,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Address, AddressError> {
        let malformed = |reason: String| AddressError::Malformed { url: without_userinfo(text), reason };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| malformed("it has no scheme".into()))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => "http",
            "https" | "libsql" | "turso" => "https",
            other => return Err(AddressError::Scheme(other.to_owned())),
        };
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|error| malformed(error.to_string()))?;
        Address::of(url)
    }

    /// # Errors
    /// Parts that could hold a secret, or that no request could have.
    pub(super) fn of(url: Url) -> Result<Address, AddressError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AddressError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Part("user name or password"));
        }
        if url.query().is_some() {
            return Err(AddressError::Part("query (what follows a '?')"));
        }
        if url.fragment().is_some() {
            return Err(AddressError::Part("fragment (what follows a '#')"));
        }
        let text = url.as_str().trim_end_matches('/').to_owned();
        Ok(Address { url, text })
    }

    /// Without a slash at the end.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The URL of a request; `route` begins with a slash.
    pub(super) fn request(&self, route: &str) -> Url {
        let mut url = self.url.clone();
        let path = format!("{}{route}", self.url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    /// The address of which `url` is a request for `route`, if it is one.
    pub(super) fn of_request(url: &Url, route: &str) -> Option<Address> {
        let mut base = url.clone();
        base.set_path(url.path().strip_suffix(route)?);
        Address::of(base).ok()
    }

    /// Where an answer sends the rest of a stream: `base` as the answer has it. `None` where we do not go.
    pub(super) fn sent_to(&self, base: &str) -> Option<Address> {
        Address::of(Address::redirected(&self.url, base)?).ok()
    }

    /// Where an answer sends us: `location` as the answer has it, relative to `from`. `None` where we do not go: from
    /// https to http, or to what no request can have.
    pub(super) fn redirected(from: &Url, location: &str) -> Option<Url> {
        let to = from.join(location).ok()?;
        let protected = |url: &Url| url.scheme() == "https";
        (!protected(from) || protected(&to)).then_some(())?;
        Address::of(to.clone()).ok().map(|_| to)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What may stand in a message.
fn without_userinfo(text: &str) -> String {
    let Some((before, after)) = text.split_once('@') else { return text.to_owned() };
    let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
    format!("{scheme}://…@{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str) -> String {
        Address::parse(url).unwrap().request("/v2/pipeline").to_string()
    }

    #[test]
    fn a_path_is_the_beginning_of_every_request() {
        for (url, expected) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v2/pipeline"),
            ("https://example.com/", "https://example.com/v2/pipeline"),
            ("libsql://shop.example.com", "https://shop.example.com/v2/pipeline"),
            ("TURSO://example.com:8443/db/shop/", "https://example.com:8443/db/shop/v2/pipeline"),
            ("http://[::1]:80/db/a%20b", "http://[::1]/db/a%20b/v2/pipeline"),
        ] {
            assert_eq!(request(url), expected);
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_repeating_secrets() {
        for (url, expected) in [
            ("example.com/db/shop", "no scheme"),
            ("ftp://example.com", "none of libsql://"),
            ("https://", "no URL"),
            ("https://me:hunter2@example.com", "user name"),
            ("https://me:hunter2@exa mple.com", "no URL"),
            ("libsql://example.com?authToken=hunter2", "query"),
            ("https://example.com/#hunter2", "fragment"),
        ] {
            let message = Address::parse(url).unwrap_err().to_string();
            assert!(message.contains(expected), "{url}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_redirect_never_leaves_https() {
        let from = |url: &str| Url::parse(url).unwrap();
        let to = |url: &str, location| Address::redirected(&from(url), location).map(|url| url.to_string());
        let secure = "https://one.example/db/shop/pull-updates";
        assert_eq!(to(secure, "http://two.example/pull-updates"), None);
        assert_eq!(to(secure, "https://two.example/x").as_deref(), Some("https://two.example/x"));
        assert_eq!(to(secure, "/x").as_deref(), Some("https://one.example/x"));
        assert_eq!(to(secure, "//two.example/x").as_deref(), Some("https://two.example/x"));
        let plain = "http://one.example/pull-updates";
        assert_eq!(to(plain, "https://one.example/x").as_deref(), Some("https://one.example/x"));
        assert_eq!(to(plain, "http://two.example/x").as_deref(), Some("http://two.example/x"));
        assert_eq!(to(plain, "file:///etc/passwd"), None);
        assert_eq!(to(plain, "http://me:secret@two.example/x"), None);
    }

    #[test]
    fn a_requests_address_is_what_stands_before_its_route() {
        let url = Url::parse("https://two.example/db/shop/v2/pipeline").unwrap();
        let address = Address::of_request(&url, "/v2/pipeline").unwrap();
        assert_eq!(address.as_str(), "https://two.example/db/shop");
        assert_eq!(Address::of_request(&url, "/v3/pipeline"), None);
    }
}
