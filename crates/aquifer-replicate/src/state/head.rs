//! Where a replica stands: its revision, and the place in the WAL that belongs to it.

use aquifer_format::{GenerationId, PageSize, Timestamp, Txid, WriterNonce};
use aquifer_sqlite::WalPosition;

/// Where a replica stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The generation that it extends.
    pub generation: GenerationId,
    /// The last batch that is durable, or staged on disk.
    pub txid: Txid,
    /// Who writes the batches after it: one in the store that carries this nonce is ours.
    pub writer: WriterNonce,
    /// Until a batch of `writer` is durable: who wrote before it, and may have put one batch more than is known.
    pub previous: Option<WriterNonce>,
    /// Size of the database's pages.
    pub page_size: PageSize,
    /// Time of the last commit in it.
    pub last_commit: Timestamp,
    /// Everything up to this place in the WAL is in it.
    pub wal: WalPosition,
}

/// Bytes of an encoded head.
pub(super) const LEN: usize = 36 + 8 + 16 + 17 + 4 + 8 + WalPosition::LEN;

impl Head {
    /// Whether a batch after this one is by the replica that keeps this state.
    pub fn is_ours(&self, writer: WriterNonce) -> bool {
        writer == self.writer || Some(writer) == self.previous
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.generation.to_string().as_bytes());
        out.extend_from_slice(&self.txid.get().to_le_bytes());
        out.extend_from_slice(&self.writer.to_bytes());
        out.push(u8::from(self.previous.is_some()));
        out.extend_from_slice(&self.previous.map_or([0; 16], WriterNonce::to_bytes));
        out.extend_from_slice(&self.page_size.get().to_le_bytes());
        out.extend_from_slice(&self.last_commit.as_millis().to_le_bytes());
        out.extend_from_slice(&self.wal.to_bytes());
        debug_assert_eq!(out.len() - start, LEN);
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Head> {
        let mut rest = bytes.get(..LEN)?;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at(n);
            rest = tail;
            head
        };
        let generation = std::str::from_utf8(take(36)).ok()?.parse().ok()?;
        let txid = Txid::new(u64::from_le_bytes(take(8).try_into().ok()?));
        let writer = WriterNonce::from_bytes(take(16).try_into().ok()?);
        let has_previous = take(1) != [0];
        let previous = WriterNonce::from_bytes(take(16).try_into().ok()?);
        let page_size = PageSize::new(u32::from_le_bytes(take(4).try_into().ok()?)).ok()?;
        let last_commit = Timestamp::from_millis(i64::from_le_bytes(take(8).try_into().ok()?));
        let wal = WalPosition::from_bytes(take(WalPosition::LEN).try_into().ok()?);
        let previous = has_previous.then_some(previous);
        Some(Head { generation, txid, writer, previous, page_size, last_commit, wal })
    }
}
