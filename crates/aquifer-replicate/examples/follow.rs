//! Keeps a standby at the latest revision: `follow STORE NAME FILE`, until it is stopped.

use std::error::Error;
use std::time::Duration;

use aquifer_log::store::{Store, StoreUrl};
use aquifer_replicate::follow::{FollowBuilder, FollowEvent};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, name, file] = arguments.as_slice() else {
        return Err("usage: follow STORE NAME FILE".into());
    };
    let store = Store::open(&store.parse::<StoreUrl>()?)?;
    let mut follower = FollowBuilder::new(store, name.parse()?, file).start().await?;
    let report = |event: FollowEvent<'_>| match event {
        FollowEvent::Followed(step) => println!("{}", step.revision),
        FollowEvent::Waiting(error) => eprintln!("waiting: {error}"),
        _ => {}
    };
    match follower.run(Duration::from_millis(20), report).await? {}
}
