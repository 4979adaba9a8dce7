//! Closed formulas. Loads are in erlangs: mean arrivals during one service. Here a service is the start of a pod that
//! replaces a taken pod, so that the load is (publishers a second) × (start time in seconds).

/// The share of arrivals that a loss system with `servers` servers refuses (Erlang B). The service times may have any
/// distribution.
///
/// For a fleet: the share of refused publishers with a buffer of `servers` pods, when a replacement is asked for at the
/// moment at which a pod is taken, and refused publishers do not come back.
#[must_use]
pub fn erlang_b(load: f64, servers: u32) -> f64 {
    (1..=servers).fold(1.0, |refused, server| load * refused / (f64::from(server) + load * refused))
}

/// The probability that a Poisson variable with this mean is `least` or more.
///
/// For a fleet: the share of time in which `least` or more replacements are under way, when nobody is refused.
#[must_use]
pub fn poisson_tail(mean: f64, least: u32) -> f64 {
    if least == 0 || mean <= 0.0 {
        return f64::from(u8::from(least == 0));
    }
    let log_factorial: f64 = (1..=least).map(|factor| f64::from(factor).ln()).sum();
    let mut term = (f64::from(least) * mean.ln() - mean - log_factorial).exp();
    let mut tail = 0.0;
    let mut count = f64::from(least);
    // The terms grow up to the mean and shrink after it.
    while count <= mean || term > tail * f64::EPSILON {
        tail += term;
        count += 1.0;
        term *= mean / count;
    }
    tail.min(1.0)
}

/// The smallest number for which `refused` is at most `goal`. `refused` must fall to zero.
#[must_use]
pub fn least(goal: f64, refused: impl Fn(u32) -> f64) -> u32 {
    let mut high = 1;
    while refused(high) > goal {
        high *= 2;
    }
    let mut low = 0;
    while low < high {
        let middle = (low + high) / 2;
        if refused(middle) > goal { low = middle + 1 } else { high = middle }
    }
    low
}

/// The share of publishers that a balancer sends to a pod which was taken less than `lag_seconds` ago, when it
/// chooses among `free` free pods and these at random.
#[must_use]
pub fn refused_by_lag(rate: f64, lag_seconds: f64, free: f64) -> f64 {
    let stale = rate * lag_seconds;
    stale / (free + stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from printed tables of Erlang B.
    #[test]
    fn erlang_b_is_that_of_the_tables() {
        for (load, servers, refused) in [
            (1.0, 1, 0.5),
            (1.0, 2, 0.2),
            (4.461, 10, 0.01),
            (84.064, 100, 0.01),
            (2.0, 0, 1.0),
            (0.0, 3, 0.0),
        ] {
            let computed = erlang_b(load, servers);
            assert!((computed - refused).abs() < 2e-5, "{load} erlangs, {servers} servers: {computed}");
        }
    }

    #[test]
    fn poisson_tails_are_those_of_the_tables() {
        let direct = |mean: f64, least: u32| {
            let mut term = (-mean).exp();
            let mut below = 0.0;
            for count in 0..least {
                below += term;
                term *= mean / f64::from(count + 1);
            }
            1.0 - below
        };
        for (mean, least) in [(0.5, 1), (3.0, 2), (3.0, 8), (50.0, 40), (50.0, 70), (10.0, 0)] {
            let computed = poisson_tail(mean, least);
            assert!((computed - direct(mean, least)).abs() < 1e-9, "{mean}, {least}: {computed}");
        }
        assert!(poisson_tail(500.0, 600) < 1e-4 && poisson_tail(500.0, 600) > 1e-6);
        assert!((poisson_tail(0.0, 3)).abs() < f64::EPSILON);
    }

    #[test]
    fn a_buffer_that_refuses_nobody_is_larger_than_one_that_refuses() {
        for load in [0.3, 5.0, 50.0, 500.0] {
            for goal in [0.01, 0.001, 0.0001] {
                let lossy = least(goal, |buffer| erlang_b(load, buffer));
                assert!(erlang_b(load, lossy) <= goal && erlang_b(load, lossy - 1) > goal);
                assert!(least(goal, |buffer| poisson_tail(load, buffer)) >= lossy);
            }
        }
    }
}
