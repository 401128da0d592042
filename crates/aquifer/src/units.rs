//! Sizes and durations as people write and read them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Serialize};

/// A number of bytes. Written `512`, `64KiB`, `10 GB`, `1.5G`; a bare `K`, `M`, `G`, `T` counts in 1024s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "Written")]
pub(crate) struct Bytes(pub(crate) u64);

/// A configuration file may hold a plain number of bytes as well.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

/// Not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no size: write a number of bytes, or a number and a unit, as in 64KiB, 512MB, 1.5G")]
pub(crate) struct ParseBytesError(String);

const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
];

impl FromStr for Bytes {
    type Err = ParseBytesError;
    fn from_str(text: &str) -> Result<Bytes, ParseBytesError> {
        let wrong = || ParseBytesError(text.to_owned());
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.trim().to_ascii_lowercase();
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number = number.replace('_', "");
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(*factor).map(Bytes).ok_or_else(wrong);
        }
        let bytes = number.parse::<f64>().map_err(|_| wrong())? * *factor as f64;
        // Beyond 2^53 a fraction of a unit cannot be told any more.
        if bytes.is_finite() && bytes < 9e15 { Ok(Bytes(bytes.round() as u64)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Bytes {
    /// With three significant digits, in 1024s.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
            // 999.5 and more would be rounded to four digits.
            if value < 999.5 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        let text = if unit == "B" {
            format!("{} B", self.0)
        } else if value < 9.995 {
            format!("{value:.2} {unit}")
        } else if value < 99.95 {
            format!("{value:.1} {unit}")
        } else {
            format!("{value:.0} {unit}")
        };
        f.pad(&text)
    }
}

impl From<Bytes> for String {
    /// Exactly: the largest unit that divides it.
    fn from(bytes: Bytes) -> String {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if bytes.0 >= 1 << shift && bytes.0.trailing_zeros() >= shift {
                return format!("{}{unit}", bytes.0 >> shift);
            }
        }
        bytes.0.to_string()
    }
}

impl TryFrom<Written> for Bytes {
    type Error = ParseBytesError;
    fn try_from(written: Written) -> Result<Bytes, ParseBytesError> {
        match written {
            Written::Number(n) => Ok(Bytes(n)),
            Written::Text(text) => text.parse(),
        }
    }
}

/// A length of time. Written `250ms`, `10s`, `1h 30m`, `30d`, `2 weeks`; a day is 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Length(pub(crate) Duration);

/// Not a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no length of time: write numbers with units from ms to weeks, as in 250ms, 10s, 1h 30m, 30d, 2 weeks"
)]
pub(crate) struct ParseLengthError(String);

impl FromStr for Length {
    type Err = ParseLengthError;
    fn from_str(text: &str) -> Result<Length, ParseLengthError> {
        let wrong = || ParseLengthError(text.to_owned());
        let span: Span = text.trim().parse().map_err(|_| wrong())?;
        // Months and years have no one length: refused here.
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
        Duration::try_from(duration).map(Length).map_err(|_| wrong())
    }
}

impl fmt::Display for Length {
    /// Its two largest units: `3d 4h`, `12s`, `250ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis < 1000 {
            return f.pad(&format!("{millis}ms"));
        }
        let seconds = self.0.as_secs();
        let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
        let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(units.len() - 1);
        let mut rest = seconds;
        let mut parts = Vec::new();
        for (unit, size) in units.iter().skip(first).take(2) {
            if rest >= *size || parts.is_empty() {
                parts.push(format!("{}{unit}", rest / size));
            }
            rest %= size;
        }
        f.pad(&parts.join(" "))
    }
}

impl From<Length> for String {
    /// Exactly, to the millisecond: one unit.
    fn from(length: Length) -> String {
        let millis = length.0.as_millis();
        for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
            if millis >= size && millis.is_multiple_of(size) {
                return format!("{}{unit}", millis / size);
            }
        }
        format!("{millis}ms")
    }
}

impl TryFrom<String> for Length {
    type Error = ParseLengthError;
    fn try_from(text: String) -> Result<Length, ParseLengthError> {
        text.parse()
    }
}

/// `1 segment`, `2 segments`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_usual_form() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("10GB", 10_000_000_000),
            ("1.5G", 3 << 29),
            ("1_000", 1000),
            ("2T", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for bad in ["", "G", "1.2.3M", "-1", "ten", "1 parsec", "99999999999T", "1e3"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1 << 20, "1.00 MiB"),
            (12_900_000, "12.3 MiB"),
            (999 << 20, "999 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn lengths_are_read_in_every_usual_form() {
        let second = |n| Ok(Length(Duration::from_secs(n)));
        for (text, seconds) in [
            ("10s", 10),
            ("10 seconds", 10),
            ("1h 30m", 5400),
            ("30d", 2_592_000),
            ("2 weeks", 1_209_600),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), second(seconds), "{text}");
        }
        assert_eq!("250ms".parse(), Ok(Length(Duration::from_millis(250))));
        for bad in ["", "10", "1 month", "1y", "-5s", "5s ago", "soon"] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_stored_reads_back_exactly() {
        for bytes in [0, 1, 1000, 1024, 1536, 3 << 30, u64::MAX] {
            assert_eq!(String::from(Bytes(bytes)).parse(), Ok(Bytes(bytes)));
        }
        for millis in [0, 1, 1500, 60_000, 90_000, 86_400_000, 90_000_000] {
            let length = Length(Duration::from_millis(millis));
            assert_eq!(String::from(length).parse(), Ok(length));
        }
    }

    #[test]
    fn lengths_are_shown_by_their_two_largest_units() {
        for (millis, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (59_900, "59s"),
            (3_600_000, "1h"),
            (3_661_000, "1h 1m"),
            (273_600_000, "3d 4h"),
            (259_260_000, "3d"),
        ] {
            assert_eq!(Length(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
