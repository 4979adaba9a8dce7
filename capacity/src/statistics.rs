//! Estimates from several runs with different seeds.

/// The mean of some runs and the half width of its 95 % confidence interval (Student's t). The half width is infinite
/// for a single run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The interval is `mean` ± this.
    pub half_width: f64,
}

/// Student's t: the 97.5 % quantile for 1 to 30 degrees of freedom.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Estimates from one value for each run.
#[must_use]
pub fn estimate(values: &[f64]) -> Estimate {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() < 2 {
        return Estimate { mean, half_width: f64::INFINITY };
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    // From 31 degrees on the quantile for 30 is at most 4 % too large.
    let t = T[(values.len() - 2).min(T.len() - 1)];
    Estimate { mean, half_width: t * (variance / count).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_that_of_the_textbook() {
        // Mean 5, standard deviation 2, eight values: 2.365 × 2 / √8, with the sample's deviation of 2.138.
        let found = estimate(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert!((found.mean - 5.0).abs() < 1e-9 && (found.half_width - 1.7878).abs() < 1e-3, "{found:?}");
        assert!(estimate(&[1.0]).half_width.is_infinite());
    }
}
