//! Ids that keep generations in their order.

use aquifer_format::Timestamp;

use crate::backup::Backup;

/// For each backup, which stand newest first, the earliest moment that its generation may begin at for its id to sort before
/// those of the backups after it: they may have begun at the same moment, or later by the clock of another machine.
pub(super) fn begins(found: &[Backup]) -> Vec<Timestamp> {
    let created: Vec<Option<Timestamp>> = found.iter().map(Backup::created).collect();
    begins_after(&created)
}

fn begins_after(created: &[Option<Timestamp>]) -> Vec<Timestamp> {
    let mut begins = vec![Timestamp::from_millis(0); created.len()];
    for at in (1..created.len()).rev() {
        let begun = created[at].map_or(begins[at], |created| created.max(begins[at]));
        begins[at - 1] = Timestamp::from_millis(begun.as_millis().saturating_add(1));
    }
    begins
}

#[cfg(test)]
mod tests {
    use aquifer_format::GenerationId;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn generations_list_in_the_order_of_their_backups_whenever_they_began(
            // Only the first may have no beginning of its own.
            first in prop::option::weighted(0.8, -5..20i64),
            others in prop::collection::vec((-5..20i64).prop_map(Some), 0..12),
        ) {
            let created = std::iter::once(first).chain(others);
            let created: Vec<Option<Timestamp>> =
                created.map(|millis| millis.map(Timestamp::from_millis)).collect();
            let begins = begins_after(&created);
            // Not as they are made in an import: what is random in an id ascends.
            let mut ids: Vec<GenerationId> = created
                .iter()
                .zip(&begins)
                .rev()
                .map(|(created, at_least)| GenerationId::new(created.unwrap_or_default().max(*at_least)))
                .collect();
            ids.reverse();
            prop_assert!(ids.is_sorted_by(|newer, older| newer < older), "{:?}", ids);
            // Where the order is that of the beginnings, they are kept.
            let is_kept = |t: &Option<Timestamp>| t.is_some_and(|t| t.as_millis() >= 0);
            if created.iter().all(is_kept) && created.is_sorted_by(|newer, older| newer > older) {
                for (id, created) in ids.iter().zip(&created) {
                    prop_assert_eq!(Some(id.created_at()), *created);
                }
            }
        }
    }
}
