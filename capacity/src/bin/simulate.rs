//! Prints the tables of docs/scale.md, or simulates one fleet (`simulate fleet --help`).

use capacity::document::with_tables;
use capacity::formulas::erlang_b;
use capacity::search::{least_buffer, over, simulate_seeds};
use capacity::{
    AfterStream, Control, Distribution, Estimate, Fleet, Outcome, Period, Publishers, Retry, Spike,
    StartTime, USUAL_DAY,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

/// Simulates a fleet of encoders: how many free encoders it needs, so that few publishers are refused.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the tables of docs/scale.md (the default).
    Tables(TablesOptions),
    /// Simulates one fleet with a given buffer, or looks for the least buffer for a goal.
    Fleet(FleetOptions),
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    /// A replacement is asked for at the moment at which an encoder is taken: the case of the formulas.
    AtOnce,
    /// deploy/overlays/agones.
    Agones,
    /// deploy/overlays/autoscale.
    Autoscale,
}

#[derive(Args, Default)]
struct TablesOptions {
    /// Writes the tables into this document, between their marks, instead of printing them.
    #[arg(long)]
    into: Option<PathBuf>,
}

#[derive(Args)]
struct FleetOptions {
    /// Mean number of concurrent streams.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    streams: u32,
    /// Mean length of a stream, in minutes.
    #[arg(long, default_value_t = 30.0, value_parser = positive)]
    stream_minutes: f64,
    /// Spread of the lengths: standard deviation of their logarithm; 0 makes all streams equally long.
    #[arg(long, default_value_t = 1.0, value_parser = not_negative)]
    stream_sigma: f64,
    /// How long an encoder stays busy after its stream, in seconds: its --reconnect-window.
    #[arg(long, default_value_t = 30.0, value_parser = not_negative)]
    hold_seconds: f64,
    /// From the request for a pod to a ready encoder, in seconds, on a node that runs.
    #[arg(long, default_value_t = 30.0, value_parser = not_negative)]
    start_seconds: f64,
    /// The same on a node that has to be created.
    #[arg(long, default_value_t = 90.0, value_parser = not_negative)]
    cold_start_seconds: f64,
    /// Share of pods that start on a new node, in per cent.
    #[arg(long, default_value_t = 0.0, value_parser = per_cent)]
    cold_percent: f64,
    /// What starts and removes encoders.
    #[arg(long, value_enum, default_value = "agones")]
    policy: Policy,
    /// Interval between decisions, in seconds, instead of the policy's.
    #[arg(long, value_parser = positive)]
    every_seconds: Option<f64>,
    /// Free encoders beside the busy ones.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    buffer: u32,
    /// Looks for the least buffer with which at most this share of publishers is refused, in per cent. The search
    /// begins at --buffer.
    #[arg(long, value_parser = per_cent)]
    goal_percent: Option<f64>,
    /// Pause before a refused publisher tries again, in seconds.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    retry_seconds: f64,
    /// Retries of a refused publisher; 0: a refused publisher is lost.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    retries: u32,
    /// For how long the balancer sends publishers to an encoder that has just been taken, in seconds.
    #[arg(long, default_value_t = 0.0, value_parser = not_negative)]
    lag_seconds: f64,
    /// The rate follows a day with a quiet night and a busy evening, and one such day is counted for each seed.
    #[arg(long, conflicts_with = "spike_percent")]
    usual_day: bool,
    /// Additional publishers of a spike, in per cent of the concurrent streams. Only the publishers of the spike's
    /// time are counted then.
    #[arg(long, default_value_t = 0.0, value_parser = not_negative)]
    spike_percent: f64,
    /// How long the spike lasts, in minutes.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    spike_minutes: f64,
    /// Encoders that fit on a node.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pods_per_node: u32,
    /// Simulated publishers of each seed.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    publishers: u32,
    /// Number of seeds; the confidence intervals come from their differences.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=1_000))]
    seeds: u64,
}

/// The largest number that an option takes; as seconds it is a month.
const LARGEST: f64 = 2_600_000.0;

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(format!("must be {least} to {most}")) }
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, 0.001, LARGEST)
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, 0.0, LARGEST)
}

fn per_cent(text: &str) -> Result<f64, String> {
    number(text, 0.0, 100.0)
}

impl FleetOptions {
    fn fleet(&self) -> Fleet {
        let mean = Duration::from_secs_f64(self.stream_minutes * 60.0);
        let (mut control, after_stream) = match self.policy {
            Policy::AtOnce => (Control::at_once(self.buffer), AfterStream::Replace),
            Policy::Agones => (Control::agones(self.buffer), AfterStream::Replace),
            Policy::Autoscale => (Control::autoscale(self.buffer), AfterStream::Recycle),
        };
        if let Some(every) = self.every_seconds.map(Duration::from_secs_f64) {
            control.every = every;
            control.metric_age = control.metric_age.min(every);
        }
        let mut publishers = Publishers::of(self.streams, mean);
        publishers.retry = (self.retries > 0)
            .then(|| Retry { after: Duration::from_secs_f64(self.retry_seconds), times: self.retries });
        publishers.spike = self.spike();
        publishers.hourly = self.usual_day.then_some(USUAL_DAY);
        Fleet {
            publishers,
            stream: Distribution::LogNormal { mean, sigma: self.stream_sigma },
            hold: Duration::from_secs_f64(self.hold_seconds),
            start: StartTime {
                warm: Distribution::Constant(Duration::from_secs_f64(self.start_seconds)),
                cold: Distribution::Constant(Duration::from_secs_f64(self.cold_start_seconds)),
                cold_share: self.cold_percent / 100.0,
            },
            after_stream,
            control,
            pods_per_node: self.pods_per_node,
            rotation_lag: Duration::from_secs_f64(self.lag_seconds),
        }
    }

