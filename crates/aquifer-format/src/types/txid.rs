//! Numbers of durable batches.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of a durable batch inside a generation: 1, 2, 3 … without gaps. 0 means "before the first".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Txid(u64);

impl Txid {
    /// Before the first batch: the state a generation starts from.
    pub const ZERO: Txid = Txid(0);
    /// The first batch of a generation.
    pub const FIRST: Txid = Txid(1);

    /// The batch of this number.
    pub const fn new(n: u64) -> Txid {
        Txid(n)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The batch after this one.
    #[must_use]
    pub const fn next(self) -> Txid {
        Txid(self.0 + 1)
    }

    /// The batch before this one; that of 0 is 0.
    #[must_use]
    pub const fn previous(self) -> Txid {
        Txid(self.0.saturating_sub(1))
    }

    /// As in object keys: 16 hexadecimal digits.
    pub fn to_hex(self) -> String {
        format!("{:016x}", self.0)
    }

    /// The inverse of [`Txid::to_hex`]: exactly 16 lower-case hexadecimal digits.
    pub fn from_hex(hex: &str) -> Option<Txid> {
        let canonical = hex.len() == 16 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if canonical { u64::from_str_radix(hex, 16).ok().map(Txid) } else { None }
    }
}

impl fmt::Debug for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "txid {}", self.0)
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Not a txid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no txid (a decimal number from 1)")]
pub struct ParseTxidError(String);

impl FromStr for Txid {
    type Err = ParseTxidError;
    /// Reads the decimal form that users type.
    fn from_str(s: &str) -> Result<Txid, ParseTxidError> {
        match s.parse::<u64>() {
            Ok(n) if n > 0 => Ok(Txid(n)),
            _ => Err(ParseTxidError(s.to_owned())),
        }
    }
}

/// Txids `first` to `last`, both inclusive and not empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TxidRange {
    /// First txid of the range.
    pub first: Txid,
    /// Last txid of the range, inclusive.
    pub last: Txid,
}

impl TxidRange {
    /// The range of both ends, or `None` where it would be empty or start before txid 1.
    pub const fn new(first: Txid, last: Txid) -> Option<TxidRange> {
        if first.0 >= 1 && first.0 <= last.0 { Some(TxidRange { first, last }) } else { None }
    }

    /// The range of one txid.
    pub const fn one(txid: Txid) -> TxidRange {
        TxidRange { first: txid, last: txid }
    }

    /// How many txids it spans.
    pub const fn count(self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    /// Whether `next` starts right after this one ends.
    pub const fn is_followed_by(self, next: TxidRange) -> bool {
        next.first.0 == self.last.0 + 1
    }
}

impl fmt::Debug for TxidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for TxidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_canonical() {
        assert_eq!(Txid::new(0x2a).to_hex(), "000000000000002a");
        assert_eq!(Txid::from_hex("000000000000002a"), Some(Txid::new(42)));
        for bad in ["2a", "000000000000002A", "+00000000000002a", "000000000000002a0", ""] {
            assert_eq!(Txid::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn users_cannot_name_txid_zero() {
        assert!("0".parse::<Txid>().is_err());
        assert_eq!("17".parse(), Ok(Txid::new(17)));
    }
}
