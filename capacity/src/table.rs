//! Tables in Markdown, and figures in them.

use crate::statistics::Estimate;

/// A table in Markdown.
pub(crate) fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(header.len()));
    let rows: String = rows.iter().map(|row| line(row)).collect();
    line(&header) + &rule + &rows
}

/// A share in per cent, with the digits that matter.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    format!("{percent:.0$} %", decimals(percent))
}

/// A share in per cent with its confidence interval.
pub(crate) fn percent_within(estimate: Estimate) -> String {
    let (mean, half_width) = (estimate.mean * 100.0, estimate.half_width * 100.0);
    // One digit at least of the half width.
    let decimals = decimals(mean).max(decimals(half_width * 10.0));
    format!("{mean:.decimals$} ± {half_width:.decimals$} %")
}

/// Decimals for two digits or more; three decimals at most.
fn decimals(value: f64) -> usize {
    match value.abs() {
        large if large >= 9.95 => 0,
        medium if medium >= 0.995 => 1,
        small if small >= 0.0995 => 2,
        tiny if tiny > 0.0 => 3,
        _zero => 0,
    }
}

/// A whole number with commas between thousands.
pub(crate) fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_digits_that_matter() {
        let shares = [0.0, 0.00004, 0.0012, 0.0123, 0.123, 1.0].map(percent);
        assert_eq!(shares, ["0 %", "0.004 %", "0.12 %", "1.2 %", "12 %", "100 %"]);
        assert_eq!(percent_within(Estimate { mean: 0.0098, half_width: 0.0004 }), "0.98 ± 0.04 %");
        assert_eq!(percent_within(Estimate { mean: 0.011, half_width: 0.0003 }), "1.10 ± 0.03 %");
        assert_eq!([1.0, 999.6, 12345.0, 1234567.0].map(whole), ["1", "1,000", "12,345", "1,234,567"]);
    }

    #[test]
    fn a_table_is_markdown() {
        let rows = [vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(markdown(&["a", "b"], &rows), "| a | b |\n|---|---|\n| 1 | 2 |\n");
    }
}
