//! Databases that no disk has room for: told before anything is written, whatever they are made of.

use aquifer_migrate::MigrateError;

use crate::bad_input::imported;
use crate::bucket::Bucket;
use crate::generator::{Generation, Kind, Ltx, put_03};
use crate::hostile::refused;
use crate::live::Live;

/// 256 TiB.
const PAGES: u32 = u32::MAX - 1;

/// The first page of a database of so many of 64 KiB. What follows is not there: nobody gets to that.
fn huge() -> Vec<u8> {
    let live = Live::new(65_536);
    live.insert(1, 100);
    let mut page = live.image()[..65_536].to_vec();
    page[28..32].copy_from_slice(&PAGES.to_be_bytes());
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_no_disk_holds_is_refused_before_it_is_made() {
    let (snapshot, generation) = (Bucket::empty(), Generation::begun(0));
    generation.snapshot(&snapshot, Kind::Zstd, &huge());
    let litestream_03 = Bucket::empty();
    put_03(&litestream_03, "snapshots/00000000.snapshot", &huge());
    let zlayer = Bucket::empty();
    zlayer.put("app/snapshots/20261120_100000.sqlite.zst", &Kind::Zstd.pack(&huge()));
    let ltx = Bucket::empty();
    Ltx { commit: PAGES, ..Ltx::between(&[], &huge(), 65_536, 1) }.put(&ltx, 9);
    for bucket in [snapshot, litestream_03, zlayer, ltx] {
        // That neither leaves a file is looked at there.
        for error in [refused(&bucket).await, imported(&bucket).await.unwrap_err()] {
            let MigrateError::NoRoom { key, .. } = &error else { panic!("{error}") };
            assert!(bucket.path().join(key.as_str()).exists());
            assert!(error.to_string().contains("it takes 268435456 MiB"), "{error}");
        }
    }
}
