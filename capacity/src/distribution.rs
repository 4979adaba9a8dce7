//! Lengths of streams and start times of pods, drawn at random.

use fastrand::Rng;
use std::f64::consts::TAU;
use std::time::Duration;

/// A length of time that is drawn at random.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Always the same.
    Constant(Duration),
    /// Exponential with this mean.
    Exponential(Duration),
    /// Log-normal: many short lengths and few very long ones.
    LogNormal {
        /// The mean, not the median.
        mean: Duration,
        /// Standard deviation of the logarithm; 1.0 puts the median at 0.61 of the mean.
        sigma: f64,
    },
}

impl Distribution {
    /// The mean.
    #[must_use]
    pub fn mean(&self) -> Duration {
        match self {
            Self::Constant(mean) | Self::Exponential(mean) | Self::LogNormal { mean, .. } => *mean,
        }
    }

    pub(crate) fn draw(&self, random: &mut Rng) -> Duration {
        match self {
            Self::Constant(length) => *length,
            Self::Exponential(mean) => mean.mul_f64(exponential(random)),
            // The mean of a log-normal variable is exp(mu + sigma²/2).
            Self::LogNormal { mean, sigma } => {
                mean.mul_f64((sigma * normal(random) - sigma * sigma / 2.0).exp())
            }
        }
    }

    /// Draws with a probability proportional to the length: so are the streams distributed that are on air at a given
    /// moment.
    fn draw_on_air(&self, random: &mut Rng) -> Duration {
        match self {
            Self::Constant(length) => *length,
            Self::Exponential(mean) => mean.mul_f64(exponential(random) + exponential(random)),
            Self::LogNormal { mean, sigma } => {
                mean.mul_f64((sigma * normal(random) + sigma * sigma / 2.0).exp())
            }
        }
    }

    /// Draws how long a pod stays busy that is busy at a given moment, when each stream keeps its pod for `hold` longer.
    pub(crate) fn draw_remaining(&self, hold: Duration, random: &mut Rng) -> Duration {
        let mean = self.mean().as_secs_f64();
        let in_stream = random.f64() * (mean + hold.as_secs_f64()) < mean;
        let whole = if in_stream { self.draw_on_air(random) } else { self.draw(random) } + hold;
        whole.mul_f64(random.f64())
    }
}

/// How long a pod takes from the request for it until it takes a publisher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StartTime {
    /// On a node that runs and has the image.
    pub warm: Distribution,
    /// On a node that has to be created first.
    pub cold: Distribution,
    /// The share of pods that start on a new node, 0 to 1.
    pub cold_share: f64,
}

impl StartTime {
    /// The same start time for every pod.
    #[must_use]
    pub fn constant(length: Duration) -> Self {
        let length = Distribution::Constant(length);
        Self { warm: length, cold: length, cold_share: 0.0 }
    }

    /// The mean over warm and cold starts.
    #[must_use]
    pub fn mean(&self) -> Duration {
        self.warm.mean().mul_f64(1.0 - self.cold_share) + self.cold.mean().mul_f64(self.cold_share)
    }

    pub(crate) fn draw(&self, random: &mut Rng) -> Duration {
        let cold = self.cold_share > 0.0 && random.f64() < self.cold_share;
        if cold { self.cold.draw(random) } else { self.warm.draw(random) }
    }
}

/// Exponential with mean 1.
pub(crate) fn exponential(random: &mut Rng) -> f64 {
    // `f64` is below 1, so the logarithm is finite.
    -(1.0 - random.f64()).ln()
}

/// Standard normal (Box-Muller).
fn normal(random: &mut Rng) -> f64 {
    (2.0 * exponential(random)).sqrt() * (TAU * random.f64()).cos()
}

/// Poisson with this mean: how many exponential gaps fit into it.
pub(crate) fn poisson(mean: f64, random: &mut Rng) -> u32 {
    let mut sum = exponential(random);
    let mut count = 0;
    while sum < mean {
        sum += exponential(random);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: Duration = Duration::from_secs(1800);

    fn mean_of(mut draw: impl FnMut(&mut Rng) -> Duration) -> f64 {
        let mut random = Rng::with_seed(7);
        let count = 200_000;
        (0..count).map(|_| draw(&mut random).as_secs_f64()).sum::<f64>() / f64::from(count)
    }

    #[test]
    fn draws_have_the_given_mean() {
        for distribution in [
            Distribution::Constant(MEAN),
            Distribution::Exponential(MEAN),
            Distribution::LogNormal { mean: MEAN, sigma: 1.0 },
        ] {
            let mean = mean_of(|random| distribution.draw(random));
            assert!((mean - 1800.0).abs() < 20.0, "{distribution:?}: {mean}");
        }
    }

    /// The mean remaining time is E\[D²\] / 2 E\[D\] (renewal theory).
    #[test]
    fn remaining_times_are_those_of_renewal_theory() {
        let hold = Duration::from_secs(200);
        for (distribution, square) in [
            (Distribution::Constant(MEAN), 1800.0_f64.powi(2)),
            (Distribution::Exponential(MEAN), 2.0 * 1800.0_f64.powi(2)),
            (Distribution::LogNormal { mean: MEAN, sigma: 0.7 }, 1800.0_f64.powi(2) * 0.49_f64.exp()),
        ] {
            let wanted = (square + 2.0 * 1800.0 * 200.0 + 200.0 * 200.0) / (2.0 * 2000.0);
            let mean = mean_of(|random| distribution.draw_remaining(hold, random));
            assert!((mean / wanted - 1.0).abs() < 0.02, "{distribution:?}: {mean}, wanted {wanted}");
        }
    }
}
