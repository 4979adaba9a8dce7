//! Waiting until a time that may not be set: what drivers of sans-IO cores do between two looks at them.

use tokio::time::Instant;

/// Until `deadline`; for ever without one.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
