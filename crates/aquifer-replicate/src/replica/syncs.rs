//! Who waits for what is committed to become durable.
//!
//! # The invariant
//! Whoever asks is answered with a revision that has everything that was committed before: a look at the WAL that
//! began after the question names the txid that must be durable. Not when *all* is durable: under constant load that
//! moment may never come.

use std::collections::VecDeque;

use aquifer_format::{Revision, Txid};
use tokio::sync::oneshot;

use crate::Result;

/// Where an answer goes.
pub(super) type Answer = oneshot::Sender<Result<Option<Revision>>>;

#[derive(Debug, Default)]
pub(super) struct Syncs {
    /// No look was finished since they asked.
    asked: Vec<Answer>,
    /// Everything they wait for was captured by this txid; ascending.
    captured: VecDeque<(Txid, Answer)>,
}

impl Syncs {
    pub(super) fn ask(&mut self, answer: Answer) {
        self.asked.push(answer);
    }

    /// Takes over those who asked a replica before this one.
    pub(super) fn append(&mut self, answers: &mut Vec<Answer>) {
        self.asked.append(answers);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait for an answer.
    pub(super) fn len(&self) -> usize {
        self.asked.len() + self.captured.len()
    }

    /// A look that began after all questions so far found everything: it is in `txid`, or before.
    pub(super) fn are_captured(&mut self, txid: Txid) {
        self.captured.extend(self.asked.drain(..).map(|answer| (txid, answer)));
    }

    /// Answers those for whom enough is durable. Those who went away are forgotten.
    pub(super) fn answer(&mut self, durable: Option<Revision>) {
        let until = durable.map_or(Txid::ZERO, |revision| revision.txid);
        while self.captured.front().is_some_and(|(txid, _)| *txid <= until) {
            if let Some((_, answer)) = self.captured.pop_front() {
                let _ = answer.send(Ok(durable));
            }
        }
    }

    /// All who were not answered, to ask again.
    pub(super) fn take(&mut self) -> Vec<Answer> {
        let captured = self.captured.drain(..).map(|(_, answer)| answer);
        captured.chain(self.asked.drain(..)).collect()
    }
}
