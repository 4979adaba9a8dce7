//! A publisher as the input of a command: listens at the URL, hands the one publisher's media on, and ends with it or
//! with a signal.

use crate::config::input::AwaitedPublisher;
use crate::fault::Fault;
use crate::ingest::single::{SingleAdmission, SinglePublisher, SingleStage};
use crate::ingest::tls::Listener;
use crate::ingest::{self, ServerOptions};
use crate::listener::ListenerSettings;
use crate::shutdown::{Shutdown, ShutdownStage};
use rtmp::Refusal;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// How long publishers that were refused get to read the reason, after the stream.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The listener and the signals.
pub(super) struct LiveInput {
    single: Arc<SinglePublisher>,
    stage: watch::Receiver<SingleStage>,
    shutdown: Shutdown,
    stop: watch::Sender<bool>,
    server: JoinHandle<ingest::Publishers>,
}

impl LiveInput {
    /// Listens for the publisher, and for signals from now on.
    ///
    /// # Errors
    /// The address cannot be bound, or signals cannot be watched.
    pub(super) async fn listen(
        awaited: &AwaitedPublisher,
        single: Arc<SinglePublisher>,
    ) -> Result<Self, Fault> {
        let shutdown = Shutdown::listen()
            .map_err(|error| Fault::Machine { what: "cannot watch signals", why: error.to_string() })?;
        let address = awaited.address;
        let socket = TcpListener::bind(address).await.map_err(|error| Fault::Listen {
            flag: "INPUT",
            address,
            error,
        })?;
        if !awaited.is_local {
            warn!("other machines reach this address (--publish-anyone): who knows the key may publish");
        }
        info!(url = %awaited, "waiting for a publisher; Ctrl-C ends");
        let (stop, mut stopped) = watch::channel(false);
        let listener = Listener { socket, tls: None, settings: ListenerSettings::direct("rtmp") };
        let options = ServerOptions { key_paths: true, max_waiting: 16, ..ServerOptions::default() };
        let admission = Arc::new(SingleAdmission(single.clone()));
        let server = tokio::spawn(ingest::serve(listener, admission, options, async move {
            // A dropped sender stops the server as well.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }));
        Ok(Self { stage: single.stage(), single, shutdown, stop, server })
    }

    /// Waits for the publisher; `false` if a signal comes first.
    pub(super) async fn publisher(&self) -> bool {
        let mut stage = self.stage.clone();
        let came = stage.wait_for(|stage| *stage != SingleStage::Awaited);
        tokio::select! {
            came = came => came.is_ok(),
            () = self.shutdown.reached(ShutdownStage::Draining) => false,
        }
    }

    /// Waits for the end of the publish, or for the signal to end it, which the publisher is told.
    pub(super) async fn end(&self) {
        let mut stage = self.stage.clone();
        let over = stage.wait_for(|stage| matches!(stage, SingleStage::Over(_)));
        tokio::select! {
            // The publisher keeps the sender.
            _ = over => return,
            () = self.shutdown.reached(ShutdownStage::Draining) => {}
        }
        self.single.end(Refusal::EndedByOperator("the command that listens here was interrupted".into()));
        let over = stage.wait_for(|stage| matches!(stage, SingleStage::Over(_)));
        tokio::time::timeout(LAST_WORDS, over).await.ok();
    }

    /// Waits for a second signal, after which nothing is waited for.
    pub(super) async fn interrupted_again(&self) {
        self.shutdown.reached(ShutdownStage::Leaving).await;
    }

    /// Why the publisher was sent off, if its media was the cause.
    pub(super) fn cause(&self) -> Option<String> {
        match &*self.stage.borrow() {
            SingleStage::Over(cause) => cause.clone(),
            SingleStage::Awaited | SingleStage::Published => None,
        }
    }

    /// Stops listening; connections that are open get a moment to hear their reason.
    pub(super) async fn close(self) {
        self.stop.send_replace(true);
        let goodbyes = async {
            if let Ok(publishers) = self.server.await {
                publishers.finished().await;
            }
        };
        tokio::time::timeout(LAST_WORDS, goodbyes).await.ok();
    }
}
