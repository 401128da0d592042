//! On what the steps of a batch depend.

use serde::{Deserialize, Serialize};

/// Whether a step runs. Steps are counted from 0, and only those before the one that asks have become anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "AnyCondition")]
pub enum Condition {
    /// If that step ran and succeeded.
    Ok {
        /// Which.
        step: usize,
    },
    /// If that step ran and failed.
    Error {
        /// Which.
        step: usize,
    },
    /// If the other does not hold.
    Not {
        /// The other.
        cond: Box<Condition>,
    },
    /// If all of these hold.
    And {
        /// These.
        conds: Vec<Condition>,
    },
    /// If one of these holds.
    Or {
        /// These.
        conds: Vec<Condition>,
    },
    /// If no transaction is open.
    IsAutocommit,
}

/// The fields of all conditions. serde would hold back each object with all that is in it until it has seen its type,
/// and that took longer than to run it.
#[derive(Deserialize)]
struct AnyCondition {
    r#type: ConditionType,
    step: Option<usize>,
    cond: Option<Box<Condition>>,
    conds: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ConditionType {
    Ok,
    Error,
    Not,
    And,
    Or,
    IsAutocommit,
}

/// A field that an object's type needs is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("missing field `{0}`")]
pub struct MissingField(pub &'static str);

impl TryFrom<AnyCondition> for Condition {
    type Error = MissingField;

    fn try_from(any: AnyCondition) -> Result<Self, MissingField> {
        let AnyCondition { r#type, step, cond, conds } = any;
        Ok(match r#type {
            ConditionType::Ok => Self::Ok { step: step.ok_or(MissingField("step"))? },
            ConditionType::Error => Self::Error { step: step.ok_or(MissingField("step"))? },
            ConditionType::Not => Self::Not { cond: cond.ok_or(MissingField("cond"))? },
            ConditionType::And => Self::And { conds: conds.ok_or(MissingField("conds"))? },
            ConditionType::Or => Self::Or { conds: conds.ok_or(MissingField("conds"))? },
            ConditionType::IsAutocommit => Self::IsAutocommit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As pyturso 0.8.3 sends it.
    #[test]
    fn a_recorded_condition_is_read_and_written_byte_for_byte() {
        let recorded = r#"{"type":"not","cond":{"type":"is_autocommit"}}"#;
        let condition = Condition::Not { cond: Box::new(Condition::IsAutocommit) };
        assert_eq!(serde_json::from_str::<Condition>(recorded).unwrap(), condition);
        assert_eq!(serde_json::to_string(&condition).unwrap(), recorded);
    }

    #[test]
    fn every_condition_survives_the_wire() {
        let ok = Condition::Ok { step: 3 };
        let error = Condition::Error { step: 0 };
        for condition in [
            ok.clone(),
            error.clone(),
            Condition::And { conds: vec![ok.clone(), Condition::IsAutocommit] },
            Condition::Or { conds: vec![error, Condition::Not { cond: Box::new(ok) }] },
        ] {
            let json = serde_json::to_string(&condition).unwrap();
            assert_eq!(serde_json::from_str::<Condition>(&json).unwrap(), condition);
        }
    }

    #[test]
    fn a_condition_without_what_its_type_needs_is_refused() {
        let error = serde_json::from_str::<Condition>(r#"{"type":"ok"}"#).unwrap_err().to_string();
        assert!(error.contains("missing field `step`"), "{error}");
    }
}
