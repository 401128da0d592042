//! Where a commit is when it is acknowledged.

/// What an answer waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Everything that it wrote, or could have seen, is in the store: no machine whose loss would take it away.
    #[default]
    Store,
    /// It is synced to this machine's disk, and the store has it soon after. It is lost with the disk, and where another
    /// server takes the database over before it was shipped; the file that had it is then kept aside.
    Local,
}
