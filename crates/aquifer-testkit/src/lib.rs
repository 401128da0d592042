//! What Aquifer's own tests and benches use: a fault store, an S3 server, a faulty proxy, workload generators, a model

pub mod app;
pub mod fault_store;
pub mod proxy;
pub mod s3_server;
pub mod workload;
