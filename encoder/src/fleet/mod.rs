//! How this process lives in a fleet: what it tells the engine that places encoders, and how it asks its neighbours.
//! Whether it takes a stream is decided by `probes`; what a platform asks of it is answered there, too.

pub mod agones;
pub mod neighbour;
pub mod sidecar;

use std::net::{Ipv4Addr, SocketAddr};

/// Who keeps free encoders waiting, and wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Nobody, or somebody who looks at probes and metrics (Kubernetes).
    None,
    /// Agones: it is told through its sidecar, which listens here.
    Agones(SocketAddr),
}

impl Engine {
    /// Agones, with its sidecar at the port that Agones puts into the environment (`AGONES_SDK_GRPC_PORT`; 9357 where
    /// it does not).
    pub fn agones_from_env() -> Result<Self, String> {
        let port = match std::env::var("AGONES_SDK_GRPC_PORT") {
            Ok(port) => port.parse().map_err(|_| format!("AGONES_SDK_GRPC_PORT is not a port: {port}"))?,
            Err(_) => sidecar::DEFAULT_PORT,
        };
        Ok(Self::Agones(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
    }
}
