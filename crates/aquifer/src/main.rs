//! The `aquifer` program.
fn main() {}
