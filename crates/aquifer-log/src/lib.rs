//! The log of a database in an object store: layout, commit protocol, plan, compaction, retention, verify
