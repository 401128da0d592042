//! What an error of `object_store` means: for the next attempt, and in words.

use std::error::Error as StdError;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use crate::store::error::{Failure, FailureKind};

/// A put that is answered "not found" means the bucket, there is nothing else to find.
pub(super) fn bucket_missing(failure: Failure) -> Failure {
    if failure.kind == FailureKind::NotFound { no_bucket(failure) } else { failure }
}

fn no_bucket(failure: Failure) -> Failure {
    let reason = format!("the bucket does not exist, create it first ({})", failure.reason);
    Failure { kind: FailureKind::Refused, reason, ..failure }
}

/// What one attempt's error means for the next.
pub(super) fn classify(error: Error) -> Failure {
    let reason = innermost(&error);
    let kind = match &error {
        Error::NotFound { .. } => FailureKind::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => FailureKind::Exists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => FailureKind::Denied,
        Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => FailureKind::Refused,
        _ => match http_status(&reason) {
            Some(401 | 403) => FailureKind::Denied,
            Some(501) => FailureKind::Refused,
            Some(408 | 409 | 429 | 500..) => FailureKind::Unknown,
            Some(400) if is_about_credentials(&reason) => FailureKind::Denied,
            Some(300..=499) => FailureKind::Refused,
            _ if reason.contains("Received redirect without LOCATION") => FailureKind::Refused,
            // Waiting does not make a certificate trusted.
            _ if reason.contains("invalid peer certificate") => FailureKind::Refused,
            // Not HTTP: what a store in memory says of such a range.
            _ if reason.contains("Wanted range starting at") => FailureKind::Refused,
            _ if was_never_sent(&error) => FailureKind::NotSent,
            _ => FailureKind::Unknown,
        },
    };
    let about_bucket = ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"];
    let missing_bucket = about_bucket.iter().any(|text| reason.contains(text));
    let failure = Failure { kind, reason: shorten(reason), source: error.into() };
    if missing_bucket {
        return no_bucket(failure);
    }
    match missing_credentials(&failure) {
        Some(advice) => Failure { reason: format!("{advice} ({})", failure.reason), ..failure },
        None => failure,
    }
}

pub(super) fn is_beyond_end(failure: &Failure) -> bool {
    failure.reason.starts_with("416 ")
        || failure.reason.contains("status code: 416")
        || failure.reason.contains("Wanted range starting at")
}

/// The last error of the chain that says something of its own; the ones around it repeat it.
fn innermost(error: &Error) -> String {
    let mut current: &(dyn StdError + 'static) = error;
    while let Some(source) = current.source() {
        // An HTTP error's own sources are what the operating system said; its status line is more telling.
        let text = current.to_string();
        if text.starts_with("Server returned") {
            break;
        }
        current = source;
    }
    current.to_string()
}

/// `object_store` keeps the type that holds the status to itself, but prints it. A test pins this to the
/// version in use.
fn http_status(reason: &str) -> Option<u16> {
    let (_, rest) = reason.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// What to say when a client without credentials asked the machine for those of its role, in vain.
fn missing_credentials(failure: &Failure) -> Option<&'static str> {
    const PLACES: [(&str, &str); 4] = [
        ("/latest/api/token", AWS),
        ("/latest/meta-data/iam", AWS),
        (
            "computeMetadata",
            "no credentials: set GOOGLE_APPLICATION_CREDENTIALS; and the machine gives none of its own",
        ),
        (
            "metadata/identity/oauth2/token",
            "no credentials: set AZURE_STORAGE_ACCOUNT_KEY or AZURE_CLIENT_ID, AZURE_TENANT_ID and \
             AZURE_CLIENT_SECRET; and the machine gives none of its own",
        ),
    ];
    const AWS: &str = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; and the machine gives none of its own";
    let text = failure.source.to_string();
    PLACES.iter().find(|(place, _)| text.contains(place)).map(|(_, advice)| *advice)
}

fn is_about_credentials(reason: &str) -> bool {
    ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"].iter().any(|code| reason.contains(code))
}

/// Only where no connection was made. `object_store`'s `HttpErrorKind::Request` says "not sent" too, but covers
/// connections that were closed before an answer came, when the request may have been carried out.
fn was_never_sent(error: &Error) -> bool {
    let mut current: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = current {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return http.kind() == HttpErrorKind::Connect;
        }
        current = error.source();
    }
    false
}

/// The reason in few words: of an answer the status, and code and message of the XML that clouds send with it.
fn shorten(reason: String) -> String {
    if reason.contains("Received redirect without LOCATION") {
        return "the bucket is in another region: add ?region=… to the store's URL or set AWS_REGION"
            .to_owned();
    }
    let Some((_, answer)) = reason.split_once("status code: ") else { return reason };
    let element = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        rest.split_once('<').map(|(text, _)| text.trim()).filter(|text| !text.is_empty())
    };
    let Some(code) = element("Code") else { return reason };
    let status = answer.split(": ").next().unwrap_or_default();
    match element("Message") {
        Some(message) => format!("{status}, {code}: {message}"),
        None => format!("{status}, {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short_and_say_what_the_service_said() {
        let answer = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?><Error>\
                      <Code>AccessDenied</Code><Message>Not you.</Message></Error>";
        assert_eq!(shorten(answer.to_owned()), "403 Forbidden, AccessDenied: Not you.");
        assert_eq!(http_status(answer), Some(403));
        let plain = "Server returned non-2xx status code: 502 Bad Gateway: <html>";
        assert_eq!(shorten(plain.to_owned()), plain);
        assert_eq!(http_status(plain), Some(502));
    }
}
