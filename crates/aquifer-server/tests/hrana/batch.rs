//! Batches against a small model: which steps run, and how they end.
use aquifer_server::hrana::Settings;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::world::world;

#[derive(Clone, Debug)]
enum Condition {
    Ok(Index),
    Error(Index),
    Not(Box<Condition>),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    IsAutocommit,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sql {
    Good,
    Bad,
    Begin,
    Commit,
    Rollback,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Skipped,
    Ok,
    Error,
}

impl Condition {
    /// Before the first step there is nothing to ask for.
    fn json(&self, step: usize) -> Value {
        match self {
            Self::Ok(_) | Self::Error(_) if step == 0 => json!({"type":"or","conds":[]}),
            Self::Ok(asked) => json!({"type":"ok","step":asked.index(step)}),
            Self::Error(asked) => json!({"type":"error","step":asked.index(step)}),
            Self::Not(inner) => json!({"type":"not","cond":inner.json(step)}),
            Self::And(all) => {
                json!({"type":"and","conds":all.iter().map(|c| c.json(step)).collect::<Vec<_>>()})
            }
            Self::Or(any) => {
                json!({"type":"or","conds":any.iter().map(|c| c.json(step)).collect::<Vec<_>>()})
            }
            Self::IsAutocommit => json!({"type":"is_autocommit"}),
        }
    }

    fn holds(&self, before: &[Outcome], autocommit: bool) -> bool {
        let was = |asked: &Index, outcome| !before.is_empty() && before[asked.index(before.len())] == outcome;
        match self {
            Self::Ok(asked) => was(asked, Outcome::Ok),
            Self::Error(asked) => was(asked, Outcome::Error),
            Self::Not(inner) => !inner.holds(before, autocommit),
            Self::And(all) => all.iter().filter(|c| !c.holds(before, autocommit)).count() == 0,
            Self::Or(any) => any.iter().filter(|c| c.holds(before, autocommit)).count() > 0,
            Self::IsAutocommit => autocommit,
        }
    }
}

impl Sql {
    fn text(self) -> &'static str {
        match self {
            Self::Good => "INSERT INTO t (v) VALUES (1)",
            Self::Bad => "INSERT INTO nowhere VALUES (1)",
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Rollback => "ROLLBACK",
        }
    }

    fn run(self, autocommit: &mut bool) -> Outcome {
        let (allowed, after) = match self {
            Self::Good => (true, *autocommit),
            Self::Bad => (false, *autocommit),
            Self::Begin => (*autocommit, false),
            Self::Commit | Self::Rollback => (!*autocommit, true),
        };
        if !allowed {
            return Outcome::Error;
        }
        *autocommit = after;
        Outcome::Ok
    }
}

fn conditions() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        any::<Index>().prop_map(Condition::Ok),
        any::<Index>().prop_map(Condition::Error),
        Just(Condition::IsAutocommit),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|condition| Condition::Not(Box::new(condition))),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::And),
            prop::collection::vec(inner, 0..3).prop_map(Condition::Or),
        ]
    })
}

fn statements() -> impl Strategy<Value = Sql> {
    prop_oneof![Just(Sql::Good), Just(Sql::Bad), Just(Sql::Begin), Just(Sql::Commit), Just(Sql::Rollback)]
}

#[test]
fn the_steps_of_a_batch_run_as_their_conditions_say() {
    let world = world(Settings::default());
    let batches = prop::collection::vec((prop::option::of(conditions()), statements()), 1..12);
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) }, |(batch in batches)| {
        let steps: Vec<Value> = batch
            .iter()
            .enumerate()
            .map(|(step, (condition, sql))| json!({
                "condition": condition.as_ref().map(|condition| condition.json(step)),
                "stmt": {"sql": sql.text()},
            }))
            .collect();
        let answer = world.pipeline(
            None,
            &json!([{"type":"batch","batch":{"steps":steps}}, {"type":"get_autocommit"}, {"type":"close"}]),
        );
        let result = &answer["results"][0]["response"]["result"];
        let outcomes: Vec<Outcome> = (0..batch.len())
            .map(|step| match (result["step_results"][step].is_null(), result["step_errors"][step].is_null()) {
                (true, true) => Outcome::Skipped,
                (false, true) => Outcome::Ok,
                (true, false) => Outcome::Error,
                (false, false) => panic!("both a result and an error: {answer}"),
            })
            .collect();

        let (mut expected, mut autocommit) = (Vec::new(), true);
        for (condition, sql) in &batch {
            let runs = condition.as_ref().is_none_or(|condition| condition.holds(&expected, autocommit));
            expected.push(if runs { sql.run(&mut autocommit) } else { Outcome::Skipped });
        }
        prop_assert_eq!(outcomes, expected);
        prop_assert_eq!(&answer["results"][1]["response"]["is_autocommit"], &json!(autocommit));
    });
}
