//! Values that not every server reads as they were written, and how that is found out.
//!
//! Some read a number from JSON as the one beside it: its digits as an integer, times or through a power of ten. Some
//! hold no text that is not UTF-8. A push with such a value begins with a question, as one more guard: where it fails,
//! nothing of the push was done.

use std::sync::Arc;

use aquifer_sqlite::btree::Value;

use super::{Step, fail_if};

/// How a server reads reals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reals {
    /// As they are written.
    #[default]
    Exact,
    /// As others near them, unless they are simple. They are sent as an integer and the powers of two that make it.
    Near,
}

/// What is asked of a server before it is sent a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Reals,
    Texts,
}

/// Whether a real may be read as another one. Those of few digits and a small exponent are not: their digits are an
/// integer, and its power of ten a number, that a real has exactly; so what comes of both is rounded once, and rightly.
pub(super) fn is_delicate(real: f64) -> bool {
    const DIGITS: u64 = 1 << f64::MANTISSA_DIGITS;
    const EXPONENT: i32 = 22;
    let written = format!("{real:e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let fraction = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i32);
    let integer = digits.chars().filter(char::is_ascii_digit).collect::<String>().parse::<u64>();
    let exponent = exponent.parse::<i32>().map_or(i32::MAX, |exponent| exponent - fraction);
    real.is_finite() && !(integer.is_ok_and(|integer| integer < DIGITS) && exponent.abs() <= EXPONENT)
}

/// A finite real as SQL with one parameter, and the parameter's argument, an integer.
pub(super) fn in_powers_of_two(real: f64) -> (String, Value) {
    // What has so many bits has 16 digits, and is read exactly itself.
    const MOST: u32 = 48;
    let bits = real.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7ff) as i32, (bits & ((1 << 52) - 1)).cast_signed());
    // A number without its leading bit has the smallest exponent.
    let (integer, exponent) =
        if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    let sign = if exponent < 0 { '/' } else { '*' };
    let most = exponent.unsigned_abs() / MOST;
    let powers = std::iter::repeat_n(MOST, most as usize).chain([exponent.unsigned_abs() % MOST]);
    let factors: Vec<_> = powers.map(|power| format!("{sign} {}.0", 1_u64 << power)).collect();
    (
        format!("(? * 1.0 {})", factors.join(" ")),
        Value::Integer(if real.is_sign_negative() { -integer } else { integer }),
    )
}

impl Question {
    /// A step that fails if the answer is no.
    pub(super) fn step(self) -> Step {
        match self {
            Question::Reals => {
                // Each is read wrongly by those who do not round rightly, one way or the other.
                let reals =
                    [10_928_588.983_213_553, -1.407_474_820_518_826_4e113, 6.352_929_017_207_453e-183];
                let (mut conditions, mut args) = (Vec::new(), Vec::new());
                for real in reals {
                    let (sql, integer) = in_powers_of_two(real);
                    conditions.push(format!("? <> {sql}"));
                    args.extend([Value::Real(real), integer]);
                }
                step("reals", &conditions.join(" OR "), args)
            }
            Question::Texts => {
                let bytes = || Value::Blob(vec![0xff]);
                step("texts", "CAST(CAST(? AS TEXT) AS BLOB) IS NOT ?", vec![bytes(), bytes()])
            }
        }
    }
}

fn step(about: &str, condition: &str, args: Vec<Value>) -> Step {
    Step { sql: fail_if(condition).into(), args, about: Arc::from(about), is_optional: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rusqlite::{Connection, params_from_iter};

    proptest! {
        #[test]
        fn a_real_is_the_same_when_it_is_made_of_powers_of_two(bits in any::<u64>()) {
            let real = f64::from_bits(bits);
            prop_assume!(real.is_finite());
            let (sql, integer) = in_powers_of_two(real);
            let db = Connection::open_in_memory().unwrap();
            let found: f64 = db.query_row(&format!("SELECT {sql}"), [integer], |row| row.get(0)).unwrap();
            // SQLite has one zero.
            prop_assert_eq!((found + 0.0).to_bits(), (real + 0.0).to_bits(), "{}", sql);
        }

        #[test]
        fn a_real_that_is_not_delicate_survives_who_reads_it_simply(integer in any::<i64>(), exponent in -30..30) {
            let real: f64 = format!("{integer}e{exponent}").parse().unwrap();
            if !is_delicate(real) {
                let read = read_simply(&serde_json::to_string(&real).unwrap());
                prop_assert_eq!(read.to_bits(), real.to_bits());
            }
        }
    }

    /// As `serde_json` does without its feature `float_roundtrip`.
    fn read_simply(text: &str) -> f64 {
        let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fraction = if fraction == "0" { "" } else { fraction };
        let integer: i64 = format!("{whole}{fraction}").parse().unwrap();
        let exponent = exponent.parse::<i32>().unwrap() - fraction.len() as i32;
        let power: f64 = format!("1e{}", exponent.abs()).parse().unwrap();
        if exponent < 0 { integer as f64 / power } else { integer as f64 * power }
    }

    #[test]
    fn what_reads_all_exactly_answers_yes_to_every_question() {
        let db = Connection::open_in_memory().unwrap();
        for question in [Question::Reals, Question::Texts] {
            let step = question.step();
            db.query_row(&step.sql, params_from_iter(&step.args), |_| Ok(())).unwrap();
            // Who reads one of them wrongly does not.
            for wrong in 0..step.args.len() {
                let mut args = step.args.clone();
                match &mut args[wrong] {
                    Value::Real(real) => *real = real.next_up(),
                    Value::Blob(bytes) => bytes[0] = 0xfe,
                    _ => continue,
                }
                db.query_row(&step.sql, params_from_iter(&args), |_| Ok(())).unwrap_err();
            }
        }
        assert!([0.1, -3.75, 1e22, 1e-22, 0.0, 123_456_789.0].iter().all(|&real| !is_delicate(real)));
        assert!([0.1 + 0.2, 1e23, 1e-23, f64::MIN_POSITIVE].iter().all(|&real| is_delicate(real)));
        assert!(!is_delicate(f64::INFINITY));
    }
}
