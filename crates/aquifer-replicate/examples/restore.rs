//! Restores the latest revision: `restore STORE NAME FILE`, replacing FILE if it exists.

use std::error::Error;

use aquifer_log::store::{Store, StoreUrl};
use aquifer_replicate::restore::{Existing, Outcome, Restorer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, name, output] = arguments.as_slice() else {
        return Err("usage: restore STORE NAME FILE".into());
    };
    let store = Store::open(&store.parse::<StoreUrl>()?)?;
    let restorer = Restorer::new(store, name.parse()?, output).existing(Existing::Replace);
    if let Outcome::Restored(done) = restorer.restore().await? {
        println!("{} ({} pages) in {:.3} s", done.revision, done.pages, done.duration.as_secs_f64());
    }
    Ok(())
}
