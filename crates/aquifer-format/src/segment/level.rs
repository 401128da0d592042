//! How hard groups are compressed.

/// Effort spent on compressing groups: 0 stores them as they are, 1 to 22 are zstd's levels, and -7 to -1 its
/// fast ones (about half the time of level 1 for a fifth more bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CompressionLevel(i32);

impl CompressionLevel {
    /// Groups are stored as they are.
    pub const NONE: CompressionLevel = CompressionLevel(0);
    /// For level 0, where the time until a commit is durable counts.
    pub const SHIP: CompressionLevel = CompressionLevel(1);
    /// For what is kept and read often: compactions and snapshots.
    pub const KEEP: CompressionLevel = CompressionLevel(3);

    /// The level of this number, or `None` outside -7 to 22.
    pub const fn new(level: i32) -> Option<CompressionLevel> {
        if level >= -7 && level <= 22 { Some(CompressionLevel(level)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> i32 {
        self.0
    }
}
