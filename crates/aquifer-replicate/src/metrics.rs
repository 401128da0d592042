//! What replicas and their store have to tell, as Prometheus reads it.

use std::fmt::{Display, Write};

use aquifer_log::Store;

use crate::status::ReplicaStatus;

/// A page in Prometheus' text format, as it is written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// The content type of the page.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

    /// Begins a metric: its name, `gauge`, `counter` or `histogram`, and what it tells. Its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A value, under labels whose names need no escaping.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (i, (label, of)) in labels.iter().enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            let of = of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{before}{label}=\"{of}\"");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }

    /// A metric of one value.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The page.
    pub fn finish(self) -> String {
        self.text
    }
}

/// A metric of a database.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&ReplicaStatus) -> f64,
    /// What several databases amount to; `None` where they amount to nothing.
    together: Option<fn(f64, f64) -> f64>,
}

const fn metric(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&ReplicaStatus) -> f64,
    together: Option<fn(f64, f64) -> f64>,
) -> Metric {
    Metric { name, kind, help, value, together }
}

const SUM: Option<fn(f64, f64) -> f64> = Some(|a, b| a + b);

const DATABASE_METRICS: [Metric; 8] = [
    metric(
        "aquifer_lag_seconds",
        "gauge",
        "Time that something committed has waited to be durable.",
        |s| s.lag().as_secs_f64(),
        Some(f64::max),
    ),
    metric(
        "aquifer_lag_txids",
        "gauge",
        "Batches captured and not yet durable.",
        |s| s.behind_txids as f64,
        SUM,
    ),
    metric(
        "aquifer_durable_txid",
        "gauge",
        "The last txid that is durable in the store.",
        |s| s.durable.map_or(0, |revision| revision.txid.get()) as f64,
        None,
    ),
    metric("aquifer_wal_bytes", "gauge", "Bytes of frames in the WAL.", |s| s.wal_bytes as f64, SUM),
    metric(
        "aquifer_staged_bytes",
        "gauge",
        "Bytes kept on disk until the store can be reached.",
        |s| s.staged_bytes as f64,
        SUM,
    ),
    metric(
        "aquifer_captured_bytes_total",
        "counter",
        "Bytes of WAL frames captured.",
        |s| s.captured_bytes as f64,
        SUM,
    ),
    metric(
        "aquifer_shipped_bytes_total",
        "counter",
        "Bytes of segments shipped.",
        |s| s.shipped_bytes as f64,
        SUM,
    ),
    metric("aquifer_errors_total", "counter", "Puts and other steps that failed.", |s| s.errors as f64, SUM),
];

/// The label of the databases that have none of their own.
const OTHERS: &str = "(others)";

/// How replicas do: the first `labelled` of them each under its name, the others together.
pub fn write_replicas(page: &mut Exposition, statuses: &[ReplicaStatus], labelled: usize) {
    let (named, others) = statuses.split_at(labelled.min(statuses.len()));
    for Metric { name, kind, help, value, together } in DATABASE_METRICS {
        page.family(name, kind, help);
        for status in named {
            page.sample(name, &[("database", status.name.as_str())], value(status));
        }
        if let Some(together) = together
            && let Some(value) = others.iter().map(value).reduce(together)
        {
            page.sample(name, &[("database", OTHERS)], value);
        }
    }
}

/// What was asked of a store, and whether it keeps writers apart.
pub fn write_store(page: &mut Exposition, store: &Store) {
    let counts = store.counts();
    page.family("aquifer_store_requests_total", "counter", "Requests sent to the store, by kind.");
    for (kind, count) in counts.by_kind() {
        page.sample("aquifer_store_requests_total", &[("kind", kind)], count);
    }
    page.single(
        "aquifer_store_retries_total",
        "counter",
        "Requests sent again after one that failed.",
        counts.retries,
    );
    page.family("aquifer_store_bytes_total", "counter", "Bytes of payload, by direction.");
    for (direction, bytes) in [("up", counts.bytes_up), ("down", counts.bytes_down)] {
        page.sample("aquifer_store_bytes_total", &[("direction", direction)], bytes);
    }
    let help = "1 if the store keeps two writers of one database apart.";
    page.single("aquifer_fencing", "gauge", help, u8::from(store.is_fenced()));
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn many_databases_have_few_labels_and_no_byte_is_left_out() {
        let statuses: Vec<ReplicaStatus> = (0..5)
            .map(|i| {
                let mut status = ReplicaStatus::new(format!("d{i}").parse().unwrap(), PathBuf::new());
                status.shipped_bytes = 1 << i;
                status
            })
            .collect();
        let mut page = Exposition::default();
        write_replicas(&mut page, &statuses, 2);
        let text = page.finish();
        let shipped: Vec<&str> =
            text.lines().filter(|line| line.starts_with("aquifer_shipped_bytes_total{")).collect();
        assert_eq!(
            shipped,
            [
                "aquifer_shipped_bytes_total{database=\"d0\"} 1",
                "aquifer_shipped_bytes_total{database=\"d1\"} 2",
                "aquifer_shipped_bytes_total{database=\"(others)\"} 28",
            ]
        );
        assert!(
            !text.contains("aquifer_durable_txid{database=\"(others)\"}"),
            "a sum of txids means nothing"
        );
    }

    #[test]
    fn no_name_breaks_out_of_its_label() {
        let mut page = Exposition::default();
        page.sample("m", &[("a", "x\"} 1\nm"), ("b", "\\")], 2);
        assert_eq!(page.finish(), "m{a=\"x\\\"} 1\\nm\",b=\"\\\\\"} 2\n");
    }
}
