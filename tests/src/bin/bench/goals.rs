//! The goals, and whether the measurements meet them.

/// Judged figures, in order of measurement.
#[derive(Debug, Default)]
pub(crate) struct Goals {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    measured: String,
    goal: String,
    met: bool,
}

impl Goals {
    /// Adds a figure that must be `limit` or less.
    pub(crate) fn at_most(&mut self, what: &str, measured: f64, limit: f64) {
        self.rows.push(Row {
            what: what.to_owned(),
            measured: format!("{measured:.2}"),
            goal: format!("at most {limit:.2}"),
            met: measured <= limit,
        });
    }

    /// Adds a score that must not be below the other contender's, compared at the printed precision.
    pub(crate) fn not_below(&mut self, what: &str, measured: f64, theirs: f64, digits: usize) {
        let (measured, theirs) = (format!("{measured:.digits$}"), format!("{theirs:.digits$}"));
        let met = measured.parse::<f64>().ok() >= theirs.parse::<f64>().ok();
        self.rows.push(Row { what: what.to_owned(), measured, goal: format!("at least {theirs}"), met });
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!("\n### Goals\n\n| | measured | goal | met |\n|---|---|---|---|");
        for Row { what, measured, goal, met } in &self.rows {
            println!("| {what} | {measured} | {goal} | {} |", if *met { "yes" } else { "**no**" });
        }
    }
}
