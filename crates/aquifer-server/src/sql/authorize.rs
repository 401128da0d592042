//! What a client's SQL may not do: reach outside its database, or change what the server manages itself.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::auth::Access;
use parking_lot::Mutex;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// What the authorizer has seen.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Why it said no last: SQLite's own message is only "not authorized".
    refusal: Mutex<Option<String>>,
    /// Whether it let something through that outlives a transaction on the connection itself.
    marked: AtomicBool,
}

impl Seen {
    pub(super) fn take_refusal(&self) -> Option<String> {
        self.0.refusal.lock().take()
    }

    /// Whether whoever gets the connection next could notice who had it before: pragmas were set, or there may be
    /// temporary objects.
    pub(super) fn is_marked(&self) -> bool {
        self.0.marked.load(Ordering::Relaxed)
    }

    /// The callback that SQLite asks about every action while it prepares a statement.
    pub(super) fn authorizer(
        &self,
        access: Access,
    ) -> impl for<'r> FnMut(AuthContext<'r>) -> Authorization + Send + 'static {
        let seen = self.clone();
        move |context| match refuse(&context.action, access) {
            None => {
                if marks(&context.action) {
                    seen.0.marked.store(true, Ordering::Relaxed);
                }
                Authorization::Allow
            }
            Some(why) => {
                *seen.0.refusal.lock() = Some(why);
                Authorization::Deny
            }
        }
    }
}

/// Whether something leaves a mark on the connection.
fn marks(action: &AuthAction<'_>) -> bool {
    match *action {
        AuthAction::Pragma { pragma_name, pragma_value } => {
            pragma_value.is_some() && !TELLING.iter().any(|known| pragma_name.eq_ignore_ascii_case(known))
        }
        // Whatever is made there is written down there.
        AuthAction::Insert { table_name } => {
            ["sqlite_temp_master", "sqlite_temp_schema"].iter().any(|t| table_name.eq_ignore_ascii_case(t))
        }
        _ => false,
    }
}

/// Pages as rows, writable: a way around every other rule here.
const RAW_PAGES: &str = "sqlite_dbpage";

fn refuse(action: &AuthAction<'_>, access: Access) -> Option<String> {
    match *action {
        // VACUUM attaches a nameless temporary database; VACUUM INTO and ATTACH name a file.
        AuthAction::Attach { filename: "" } => None,
        AuthAction::Attach { .. } => Some("ATTACH and VACUUM INTO reach outside the database".into()),
        AuthAction::Detach { .. } => Some("DETACH is not available".into()),
        AuthAction::Function { function_name } if function_name.eq_ignore_ascii_case("load_extension") => {
            Some("load_extension is not available".into())
        }
        AuthAction::CreateVtable { module_name, .. } if module_name.eq_ignore_ascii_case(RAW_PAGES) => {
            Some(format!("{RAW_PAGES} is not available"))
        }
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
            if table_name.eq_ignore_ascii_case(RAW_PAGES) =>
        {
            Some(format!("{RAW_PAGES} is not available"))
        }
        AuthAction::Pragma { pragma_name, pragma_value } => refuse_pragma(pragma_name, pragma_value, access),
        AuthAction::Unknown { code: rusqlite::ffi::SQLITE_ATTACH, .. } => {
            Some("ATTACH and VACUUM INTO reach outside the database".into())
        }
        // A code that this list does not know is newer than it; 'copy' is no longer used by SQLite.
        AuthAction::Unknown { code, .. } => Some(format!("the action {code} is not known to this server")),
        _ => None,
    }
}

/// Pragmas that only tell something; what stands behind `=` or in parentheses says about what.
const TELLING: &[&str] = &[
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "foreign_key_check",
    "collation_list",
    "database_list",
    "function_list",
    "module_list",
    "pragma_list",
    "compile_options",
    "integrity_check",
    "quick_check",
    "data_version",
    "freelist_count",
    "page_count",
];

/// Pragmas about the client's own database or its own connection: read and set.
const SETTABLE: &[&str] = &[
    "user_version",
    "application_id",
    "foreign_keys",
    "defer_foreign_keys",
    "ignore_check_constraints",
    "recursive_triggers",
    "case_sensitive_like",
    "automatic_index",
    "reverse_unordered_selects",
    "cell_size_check",
    "analysis_limit",
    "legacy_alter_table",
    "full_column_names",
    "short_column_names",
    "empty_result_callbacks",
    "count_changes",
    "optimize",
    "incremental_vacuum",
    "shrink_memory",
];

/// Pragmas that the server manages: read only.
const MANAGED: &[&str] = &[
    "journal_mode",
    "journal_size_limit",
    "page_size",
    "max_page_count",
    "synchronous",
    "fullfsync",
    "checkpoint_fullfsync",
    "locking_mode",
    "auto_vacuum",
    "encoding",
    "wal_autocheckpoint",
    "cache_size",
    "cache_spill",
    "mmap_size",
    "temp_store",
    "secure_delete",
    "busy_timeout",
    "schema_version",
    "query_only",
    "read_uncommitted",
    "trusted_schema",
    "writable_schema",
];

fn refuse_pragma(name: &str, value: Option<&str>, access: Access) -> Option<String> {
    let is_in = |list: &[&str]| list.iter().any(|known| name.eq_ignore_ascii_case(known));
    if is_in(TELLING) {
        return None;
    }
    if is_in(SETTABLE) {
        // Without an argument these two write as well.
        let writes = value.is_some() || ["optimize", "incremental_vacuum"].contains(&name);
        let persistent = ["user_version", "application_id", "optimize", "incremental_vacuum"];
        if access == Access::ReadOnly && writes && persistent.iter().any(|p| name.eq_ignore_ascii_case(p)) {
            return Some(format!("PRAGMA {name} changes the database, and this access is read-only"));
        }
        return None;
    }
    if is_in(MANAGED) {
        return value
            .map(|value| format!("PRAGMA {name} = {value}: the server manages {name}; it can only be read"));
    }
    Some(format!("PRAGMA {name} is not available on a hosted database"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pragma_is_in_two_lists() {
        let mut all: Vec<_> = TELLING.iter().chain(SETTABLE).chain(MANAGED).collect();
        let before = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), before);
    }
}
