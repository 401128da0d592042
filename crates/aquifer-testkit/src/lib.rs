//! What Aquifer's own tests and benches use: a fault store, an S3 server, workload generators, a model

pub mod app;
pub mod fault_store;
pub mod s3_server;
pub mod workload;
