//! Follows all encoders over the network: the sockets and the clock of [`Roll`].

use super::roll::Roll;
use super::survey::Survey;
use crate::fleet::neighbour::{Neighbour, NeighbourError};
use crate::fleet::resolve::{self, Resolved};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::debug;

/// Time-out of a question, equal to a kubelet's default time-out for a readiness probe.
const PATIENCE: Duration = Duration::from_secs(1);
/// Interval between two look-ups of the names: a cluster's DNS is cached for 5 to 30 s.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);
/// Interval in which the survey is reported even without news.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// News that wait; an encoder with more of them waits itself.
const NEWS: usize = 256;

enum News {
    Ready(SocketAddr, bool),
    Ended(SocketAddr, Result<(), NeighbourError>),
}

/// Follows the encoders at these admin ports (`HOST:PORT`; a host name stands for all its addresses), and reports what is
/// known of them with each change, and twice a second at least. Does not return.
pub(super) async fn follow(encoders: Vec<String>, mut report: impl FnMut(Survey)) {
    let mut roll = Roll::default();
    let mut followed = Followed::default();
    let (news, mut heard) = mpsc::channel(NEWS);
    let (found, mut names) = mpsc::channel(1);
    let _look_ups = Aborted(tokio::spawn(look_up(encoders, found)).abort_handle());
    let mut reports = interval(REPORT_EVERY);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = Instant::now();
        while let Some(address) = roll.next(now) {
            followed.start(address, news.clone());
        }
        let next = roll.next_at(now);
        let due = pin!(async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        });
        let before = roll.survey().standing();
        tokio::select! {
            () = due => {}
            Some(resolved) = names.recv() => {
                for gone in roll.resolve(resolved) {
                    followed.stop(gone);
                }
            }
            Some(news) = heard.recv() => match news {
                News::Ready(address, ready) => roll.told(address, ready),
                News::Ended(address, how) => {
                    if let Err(error) = &how {
                        debug!(%address, %error, "encoder does not answer");
                    }
                    roll.ended(address, how.is_err(), Instant::now());
                }
            },
            _ = reports.tick() => report(roll.survey()),
        }
        let survey = roll.survey();
        if survey.standing() != before {
            report(survey);
        }
    }
}

async fn look_up(encoders: Vec<String>, found: mpsc::Sender<Resolved>) {
    let mut look_ups = interval(LOOK_UP_EVERY);
    look_ups.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut warned = false;
    loop {
        look_ups.tick().await;
        let resolved = resolve::addresses(&encoders, warned).await;
        warned = resolved.nameless + resolved.cut_off > 0;
        if found.send(resolved).await.is_err() {
            return;
        }
    }
}

/// The tasks that follow an encoder each. Dropping this value ends them.
#[derive(Default)]
struct Followed {
    tasks: JoinSet<()>,
    handles: HashMap<SocketAddr, AbortHandle>,
}

impl Followed {
    fn start(&mut self, address: SocketAddr, news: mpsc::Sender<News>) {
        // Ended tasks leave the set, so that its size is the number of followed encoders.
        while self.tasks.try_join_next().is_some() {}
        let task = self.tasks.spawn(async move {
            let how = listen(address, &news).await;
            // The receiver is gone when the lobby leaves.
            let _ = news.send(News::Ended(address, how)).await;
        });
        if let Some(before) = self.handles.insert(address, task) {
            before.abort();
        }
    }

    fn stop(&mut self, address: SocketAddr) {
        if let Some(task) = self.handles.remove(&address) {
            task.abort();
        }
    }
}

async fn listen(address: SocketAddr, news: &mpsc::Sender<News>) -> Result<(), NeighbourError> {
    let mut neighbour = Neighbour::ask(address, PATIENCE).await?;
    while let Some(ready) = neighbour.next().await? {
        if news.send(News::Ready(address, ready)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Ends a task when it is dropped.
struct Aborted(AbortHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
