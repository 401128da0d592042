//! Store URLs: where a store is and how it is reached. Never how one is let in: credentials come from the
//! environment, so that a URL can be shown, logged and kept in a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;
use url::form_urlencoded;

/// Where a store is. Prints as it is written; parsing what it prints gives the same URL.
///
/// | form | store |
/// |---|---|
/// | `s3://bucket/prefix?endpoint=…&region=…&path-style=…` | S3 and what speaks its protocol |
/// | `gs://bucket/prefix?endpoint=…` | Google Cloud Storage |
/// | `az://container/prefix?account=…&endpoint=…` | Azure Blob Storage |
/// | `file:///absolute/path`, or a bare path | a local directory |
/// | `memory://` | this process's memory, gone at its end |
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreUrl(Location);

/// The parts of a store URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Location {
    /// `s3://`
    S3 {
        /// Name of the bucket.
        bucket: String,
        /// What the keys start with: empty, or components without a slash at either end.
        prefix: String,
        /// Base URL of a server other than Amazon's.
        endpoint: Option<Url>,
        /// Region, where the environment does not say.
        region: Option<String>,
        /// Whether the bucket goes into the path (the default) or into the host's name.
        path_style: Option<bool>,
    },
    /// `gs://`
    Gcs {
        /// Name of the bucket.
        bucket: String,
        /// As in S3.
        prefix: String,
        /// Base URL of a server other than Google's.
        endpoint: Option<Url>,
    },
    /// `az://`
    Azure {
        /// Name of the container.
        container: String,
        /// As in S3.
        prefix: String,
        /// Name of the storage account, where the environment does not say.
        account: Option<String>,
        /// Base URL of a server other than Microsoft's.
        endpoint: Option<Url>,
    },
    /// `file://` or a bare path
    Directory(PathBuf),
    /// `memory://`
    Memory,
}

/// Not a store URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseStoreUrlError {
    /// Nothing was given.
    #[error("the store's URL is empty: give a directory, or s3://bucket/prefix, gs://…, az://…")]
    Empty,
    /// The scheme names no kind of store.
    #[error("'{0}://' is no kind of store: use s3://, gs://, az://, file://, or the path of a directory")]
    UnknownScheme(String),
    /// There is no bucket or container.
    #[error("'{0}' names no bucket: write {0}bucket/prefix")]
    NoBucket(String),
    /// A bucket's name with characters that no bucket has.
    #[error("'{0}' cannot be the name of a bucket (letters, digits, '.', '-' and '_')")]
    Bucket(String),
    /// A prefix that cannot start keys.
    #[error("'{0}' cannot be a prefix: components must not be empty, '.' or '..'")]
    Prefix(String),
    /// A query parameter that means nothing for this kind of store.
    #[error("'{key}' is no setting of {scheme}:// stores: known are {known}")]
    UnknownKey {
        /// The parameter.
        key: String,
        /// The kind of store.
        scheme: &'static str,
        /// What there is.
        known: &'static str,
    },
    /// A query parameter is given twice.
    #[error("'{0}' is given twice")]
    Repeated(String),
    /// A secret in the URL.
    #[error("a store URL must not hold credentials ('{0}'): set them in the environment, as for {1}")]
    Credentials(String, &'static str),
    /// The value of a query parameter cannot be read.
    #[error("'{value}' is no {key}: {expected}")]
    Value {
        /// The parameter.
        key: &'static str,
        /// What was given (never a secret).
        value: String,
        /// What it should look like.
        expected: &'static str,
    },
    /// A `file://` URL with a host, a relative path or a query.
    #[error("'{0}' is no file URL: write file:///absolute/path, or the bare path")]
    File(String),
    /// `memory://` takes nothing more.
    #[error("memory:// takes no path and no settings")]
    Memory,
}

impl StoreUrl {
    /// A local directory, relative to the current one or absolute.
    pub fn directory(path: impl AsRef<Path>) -> StoreUrl {
        // Components normalise "a//b/./c/", so that one directory has one URL.
        StoreUrl(Location::Directory(path.as_ref().components().collect()))
    }

    /// The parts.
    pub fn location(&self) -> &Location {
        &self.0
    }
}

impl FromStr for StoreUrl {
    type Err = ParseStoreUrlError;

