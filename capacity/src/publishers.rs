//! When publishers arrive.

use crate::distribution::exponential;
use crate::fleet::Publishers;
use fastrand::Rng;
use std::time::Duration;

const HOUR: u64 = 3600;

/// The rate at this time, in publishers a second.
fn rate(publishers: &Publishers, at: Duration) -> f64 {
    let hour = (at.as_secs() / HOUR % 24) as usize;
    let usual = publishers.rate * publishers.hourly.map_or(1.0, |hourly| hourly[hour]);
    let spike = publishers.spike.filter(|spike| spike.at <= at && at < spike.at + spike.lasts);
    usual + spike.map_or(0.0, |spike| spike.publishers / spike.lasts.as_secs_f64())
}

/// The highest rate at any time.
fn highest_rate(publishers: &Publishers) -> f64 {
    let usual = publishers.hourly.map_or(1.0, |hourly| hourly.into_iter().fold(0.0, f64::max));
    publishers.rate * usual
        + publishers.spike.map_or(0.0, |spike| spike.publishers / spike.lasts.as_secs_f64())
}

/// The first arrival after this time: arrivals at the highest rate, of which a share is kept that follows the rate.
pub(crate) fn next_arrival(publishers: &Publishers, after: Duration, random: &mut Rng) -> Duration {
    let highest = highest_rate(publishers);
    let constant = publishers.hourly.is_none() && publishers.spike.is_none();
    let mut at = after;
    loop {
        at += Duration::from_secs_f64(exponential(random) / highest);
        if constant || random.f64() * highest < rate(publishers, at) {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Spike;

    #[test]
    fn arrivals_follow_the_hours_and_the_spike() {
        let mut hourly = [0.5; 24];
        hourly[1] = 2.0;
        let spike =
            Spike { at: Duration::from_secs(2 * HOUR), lasts: Duration::from_secs(100), publishers: 5000.0 };
        let publishers = Publishers { rate: 1.0, hourly: Some(hourly), spike: Some(spike), retry: None };
        let mut random = Rng::with_seed(3);
        let mut counts = [0_u32; 3];
        let mut at = Duration::ZERO;
        loop {
            at = next_arrival(&publishers, at, &mut random);
            match counts.get_mut((at.as_secs() / HOUR) as usize) {
                Some(count) => *count += 1,
                None => break,
            }
        }
        assert!((1650..=1950).contains(&counts[0]), "{counts:?}");
        assert!((6900..=7500).contains(&counts[1]), "{counts:?}");
        assert!((6500..=7100).contains(&counts[2]), "{counts:?}");
    }
}
