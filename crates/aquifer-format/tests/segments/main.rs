//! What the segment format promises, checked from outside the crate. `docs/format.md` is the specification.

mod algebra;
mod damage;
mod golden;
mod history;
mod hostile;
mod roundtrip;
mod sample;
