//! Batches: steps that run or not, as their conditions say when their turn comes.
use super::{SqlError, Statement};

/// A step of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When it runs; always if there is none.
    pub condition: Option<Condition>,
    /// What it runs.
    pub statement: Statement,
}

/// When a step runs. Steps are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// That step ran and succeeded.
    Ok(usize),
    /// That step ran and failed.
    Error(usize),
    /// The inner one does not hold.
    Not(Box<Condition>),
    /// All hold (also when there are none).
    And(Vec<Condition>),
    /// One holds at least.
    Or(Vec<Condition>),
    /// No transaction is open at this moment.
    IsAutocommit,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Skipped,
    Succeeded,
    Failed,
}

impl Condition {
    /// Whether it holds after the steps in `outcomes`.
    pub(super) fn holds(&self, outcomes: &[Outcome], is_autocommit: bool) -> bool {
        match self {
            Self::Ok(step) => outcomes.get(*step) == Some(&Outcome::Succeeded),
            Self::Error(step) => outcomes.get(*step) == Some(&Outcome::Failed),
            Self::Not(inner) => !inner.holds(outcomes, is_autocommit),
            Self::And(all) => all.iter().all(|inner| inner.holds(outcomes, is_autocommit)),
            Self::Or(any) => any.iter().any(|inner| inner.holds(outcomes, is_autocommit)),
            Self::IsAutocommit => is_autocommit,
        }
    }

    /// The first step it asks for that is not before `step`.
    fn asks_beyond(&self, step: usize) -> Option<usize> {
        match self {
            Self::Ok(asked) | Self::Error(asked) => (*asked >= step).then_some(*asked),
            Self::Not(inner) => inner.asks_beyond(step),
            Self::And(many) | Self::Or(many) => many.iter().find_map(|inner| inner.asks_beyond(step)),
            Self::IsAutocommit => None,
        }
    }
}

/// Refuses a batch whose conditions cannot be answered, before any of it has run.
pub(super) fn check(steps: &[Step]) -> Result<(), SqlError> {
    for (step, Step { condition, .. }) in steps.iter().enumerate() {
        if let Some(asked) = condition.as_ref().and_then(|condition| condition.asks_beyond(step)) {
            return Err(SqlError::FutureStep { step, asked });
        }
    }
    Ok(())
}