    fn from_str(text: &str) -> Result<StoreUrl, ParseStoreUrlError> {
        if text.is_empty() {
            return Err(ParseStoreUrlError::Empty);
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            return Ok(StoreUrl::directory(text));
        };
        let location = match scheme.to_ascii_lowercase().as_str() {
            "s3" => parse_s3(rest)?,
            "gs" => parse_gcs(rest)?,
            "az" => parse_azure(rest)?,
            "file" => parse_file(text)?,
            "memory" if rest.is_empty() => Location::Memory,
            "memory" => return Err(ParseStoreUrlError::Memory),
            _ => return Err(ParseStoreUrlError::UnknownScheme(scheme.to_owned())),
        };
        Ok(StoreUrl(location))
    }
}

/// The scheme and what follows `://`, where there is a scheme: everything else is a path.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let mut bytes = scheme.bytes();
    let is_scheme = bytes.next()?.is_ascii_alphabetic()
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    is_scheme.then_some((scheme, rest))
}

fn parse_s3(rest: &str) -> Result<Location, ParseStoreUrlError> {
    let (bucket, prefix, query) = split_bucket("s3://", rest)?;
    let (mut endpoint, mut region, mut path_style) = (None, None, None);
    for (key, value) in settings(query, "the AWS command line (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)")? {
        match key.as_str() {
            "endpoint" => endpoint = Some(parse_endpoint(&value)?),
            "region" => region = Some(parse_word("region", value)?),
            "path-style" => path_style = Some(parse_bool("path-style", value)?),
            _ => return Err(unknown(key, "s3", "endpoint, region, path-style")),
        }
    }
    Ok(Location::S3 { bucket, prefix, endpoint, region, path_style })
}

fn parse_gcs(rest: &str) -> Result<Location, ParseStoreUrlError> {
    let (bucket, prefix, query) = split_bucket("gs://", rest)?;
    let mut endpoint = None;
    for (key, value) in settings(query, "Google's tools (GOOGLE_APPLICATION_CREDENTIALS)")? {
        match key.as_str() {
            "endpoint" => endpoint = Some(parse_endpoint(&value)?),
            _ => return Err(unknown(key, "gs", "endpoint")),
        }
    }
    Ok(Location::Gcs { bucket, prefix, endpoint })
}

fn parse_azure(rest: &str) -> Result<Location, ParseStoreUrlError> {
    let (container, prefix, query) = split_bucket("az://", rest)?;
    let (mut account, mut endpoint) = (None, None);
    for (key, value) in settings(query, "Azure's tools (AZURE_STORAGE_ACCOUNT_KEY, AZURE_CLIENT_ID, …)")? {
        match key.as_str() {
            "account" => account = Some(parse_word("account", value)?),
            "endpoint" => endpoint = Some(parse_endpoint(&value)?),
            _ => return Err(unknown(key, "az", "account, endpoint")),
        }
    }
    Ok(Location::Azure { container, prefix, account, endpoint })
}

fn parse_file(text: &str) -> Result<Location, ParseStoreUrlError> {
    let invalid = || ParseStoreUrlError::File(text.to_owned());
    let url = Url::parse(text).map_err(|_| invalid())?;
    // Two slashes take the first component for a host: "file://data/x" is not "/data/x".
    if !text.get(..8).is_some_and(|start| start.ends_with("///"))
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(invalid());
    }
    let path = url.to_file_path().map_err(|()| invalid())?;
    Ok(StoreUrl::directory(path).0)
}

/// Bucket, prefix and query of what follows the scheme.
fn split_bucket<'a>(
    scheme: &str,
    rest: &'a str,
) -> Result<(String, String, Option<&'a str>), ParseStoreUrlError> {
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if bucket.is_empty() {
        return Err(ParseStoreUrlError::NoBucket(scheme.to_owned()));
    }
    if bucket.contains('@') {
        // What stands before the '@' is a secret, perhaps: not repeated.
        return Err(ParseStoreUrlError::Credentials("…@".to_owned(), "each cloud's own tools"));
    }
    if !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(ParseStoreUrlError::Bucket(bucket.to_owned()));
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    // Keys pass through `object_store`'s paths, which refuse the same components.
    let valid = prefix.is_empty() || super::Key::parse(prefix).is_ok();
    if !valid {
        return Err(ParseStoreUrlError::Prefix(prefix.to_owned()));
    }
    Ok((bucket.to_owned(), prefix.to_owned(), query))
}

