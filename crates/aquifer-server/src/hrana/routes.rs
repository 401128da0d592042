use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};

use super::{Database, Hrana};
use crate::sql::Access;

/// Hrana's routes for one database, to be nested under any prefix. Every client may read and write.
///
/// A host that knows who calls mounts handlers of its own around [`super::pipeline()`] and [`super::cursor()`].
pub fn routes<D: Database>(hrana: Arc<Hrana<D>>) -> Router {
    let body_bytes = hrana.settings.body_bytes;
    Router::new()
        .route("/v2", get(StatusCode::OK))
        .route("/v3", get(StatusCode::OK))
        // Clients probe for protobuf first and take JSON then.
        .route("/v3-protobuf", get(StatusCode::NOT_FOUND))
        .route("/v2/pipeline", post(pipeline::<D>))
        .route("/v3/pipeline", post(pipeline::<D>))
        .route("/v3/cursor", post(cursor::<D>))
        .layer(DefaultBodyLimit::max(body_bytes))
        .with_state(hrana)
}

async fn pipeline<D: Database>(State(hrana): State<Arc<Hrana<D>>>, body: Bytes) -> axum::response::Response {
    super::pipeline(&hrana, Access::ReadWrite, &body).await
}

async fn cursor<D: Database>(State(hrana): State<Arc<Hrana<D>>>, body: Bytes) -> axum::response::Response {
    super::cursor(&hrana, Access::ReadWrite, &body).await
}
