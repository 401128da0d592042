//! Moments in time as people write them: '10 minutes ago', 'yesterday 14:00', RFC 3339.

use aquifer_format::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan, Zoned};

/// Not a moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseMomentError {
    #[error(
        "'{0}' is no moment: write '10 minutes ago', 'yesterday 14:00', '14:00', '2026-11-21 14:00' (local time), \
         '2026-11-21T14:00:00Z', or 'now'"
    )]
    Form(String),
    #[error("'{0}' is a length of time, not a moment: did you mean '{0} ago'?")]
    Length(String),
    #[error("'{0}' is beyond the calendar")]
    OutOfRange(String),
}

/// Reads a moment; what does not name a time zone is local time.
pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, ParseMomentError> {
    moment(text, &Zoned::now())
}

/// Reads a moment, or an age: `30d` is the moment 30 days ago.
pub(crate) fn parse_moment_or_age(text: &str) -> Result<Timestamp, ParseMomentError> {
    moment_or_age(text, &Zoned::now())
}

fn moment_or_age(text: &str, now: &Zoned) -> Result<Timestamp, ParseMomentError> {
    match moment(text, now) {
        Err(ParseMomentError::Length(length)) => moment(&format!("{length} ago"), now),
        other => other,
    }
}

fn moment(given: &str, now: &Zoned) -> Result<Timestamp, ParseMomentError> {
    let text = given.trim();
    let form = || ParseMomentError::Form(given.to_owned());
    let range = |_| ParseMomentError::OutOfRange(given.to_owned());
    let lower = text.to_lowercase();
    if lower.is_empty() {
        return Err(form());
    }
    if lower == "now" {
        return Ok(to_timestamp(now));
    }
    if let Some(moment) = absolute(text, now.time_zone()) {
        return Ok(moment);
    }
    // 'ago' is what makes a length a moment; without it, "1h" is as likely a slip.
    if let Ok(span) = lower.parse::<Span>() {
        if !span.is_negative() {
            return Err(ParseMomentError::Length(text.to_owned()));
        }
        return Ok(to_timestamp(&now.checked_add(span).map_err(range)?));
    }
    let (day, rest) = match lower.split_once(' ') {
        Some((day, rest)) if is_day(day) => (day, rest.trim()),
        _ if is_day(&lower) => (lower.as_str(), ""),
        _ => ("today", lower.as_str()),
    };
    let date = if day == "yesterday" { now.date().checked_sub(1.day()).map_err(range)? } else { now.date() };
    let time = if rest.is_empty() { Time::midnight() } else { clock(rest).ok_or_else(form)? };
    local(date.to_datetime(time), now.time_zone()).ok_or_else(form)
}

fn is_day(word: &str) -> bool {
    word == "today" || word == "yesterday"
}

/// RFC 3339, or a date and time in local time, or a date alone (its midnight).
fn absolute(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    // A time zone in brackets ("…[Europe/Paris]") is how jiff itself prints.
    if let Ok(zoned) = text.parse::<Zoned>() {
        return Some(to_timestamp(&zoned));
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some(Timestamp::from_millis(moment.as_millisecond()));
    }
    if let Ok(date) = text.parse::<Date>()
        && !text.contains([':', 'T'])
        && !text.contains(' ')
    {
        return local(date.to_datetime(Time::midnight()), zone);
    }
    // jiff wants minutes and accepts hours alone as well, which would read "2026-11-21 14" as 14:00: fine.
    text.parse::<DateTime>().ok().and_then(|datetime| local(datetime, zone))
}

/// `14:00`, `14:00:05`.
fn clock(text: &str) -> Option<Time> {
    if text.contains(':') { text.parse().ok() } else { None }
}

/// In a time zone's gap or fold (the hour that is skipped, or comes twice) the earlier reading is taken: it
/// restores to before rather than after.
fn local(datetime: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let zoned = zone.to_ambiguous_zoned(datetime).earlier().ok()?;
    Some(to_timestamp(&zoned))
}

fn to_timestamp(zoned: &Zoned) -> Timestamp {
    Timestamp::from_millis(zoned.timestamp().as_millisecond())
}

/// For people: local time to the second.
pub(crate) fn show(moment: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(moment.as_millis()) {
        Ok(moment) => moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => moment.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Saturday, one hour off UTC.
    fn now() -> Zoned {
        "2026-11-21T15:30:00+01:00[Europe/Paris]".parse().unwrap()
    }

    fn read(text: &str) -> String {
        moment(text, &now()).unwrap().to_string()
    }

    #[test]
    fn every_accepted_form_names_the_right_moment() {
        for (text, expected) in [
            ("now", "2026-11-21T14:30:00.000Z"),
            ("10 minutes ago", "2026-11-21T14:20:00.000Z"),
            ("1h30m ago", "2026-11-21T13:00:00.000Z"),
            ("2 days 1 hour ago", "2026-11-19T13:30:00.000Z"),
            ("1 month ago", "2026-10-21T13:30:00.000Z"),
            ("yesterday", "2026-11-19T23:00:00.000Z"),
            ("Yesterday 14:00", "2026-11-20T13:00:00.000Z"),
            ("today 08:15:30", "2026-11-21T07:15:30.000Z"),
            ("14:00", "2026-11-21T13:00:00.000Z"),
            ("2026-11-21", "2026-11-20T23:00:00.000Z"),
            ("2026-11-21 14:00", "2026-11-21T13:00:00.000Z"),
            ("2026-11-21T14:00:05.250", "2026-11-21T13:00:05.250Z"),
            ("2026-11-21T14:00:00Z", "2026-11-21T14:00:00.000Z"),
            ("2026-11-21T14:00:00+05:30", "2026-11-21T08:30:00.000Z"),
            ("  2026-11-21 14:00 ", "2026-11-21T13:00:00.000Z"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn local_time_follows_the_zone_of_that_day() {
        // Summer time: two hours off UTC; and the hour that comes twice is its first occurrence.
        assert_eq!(read("2026-07-01 12:00"), "2026-07-01T10:00:00.000Z");
        assert_eq!(read("2026-10-25 02:30"), "2026-10-25T00:30:00.000Z");
    }

    #[test]
    fn what_cannot_be_read_says_what_can() {
        for bad in ["", "soon", "14", "yesterday noon", "25:00", "2026-13-01", "tomorrow", "14:00 yesterday"]
        {
            let error = moment(bad, &now()).unwrap_err();
            assert!(error.to_string().contains("10 minutes ago"), "{bad}: {error}");
        }
    }

    #[test]
    fn length_is_a_moment_only_where_ages_are_meant() {
        assert_eq!(moment("30d", &now()), Err(ParseMomentError::Length("30d".into())));
        assert_eq!(moment_or_age("30d", &now()).unwrap().to_string(), "2026-10-22T13:30:00.000Z");
        assert_eq!(moment_or_age("yesterday", &now()), moment("yesterday", &now()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(
            text in "\\PC{0,30}|-?[0-9]{0,20} ?(s|min|hours?|days?|months|years?|weeks)? ?(ago)?|[0-9]{0,6}-[0-9]{0,3}-[0-9]{0,3}[T ]?[0-9:.]{0,12}(Z|[+-][0-9:]{0,6})?|(today|yesterday)? ?[0-9:]{0,9}"
        ) {
            let _ = moment(&text, &now());
            let _ = parse_moment_or_age(&text);
            let _ = text.parse::<crate::units::Bytes>();
            let _ = text.parse::<crate::units::Length>();
        }
    }
}
