//! Clients with addresses of their own on the loopback network: crowds of idle connections, and a way for programs that
//! cannot choose their address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// Forwards connections to a port from one address of the loopback network. Ends when dropped.
pub struct Forwarder {
    _runtime: Runtime,
    port: u16,
}

/// A runtime for crowds and forwarders.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads")
}

/// Connects to a local port from one address of the loopback network.
///
/// # Errors
/// As connect(2).
pub async fn connect(from: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((IpAddr::from(from), 0).into())?;
    socket.connect((Ipv4Addr::LOCALHOST, port).into()).await
}

impl Forwarder {
    /// Forwards to this local port.
    pub fn start(from: Ipv4Addr, to: u16) -> Self {
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let port = listener.local_addr().expect("a bound port has an address").port();
        runtime.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut server) = connect(from, to).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { _runtime: runtime, port }
    }

    /// The address to connect to.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}
