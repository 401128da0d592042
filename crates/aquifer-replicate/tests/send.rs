//! What a program runs in tasks of its own can be sent to them.

use aquifer_log::Store;
use aquifer_replicate::Replicator;
use aquifer_replicate::follow::FollowBuilder;
use aquifer_replicate::restore::Restorer;

fn assert_send<T: Send>(_: T) {}

#[tokio::test]
async fn futures_can_be_sent_to_other_threads() {
    let store = Store::open(&"memory://".parse().expect("a URL")).expect("in memory");
    let name: aquifer_log::DatabaseName = "app".parse().expect("a name");
    assert_send(Restorer::new(store.clone(), name.clone(), "app.db").restore());
    assert_send(FollowBuilder::new(store.clone(), name.clone(), "app.db").start());
    let replicator = Replicator::builder(store).start();
    assert_send(replicator.sync_database(&name));
    assert_send(replicator.shutdown());
}
