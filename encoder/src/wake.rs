//! Waits for an optional deadline: used by the drivers of sans-IO cores between two calls of their core.

use tokio::time::Instant;

/// Waits until `deadline`; never returns without one.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
