//! How this process lives in a fleet: reports to the system that places encoders, and requests to neighbours. Whether
//! the encoder takes a stream is decided by `probes`, which also answers a platform's own probes.

pub(crate) mod agones;
pub(crate) mod neighbour;
pub(crate) mod resolve;
pub(crate) mod sidecar;

use std::net::{Ipv4Addr, SocketAddr};

/// The system that keeps free encoders ready and needs a report of their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// No system, or one that reads probes and metrics (Kubernetes).
    None,
    /// Agones, which is reached through its sidecar at this address.
    Agones(SocketAddr),
}

impl Engine {
    /// Agones, with its sidecar at the port in the environment variable `AGONES_SDK_GRPC_PORT`, which Agones sets;
    /// 9357 if the variable is not set.
    pub(crate) fn agones_from_env() -> Result<Self, String> {
        let port = match std::env::var("AGONES_SDK_GRPC_PORT") {
            Ok(port) => port.parse().map_err(|_| format!("AGONES_SDK_GRPC_PORT is not a port: {port}"))?,
            Err(_) => sidecar::DEFAULT_PORT,
        };
        Ok(Self::Agones(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
    }
}
