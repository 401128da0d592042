//! What a user does next who has come this far: told on stderr, and to people alone.

use std::path::Path;

use aquifer_log::DatabaseName;
use aquifer_migrate::Origin;

use crate::config;
use crate::session::Session;

/// After a backup was restored into a file.
pub(crate) fn after_restore(session: &Session, origin: Origin, url: &str, output: &Path) {
    let (store, file) = (store_option(session), output.display());
    let Some(name) = output.file_name().and_then(|name| name.to_str()) else { return };
    tell(
        session,
        &format!(
            "next: `aquifer replicate {file}{store}` backs it up from now on. Before that, `aquifer import --from {origin} {url} \
             {name}{store}` takes over what else the backup can restore"
        ),
    );
}

/// After a backup was imported.
pub(crate) fn after_import(session: &Session, name: &DatabaseName) {
    let store = store_option(session);
    tell(
        session,
        &format!(
            "next: `aquifer replicate FILE --name {name}{store}` goes on from here with the database in FILE, `aquifer \
             restore {name} -o FILE{store}` makes that file first"
        ),
    );
}

fn tell(session: &Session, text: &str) {
    if !session.output.json {
        session.remark(text);
    }
}

/// What says again where the store is, if the command line said it.
fn store_option(session: &Session) -> String {
    let store = &session.settings.store;
    match store.origin {
        config::Origin::CommandLine => format!(" --store '{}'", store.value),
        _ => String::new(),
    }
}