/// The query's parameters, decoded; none twice, none a secret.
fn settings(query: Option<&str>, tools: &'static str) -> Result<Vec<(String, String)>, ParseStoreUrlError> {
    const SECRET: [&str; 7] = ["key", "secret", "token", "password", "sas", "sig", "credential"];
    let mut found: Vec<(String, String)> = Vec::new();
    for (key, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
        let lower = key.to_ascii_lowercase();
        if SECRET.iter().any(|s| lower.split(['-', '_']).any(|word| word.starts_with(s))) {
            return Err(ParseStoreUrlError::Credentials(key.into_owned(), tools));
        }
        if found.iter().any(|(k, _)| *k == key) {
            return Err(ParseStoreUrlError::Repeated(key.into_owned()));
        }
        found.push((key.into_owned(), value.into_owned()));
    }
    Ok(found)
}

fn parse_endpoint(value: &str) -> Result<Url, ParseStoreUrlError> {
    let invalid = |value: &str| ParseStoreUrlError::Value {
        key: "endpoint",
        value: value.to_owned(),
        expected: "a URL such as https://host:port",
    };
    let url = Url::parse(value).map_err(|_| invalid(value))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ParseStoreUrlError::Credentials("endpoint=…@…".to_owned(), "each cloud's own tools"));
    }
    let usable = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some()
        && url.query().is_none()
        && url.fragment().is_none();
    if usable { Ok(url) } else { Err(invalid(value)) }
}

fn parse_word(key: &'static str, value: String) -> Result<String, ParseStoreUrlError> {
    let usable =
        !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let expected = "letters, digits, '-' and '_'";
    if usable { Ok(value) } else { Err(ParseStoreUrlError::Value { key, value, expected }) }
}

fn parse_bool(key: &'static str, value: String) -> Result<bool, ParseStoreUrlError> {
    match value.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(ParseStoreUrlError::Value { key, value, expected: "true or false" }),
    }
}

fn unknown(key: String, scheme: &'static str, known: &'static str) -> ParseStoreUrlError {
    ParseStoreUrlError::UnknownKey { key, scheme, known }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Location::S3 { bucket, prefix, endpoint, region, path_style } => {
                let path_style = path_style.map(|b| b.to_string());
                write_cloud(
                    f,
                    ("s3", bucket, prefix),
                    &[
                        ("endpoint", endpoint.as_ref().map(Url::as_str)),
                        ("region", region.as_deref()),
                        ("path-style", path_style.as_deref()),
                    ],
                )
            }
            Location::Gcs { bucket, prefix, endpoint } => {
                write_cloud(f, ("gs", bucket, prefix), &[("endpoint", endpoint.as_ref().map(Url::as_str))])
            }
            Location::Azure { container, prefix, account, endpoint } => write_cloud(
                f,
                ("az", container, prefix),
                &[("account", account.as_deref()), ("endpoint", endpoint.as_ref().map(Url::as_str))],
            ),
            Location::Directory(path) => {
                let text = path.to_string_lossy();
                // A relative path that looks like a URL must not be read back as one.
                if split_scheme(&text).is_some() { write!(f, "./{text}") } else { f.write_str(&text) }
            }
            Location::Memory => f.write_str("memory://"),
        }
    }
}

