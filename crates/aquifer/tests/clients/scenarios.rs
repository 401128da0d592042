//! Which client goes through which scenario; the scripts say what happens in each.

use crate::installed::Runtime;
use crate::stage::Stage;

/// Runs a scenario of a script, if its clients are installed.
fn run(runtime: Runtime, script: &str, client: &str, scenario: &str) {
    if let Some(mut command) = runtime.command(script) {
        Stage::new().run(command.args([client, scenario]));
    }
}

macro_rules! scenarios {
    ($($module:ident: $runtime:ident $script:literal $client:literal { $($scenario:ident)+ })+) => { $(
        mod $module {
            $(#[test]
            fn $scenario() {
                super::run(super::Runtime::$runtime, $script, $client, stringify!($scenario));
            })+
        }
    )+ };
}

scenarios! {
    libsql_client_over_http: Node "sql.mjs" "http" {
        values_come_back_as_they_were_written
        a_batch_is_all_or_nothing
        a_transaction_is_seen_by_others_when_it_commits
        a_writer_who_waits_in_vain_is_told_that_it_is_busy
        a_restarted_server_is_found_again
        a_server_that_does_not_have_the_database_passes_everything_on
        a_hundred_thousand_rows_are_read
        a_wrong_token_is_refused
    }
    libsql_client_over_websocket: Node "sql.mjs" "ws" {
        values_come_back_as_they_were_written
        a_batch_is_all_or_nothing
        a_transaction_is_seen_by_others_when_it_commits
        a_writer_who_waits_in_vain_is_told_that_it_is_busy
        a_restarted_server_is_found_again
        a_server_that_does_not_have_the_database_passes_everything_on
        a_hundred_thousand_rows_are_read
        a_wrong_token_is_refused
    }
    libsql_for_python: Python "sql.py" "libsql" {
        values_come_back_as_they_were_written
        a_transaction_is_seen_by_others_when_it_commits
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_read
        a_wrong_token_is_refused
    }
    libsql_for_rust: Rust "sql" "libsql" {
        values_come_back_as_they_were_written
        a_batch_is_all_or_nothing
        a_transaction_is_seen_by_others_when_it_commits
        a_writer_who_waits_in_vain_is_told_that_it_is_busy
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_read
        a_wrong_token_is_refused
    }
    tursodatabase_serverless: Node "sql.mjs" "serverless" {
        values_come_back_as_they_were_written
        a_batch_is_all_or_nothing
        a_transaction_is_seen_by_others_when_it_commits
        a_writer_who_waits_in_vain_is_told_that_it_is_busy
        a_restarted_server_is_found_again
        a_server_that_does_not_have_the_database_passes_everything_on
        a_hundred_thousand_rows_are_read
        a_wrong_token_is_refused
    }
    clients_of_all_kinds_at_random: Node "converge.mjs" "1" {
        all_have_the_same_in_the_end
        all_have_the_same_after_a_restart
    }
    clients_of_all_kinds_at_random_again: Node "converge.mjs" "2" {
        all_have_the_same_in_the_end
        all_have_the_same_after_a_restart
    }
    one_database_of_our_client_and_others: Python "interop.py" "1" {
        all_have_the_same_in_the_end
        all_have_the_same_also_who_watches
        all_have_the_same_also_who_sends_pages
    }
    clients_for_rust_at_random: Rust "converge" "1" {
        all_have_the_same_in_the_end
        all_have_the_same_after_a_restart
    }
    clients_for_rust_at_random_again: Rust "converge" "2" {
        all_have_the_same_in_the_end
        all_have_the_same_after_a_restart
    }
    tursodatabase_sync: Node "sync.mjs" "sync" {
        what_one_pushes_the_other_pulls
        what_the_server_refuses_is_kept_for_all_to_see
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_bootstrapped
        a_wrong_token_is_refused
        faults_lose_nothing_and_repeat_nothing
    }
    pyturso: Python "sync.py" "pyturso" {
        what_one_pushes_the_other_pulls
        what_the_server_refuses_is_kept_for_all_to_see
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_bootstrapped
        a_wrong_token_is_refused
        faults_lose_nothing_and_repeat_nothing
    }
    turso_for_rust: Rust "sync" "turso" {
        what_one_pushes_the_other_pulls
        what_the_server_refuses_is_kept_for_all_to_see
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_bootstrapped
        a_wrong_token_is_refused
        faults_lose_nothing_and_repeat_nothing
    }
    libsql_offline: Node "offline.mjs" "libsql" {
        what_one_pushes_the_other_pulls
        what_conflicts_is_refused_and_nothing_of_it_is_written
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_bootstrapped
        a_wrong_token_is_refused
        a_replica_reads_its_own_writes
    }
    libsql_offline_for_rust: Rust "offline" "libsql" {
        what_one_pushes_the_other_pulls
        what_conflicts_is_refused_and_nothing_of_it_is_written
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_bootstrapped
        a_wrong_token_is_refused
        a_replica_reads_its_own_writes
    }
    libsql_offline_for_python: Python "offline.py" "libsql" {
        what_one_pushes_the_other_pulls
        a_file_that_aquifer_syncs_as_pages_becomes_the_same
        a_copy_is_taken_over_by_aquifer_with_what_it_has_not_pushed
        what_conflicts_is_refused_and_nothing_of_it_is_written
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_bootstrapped
        a_wrong_token_is_refused
    }
}
