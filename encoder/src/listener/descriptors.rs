//! Shares the process's file descriptors out: what the encoder needs for its own work is kept back, strangers get the
//! rest. So probes, publishers and workers get their descriptors however many viewers there are.

use super::PASSING;

/// Kept back for the admin port: probes, scrapes and operators.
const ADMIN: usize = 64;
/// Kept back for the process: standard streams, listeners, the runtime, signals, log, the store's client, the fleet.
const PROCESS: usize = 64;
/// Kept back for each stream: the publisher's socket; three runs with a worker each, which takes three pipes, a pidfd
/// and, while it starts, the other ends; 16 uploads at a time as files or connections; 8 for the spool and the archive.
const PER_STREAM: usize = 1 + 3 * 7 + 16 + 8;
/// Most viewers per port.
const MAX_VIEWERS: usize = 8192;
/// Most publishers per port that wait for admission.
const MAX_WAITING: usize = 256;
/// Least that a port gets, even if the limit is too low for the capacity.
const MIN_VIEWERS: usize = 64;
const MIN_WAITING: usize = 16;

/// Bounds of connections, per port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections of viewers.
    pub(crate) viewers: usize,
    /// Connections that wait to publish.
    pub(crate) waiting: usize,
    /// Whether the limit leaves every port its least share.
    pub(crate) suffices: bool,
}

/// Shares `limit` descriptors out, with `capacity` streams at the same time. Publishers that wait get an eighth of what
/// is left: they are fewer, and their connections short.
pub(crate) fn shares(limit: u64, capacity: u32, viewer_ports: usize, publisher_ports: usize) -> Shares {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (viewer_ports, publisher_ports) = (viewer_ports.max(1), publisher_ports.max(1));
    let kept = ADMIN + PROCESS + PER_STREAM * capacity as usize + PASSING * (viewer_ports + publisher_ports);
    let left = limit.saturating_sub(kept);
    let waiting = (left / 8 / publisher_ports).min(MAX_WAITING);
    let viewers = ((left - waiting * publisher_ports) / viewer_ports).min(MAX_VIEWERS);
    Shares {
        viewers: viewers.max(MIN_VIEWERS),
        waiting: waiting.max(MIN_WAITING),
        suffices: viewers >= MIN_VIEWERS && waiting >= MIN_WAITING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_get_what_the_encoder_does_not_need() {
        let share = |limit, capacity| shares(limit, capacity, 1, 1);
        assert_eq!(share(1 << 20, 1), Shares { viewers: 8192, waiting: 256, suffices: true });
        assert_eq!(share(u64::MAX, 1000), Shares { viewers: 8192, waiting: 256, suffices: true });
        let low = share(1024, 1);
        assert!(
            low.suffices && (600..800).contains(&low.viewers) && (50..256).contains(&low.waiting),
            "{low:?}"
        );
        assert_eq!(share(1024, 100), Shares { viewers: 64, waiting: 16, suffices: false });
        let four = shares(4096, 4, 2, 2);
        assert!(2 * (four.viewers + four.waiting + 2 * PASSING) + 4 * PER_STREAM + ADMIN + PROCESS <= 4096);
    }
}