fn write_cloud(
    f: &mut fmt::Formatter<'_>,
    (scheme, bucket, prefix): (&str, &str, &str),
    settings: &[(&str, Option<&str>)],
) -> fmt::Result {
    write!(f, "{scheme}://{bucket}")?;
    if !prefix.is_empty() {
        write!(f, "/{prefix}")?;
    }
    let mut separator = '?';
    for (key, value) in settings {
        let Some(value) = value else { continue };
        // Only what would be misread is escaped, so that endpoints stay readable.
        write!(f, "{separator}{key}=")?;
        for c in value.chars() {
            match c {
                '&' => f.write_str("%26")?,
                '+' => f.write_str("%2B")?,
                '%' => f.write_str("%25")?,
                c => write!(f, "{c}")?,
            }
        }
        separator = '&';
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<StoreUrl, ParseStoreUrlError> {
        text.parse()
    }

    #[test]
    fn every_documented_form_parses() {
        let Location::S3 { bucket, prefix, endpoint, region, path_style } =
            parse("s3://b/p/q/?endpoint=http://localhost:9000&region=eu-west-1&path-style=true").unwrap().0
        else {
            panic!("not S3")
        };
        assert_eq!((bucket.as_str(), prefix.as_str()), ("b", "p/q"));
        assert_eq!(endpoint.unwrap().as_str(), "http://localhost:9000/");
        assert_eq!((region.as_deref(), path_style), (Some("eu-west-1"), Some(true)));
        assert!(matches!(parse("gs://b").unwrap().0, Location::Gcs { prefix, .. } if prefix.is_empty()));
        assert!(
            matches!(parse("az://c/x?account=a").unwrap().0, Location::Azure { account: Some(a), .. } if a == "a")
        );
        assert_eq!(parse("file:///var/lib/a%20b").unwrap(), StoreUrl::directory("/var/lib/a b"));
        assert_eq!(parse("./aquifer-data/").unwrap(), StoreUrl::directory("./aquifer-data"));
        assert_eq!(parse("C:data").unwrap(), StoreUrl::directory("C:data"));
        assert_eq!(parse("memory://").unwrap().0, Location::Memory);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse(""), Err(ParseStoreUrlError::Empty));
        assert!(matches!(parse("ftp://x/y"), Err(ParseStoreUrlError::UnknownScheme(s)) if s == "ftp"));
        assert!(matches!(parse("s3:///p"), Err(ParseStoreUrlError::NoBucket(_))));
        assert!(matches!(parse("s3://a b"), Err(ParseStoreUrlError::Bucket(_))));
        assert!(matches!(parse("s3://b//p"), Err(ParseStoreUrlError::Prefix(_))));
        assert!(matches!(parse("s3://b/../p"), Err(ParseStoreUrlError::Prefix(_))));
        assert!(matches!(parse("file://data/x"), Err(ParseStoreUrlError::File(_))));
        assert!(matches!(parse("memory://x"), Err(ParseStoreUrlError::Memory)));
        assert!(matches!(parse("s3://b?region=a&region=b"), Err(ParseStoreUrlError::Repeated(_))));
        assert!(matches!(parse("s3://b?endpoint=localhost"), Err(ParseStoreUrlError::Value { .. })));
        assert!(matches!(parse("s3://b?path-style=yes"), Err(ParseStoreUrlError::Value { .. })));
        let unknown = parse("s3://b?endpont=http://x").unwrap_err().to_string();
        assert!(unknown.contains("endpont") && unknown.contains("endpoint, region, path-style"), "{unknown}");
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for url in [
            "s3://b?access-key-id=AKIDSECRET",
            "s3://b?secret_access_key=AKIDSECRET",
            "s3://AKIDSECRET:pw@b/p",
            "s3://b?endpoint=http://AKIDSECRET:x@host",
            "az://c?sas-token=AKIDSECRET",
        ] {
            let error = parse(url).unwrap_err();
            assert!(matches!(error, ParseStoreUrlError::Credentials(..)), "{url}: {error}");
            assert!(!error.to_string().contains("AKIDSECRET"), "{error}");
        }
    }

    fn location() -> impl Strategy<Value = StoreUrl> {
        let bucket = "[a-z0-9][a-z0-9.-]{1,20}";
        let prefix = prop_oneof![Just(String::new()), "[a-zA-Z0-9 =&#%+._é-]{1,8}x(/[a-z0-9=%#]{1,5}){0,2}"];
        let endpoint = proptest::option::of(
            "https?://[a-z0-9]{1,10}(:[1-9][0-9]{3})?(/[a-z0-9%&+]{0,3}[a-z])?"
                .prop_filter_map("a URL", |text| Url::parse(&text).ok()),
        );
        let word = || proptest::option::of("[a-z0-9-]{1,10}");
        prop_oneof![
            (bucket, prefix.clone(), endpoint.clone(), word(), any::<Option<bool>>()).prop_map(
                |(bucket, prefix, endpoint, region, path_style)| StoreUrl(Location::S3 {
                    bucket,
                    prefix,
                    endpoint,
                    region,
                    path_style
                })
            ),
            (bucket, prefix.clone(), endpoint.clone())
                .prop_map(|(bucket, prefix, endpoint)| StoreUrl(Location::Gcs { bucket, prefix, endpoint })),
            (bucket, prefix, word(), endpoint).prop_map(|(container, prefix, account, endpoint)| StoreUrl(
                Location::Azure { container, prefix, account, endpoint }
            )),
            "\\PC{1,20}".prop_map(StoreUrl::directory),
            "[a-z]{1,5}://[a-z/?#%]{0,9}".prop_map(StoreUrl::directory),
            Just(StoreUrl(Location::Memory)),
        ]
    }

    proptest! {
        #[test]
        fn what_a_url_prints_parses_to_the_same_url(url in location()) {
            prop_assert_eq!(url.to_string().parse::<StoreUrl>(), Ok(url.clone()), "{}", url);
        }

        #[test]
        fn no_input_panics(text in "\\PC*|(s3|gs|az|file|memory)://\\PC*") {
            if let Ok(url) = parse(&text) {
                prop_assert_eq!(parse(&url.to_string()), Ok(url));
            }
        }
    }
}
