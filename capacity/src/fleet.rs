//! What is simulated: publishers, streams, pods, and the control loop that starts and removes pods.
//!
//! What happens to a fleet is in [`crate::simulation`]; the two ways in which deploy/ scales have a constructor each.

use crate::distribution::{Distribution, StartTime};
use std::time::Duration;

/// A fleet of encoders. Each encoder is a pod and carries one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// Who publishes.
    pub publishers: Publishers,
    /// How long a stream lasts.
    pub stream: Distribution,
    /// How long a pod stays busy after its stream: the encoder's reconnect window.
    pub hold: Duration,
    /// How long a new pod takes until it takes a publisher.
    pub start: StartTime,
    /// What becomes of a pod after its stream.
    pub after_stream: AfterStream,
    /// What starts and removes pods.
    pub control: Control,
    /// Pods that fit on a node, 1 or more.
    pub pods_per_node: u32,
    /// How long the balancer still sends publishers to a pod that has just been taken. These publishers are refused.
    /// Zero for a balancer that tries the next pod, such as HAProxy with `option redispatch`.
    pub rotation_lag: Duration,
}

impl Fleet {
    /// Mean number of busy pods, in a fleet that refuses nobody, at the publishers' mean rate.
    #[must_use]
    pub fn mean_busy(&self) -> f64 {
        self.publishers.rate * (self.stream.mean() + self.hold).as_secs_f64()
    }
}

/// Publishers arrive as a Poisson process.
#[derive(Clone, Debug, PartialEq)]
pub struct Publishers {
    /// Mean arrivals a second.
    pub rate: f64,
    /// The rate in each hour of the day, as a multiple of `rate`. None: the rate is constant.
    pub hourly: Option<[f64; 24]>,
    /// Further publishers in a short time.
    pub spike: Option<Spike>,
    /// What a refused publisher does. None: the publisher is lost.
    pub retry: Option<Retry>,
}

impl Publishers {
    /// Publishers of `streams` concurrent streams of this mean length, at a constant rate and without retries.
    #[must_use]
    pub fn of(streams: u32, mean: Duration) -> Self {
        Self { rate: f64::from(streams) / mean.as_secs_f64(), hourly: None, spike: None, retry: None }
    }
}

/// The rate of publishers in each hour of a day with a quiet night and a busy evening, as a multiple of the mean rate.
pub const USUAL_DAY: [f64; 24] = [
    0.6, 0.4, 0.3, 0.2, 0.2, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.8, 2.1, 2.2,
    2.0, 1.6, 1.1,
];

/// "A match begins": publishers who arrive in addition to the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// When it begins, from the start of the simulation.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// The mean number of additional publishers.
    pub publishers: f64,
}

/// What a refused publisher does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The pause before each retry.
    pub after: Duration,
    /// Retries until the publisher is lost.
    pub times: u32,
}

/// What becomes of a pod after its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterStream {
    /// The pod is free again (`--recycle-after 0` in a Deployment).
    Recycle,
    /// The pod ends; a new pod takes its place where the number of pods stays the same (`--recycle-after 1`, Agones).
    Replace,
}

/// The control loop. It wants `per_busy` × (busy pods) + `buffer` pods, and a set of replicas keeps that number of pods
/// without a delay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Control {
    /// Interval between decisions. Zero: a decision at each change.
    pub every: Duration,
    /// How old the number of busy pods is on which a decision is based; `every` at most.
    pub metric_age: Duration,
    /// Wanted pods for each busy pod.
    pub per_busy: f64,
    /// Wanted pods in addition.
    pub buffer: u32,
    /// Changes within this share of the present number of pods are ignored.
    pub tolerance: f64,
    /// How much may be added in one decision. None: any number.
    pub growth: Option<Growth>,
    /// How pods are removed.
    pub shrinking: Shrinking,
}

/// The larger of both bounds counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The number of pods at most, as a multiple of the present number.
    pub factor: f64,
    /// Added pods at most.
    pub pods: u32,
}

/// How pods are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shrinking {
    /// For how long fewer pods must have been wanted. Without an interval between decisions, pods above the wanted
    /// number leave at the first change after this time.
    pub after: Duration,
    /// Pods removed in one decision at most. None: any number.
    pub at_most: Option<u32>,
    /// The shortest time between two decisions that remove pods.
    pub pause: Duration,
    /// Which pods are removed.
    pub removal: Removal,
}

/// Which pods are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Starting or free pods, at random (Agones: those on the emptiest node). Busy pods stay.
    Waiting,
    /// Starting pods, then busy pods, then free pods (a ReplicaSet: pods that are not ready). A removed busy pod
    /// finishes its stream and leaves.
    NotReadyFirst,
}

impl Control {
    /// The ideal that the formulas describe: a replacement is asked for at the moment at which a pod is taken.
    #[must_use]
    pub fn at_once(buffer: u32) -> Self {
        Self {
            every: Duration::ZERO,
            metric_age: Duration::ZERO,
            per_busy: 1.0,
            buffer,
            tolerance: 0.0,
            growth: None,
            shrinking: Shrinking {
                after: Duration::ZERO,
                at_most: None,
                pause: Duration::ZERO,
                removal: Removal::Waiting,
            },
        }
    }

    /// deploy/overlays/agones: a FleetAutoscaler with a buffer, every ten seconds.
    #[must_use]
    pub fn agones(buffer: u32) -> Self {
        Self { every: Duration::from_secs(10), ..Self::at_once(buffer) }
    }

    /// deploy/overlays/autoscale: KEDA and a HorizontalPodAutoscaler on `1.15 * busy + buffer`.
    #[must_use]
    pub fn autoscale(buffer: u32) -> Self {
        Self {
            every: Duration::from_secs(15),
            // A scrape and a poll, each every five seconds.
            metric_age: Duration::from_secs(10),
            per_busy: 1.15,
            buffer,
            tolerance: 0.1,
            growth: Some(Growth { factor: 2.0, pods: 10 }),
            shrinking: Shrinking {
                after: Duration::from_secs(900),
                at_most: Some(1),
                pause: Duration::from_secs(60),
                removal: Removal::NotReadyFirst,
            },
        }
    }

    /// Wanted pods for this number of busy pods.
    #[must_use]
    pub fn wanted(&self, busy: u32) -> u32 {
        // A little less than the product's rounding error, so that 1.0 × 7 + 2 is 9.
        (self.per_busy * f64::from(busy) + f64::from(self.buffer) - 1e-9).ceil() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_day_has_the_mean_rate() {
        assert!((USUAL_DAY.iter().sum::<f64>() - 24.0).abs() < 1e-9, "{}", USUAL_DAY.iter().sum::<f64>());
    }

    #[test]
    fn wanted_pods_are_whole_and_never_too_few() {
        assert_eq!(Control::agones(2).wanted(7), 9);
        assert_eq!(Control::autoscale(2).wanted(100), 117);
        assert_eq!(Control::autoscale(2).wanted(1), 4);
    }
}
