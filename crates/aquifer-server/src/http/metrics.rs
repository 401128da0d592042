//! What `/metrics` tells of a server. Made when it is asked for; only requests are counted as they happen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use aquifer_replicate::metrics::{Exposition, write_replicas, write_store};
use parking_lot::Mutex;

use super::Service;
use super::limits::Limit;

/// Databases that have labels of their own. The others are told together: thousands of label values are more than a
/// time-series database should be given by every server.
const LABELLED: usize = 100;

/// Upper bounds of the buckets of latencies, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Requests, as they happen.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    routes: Mutex<BTreeMap<&'static str, OfRoute>>,
    in_flight: AtomicI64,
    sent_bytes: AtomicU64,
    /// Requests that a limit refused, by [`Limit`].
    refused: [AtomicU64; Limit::ALL.len()],
    pushed_rejected: AtomicU64,
    /// Web sockets: of databases that are open here, and those that are passed on.
    sockets: [AtomicI64; 2],
}

/// Counts a WebSocket as open until it is dropped.
pub(super) struct OpenSocket(Arc<Service>, usize);

impl OpenSocket {
    /// Of a database of this server.
    pub(super) fn here(service: &Arc<Service>) -> OpenSocket {
        OpenSocket::new(service, 0)
    }

    /// Of one that another server has.
    pub(super) fn forwarded(service: &Arc<Service>) -> OpenSocket {
        OpenSocket::new(service, 1)
    }

    fn new(service: &Arc<Service>, kind: usize) -> OpenSocket {
        service.metrics.sockets[kind].fetch_add(1, Ordering::Relaxed);
        OpenSocket(Arc::clone(service), kind)
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.metrics.sockets[self.1].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests of one route. The names of routes are few, and so are statuses.
#[derive(Clone, Debug, Default)]
struct OfRoute {
    statuses: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

impl Metrics {
    pub(super) fn begun(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn over(&self, route: &'static str, status: u16, took: Duration, bytes: u64) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let mut routes = self.routes.lock();
        let of = routes.entry(route).or_default();
        *of.statuses.entry(status).or_default() += 1;
        of.count += 1;
        of.seconds += seconds;
        for (count, _) in of.buckets.iter_mut().zip(BUCKETS).filter(|(_, bound)| seconds <= *bound) {
            *count += 1;
        }
    }

    pub(super) fn refused(&self, limit: Limit) {
        self.refused[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Statements of pushes that were refused and kept, on a database that is being closed.
    pub(super) fn closed(&self, rejected: u64) {
        self.pushed_rejected.fetch_add(rejected, Ordering::Relaxed);
    }

    fn write(&self, page: &mut Exposition) {
        let routes = self.routes.lock().clone();
        page.family("aquifer_http_requests_total", "counter", "Requests answered, by route and status.");
        for (route, of) in &routes {
            for (status, count) in &of.statuses {
                let labels = [("route", *route), ("status", &status.to_string())];
                page.sample("aquifer_http_requests_total", &labels, count);
            }
        }
        let name = "aquifer_http_request_seconds";
        page.family(name, "histogram", "How long requests took, until the end of their answer.");
        for (route, of) in &routes {
            let bucket = "aquifer_http_request_seconds_bucket";
            for (bound, count) in BUCKETS.iter().zip(of.buckets) {
                page.sample(bucket, &[("route", route), ("le", &bound.to_string())], count);
            }
            page.sample(bucket, &[("route", route), ("le", "+Inf")], of.count);
            page.sample("aquifer_http_request_seconds_sum", &[("route", route)], of.seconds);
            page.sample("aquifer_http_request_seconds_count", &[("route", route)], of.count);
        }
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        page.single(
            "aquifer_http_requests_in_flight",
            "gauge",
            "Requests whose answer has not ended.",
            in_flight,
        );
        let sent = self.sent_bytes.load(Ordering::Relaxed);
        page.single("aquifer_http_sent_bytes_total", "counter", "Bytes of answers' bodies.", sent);
        let name = "aquifer_sockets";
        page.family(name, "gauge", "WebSockets that are open, of databases of this server and of others.");
        for (of, count) in ["this", "others"].iter().zip(&self.sockets) {
            page.sample(name, &[("server", of)], count.load(Ordering::Relaxed));
        }
        let name = "aquifer_http_refused_total";
        page.family(name, "counter", "Requests that a limit refused, by limit.");
        for limit in Limit::ALL {
            let count = self.refused[limit as usize].load(Ordering::Relaxed);
            page.sample(name, &[("limit", limit.name())], count);
        }
    }
}

/// The whole page.
pub(super) fn render(service: &Service) -> String {
    let mut page = Exposition::default();
    service.metrics.write(&mut page);
    let (mut streams, mut running, mut rejected) = (0, 0, 0);
    for open in service.streams.lock().values() {
        streams += open.hrana.open_streams();
        running += open.hrana.running_requests();
        rejected += open.hrana.rejected_statements();
    }
    rejected += service.metrics.pushed_rejected.load(Ordering::Relaxed);
    let sql = service.settings.observer.counts.get();
    page.single(
        "aquifer_sql_streams",
        "gauge",
        "Connections that clients hold, in a request or between two.",
        streams,
    );
    page.single(
        "aquifer_sql_running",
        "gauge",
        "Requests whose SQL runs, or waits for a lock or a reader.",
        running,
    );
    page.single("aquifer_sql_statements_total", "counter", "Statements that ran.", sql.statements);
    page.single("aquifer_sql_failed_total", "counter", "Statements that failed.", sql.failed);
    page.single(
        "aquifer_sql_slow_total",
        "counter",
        "Statements that the slow-query log tells of.",
        sql.slow,
    );
    page.family("aquifer_sql_rows_total", "counter", "Rows that statements read and wrote.");
    for (kind, rows) in [("read", sql.rows_read), ("written", sql.rows_written)] {
        page.sample("aquifer_sql_rows_total", &[("kind", kind)], rows);
    }
    page.single(
        "aquifer_push_rejected_total",
        "counter",
        "Statements of sync clients' pushes that were refused, and kept in aquifer_rejected.",
        rejected,
    );
    let statuses = service.hosts.status();
    page.single("aquifer_open_databases", "gauge", "Databases that are open here.", statuses.len());
    write_replicas(&mut page, &statuses, LABELLED);
    write_store(&mut page, service.hosts.store());
    page.finish()
}