    /// Starts that were under way at the beginning are over after this time.
    fn settling(&self) -> Duration {
        Duration::from_secs_f64(600.0 + 3.0 * self.start_seconds.max(self.cold_start_seconds))
    }

    fn spike(&self) -> Option<Spike> {
        (self.spike_percent > 0.0).then(|| Spike {
            at: self.settling(),
            lasts: Duration::from_secs_f64(self.spike_minutes * 60.0),
            publishers: f64::from(self.streams) * self.spike_percent / 100.0,
        })
    }

    fn period(&self, fleet: &Fleet) -> Period {
        let period = Period::of_publishers(fleet, self.publishers, self.settling());
        if self.usual_day {
            // In the first hours the fleet has not yet followed the rate.
            let hours = |hours: u64| Duration::from_secs(hours * 3600);
            return Period { from: hours(4), until: hours(28), ..period };
        }
        fleet.publishers.spike.map_or(period, |spike| Period { until: spike.at + spike.lasts, ..period })
    }
}

/// What the formula says, where there is one.
fn formula(fleet: &Fleet) -> Option<String> {
    let publishers = &fleet.publishers;
    let steady = publishers.retry.is_none() && publishers.spike.is_none() && publishers.hourly.is_none();
    let ideal = fleet.control == Control::at_once(fleet.control.buffer);
    (steady && ideal && fleet.rotation_lag.is_zero()).then(|| {
        let load = publishers.rate * fleet.start.mean().as_secs_f64();
        let refused = erlang_b(load, fleet.control.buffer) * 100.0;
        format!("{:34}{refused:.3} %\n", "found no free encoder: Erlang B")
    })
}

fn describe(buffer: u32, outcomes: &[Outcome]) -> String {
    let percent =
        |Estimate { mean, half_width }| format!("{:.3} ± {:.3} %", mean * 100.0, half_width * 100.0);
    let pods = |Estimate { mean, half_width }| format!("{mean:.1} ± {half_width:.1}");
    let longest = outcomes.iter().map(|outcome| outcome.longest_wait).max().unwrap_or_default();
    let lines = [
        ("buffer", buffer.to_string()),
        ("found no free encoder at first", percent(over(outcomes, Outcome::share_found_none))),
        ("sent to a taken encoder at first", percent(over(outcomes, Outcome::share_found_taken))),
        ("lost", percent(over(outcomes, Outcome::share_lost))),
        ("mean wait of those who waited, s", pods(over(outcomes, Outcome::mean_wait))),
        ("longest wait, s", longest.as_secs().to_string()),
        ("free encoders", pods(over(outcomes, |outcome| outcome.free))),
        ("busy encoders", pods(over(outcomes, |outcome| outcome.busy))),
        ("encoders", pods(over(outcomes, |outcome| outcome.pods))),
        ("nodes", pods(over(outcomes, |outcome| outcome.nodes))),
    ];
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:34}{value}");
        text
    })
}

fn tables(options: &TablesOptions) -> io::Result<String> {
    let sections = capacity::report::sections();
    let Some(path) = &options.into else {
        return Ok(sections.iter().map(|(name, table)| format!("## {name}\n\n{table}\n")).collect());
    };
    let document = fs::read_to_string(path)?;
    fs::write(path, with_tables(&document, &sections).map_err(io::Error::other)?)?;
    Ok(String::new())
}

fn main() -> io::Result<()> {
    let text = match Cli::parse().command.unwrap_or(Command::Tables(TablesOptions::default())) {
        Command::Tables(options) => tables(&options)?,
        Command::Fleet(options) => {
            let mut fleet = options.fleet();
            let period = options.period(&fleet);
            let (buffer, outcomes) = match options.goal_percent {
                Some(goal) => least_buffer(&fleet, period, options.seeds, goal / 100.0, options.buffer),
                None => (options.buffer, simulate_seeds(&fleet, period, options.seeds)),
            };
            fleet.control.buffer = buffer;
            describe(buffer, &outcomes) + &formula(&fleet).unwrap_or_default()
        }
    };
    io::stdout().write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn options_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_fleet_that_asks_at_once_has_a_formula_beside_it() {
        let parse = |extra: &str| {
            let words = "simulate fleet --policy at-once --streams 360 --buffer 6".split(' ');
            let extra = extra.split(' ').filter(|word| !word.is_empty());
            match Cli::parse_from(words.chain(extra)).command {
                Some(Command::Fleet(options)) => options.fleet(),
                Some(Command::Tables(_)) | None => panic!("the command is `fleet`"),
            }
        };
        // Six erlangs, six servers.
        assert!(formula(&parse("")).unwrap().contains("26.492 %"), "{:?}", formula(&parse("")));
        for extra in
            ["--retries 1", "--lag-seconds 1", "--every-seconds 5", "--spike-percent 10", "--usual-day"]
        {
            assert_eq!(formula(&parse(extra)), None, "{extra}");
        }
    }
}
