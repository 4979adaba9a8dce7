//! How a running `transcode` is shown: two lines that move on a terminal, and log lines where standard error is none.

use crate::inspect::Inspector;
use crate::logging::{nonzero, rounded};
use crate::status::StageDelays;
use crate::stream::StreamCore;
use crate::stream::driver::SharedCore;
use indicatif::{ProgressBar, ProgressStyle};
use media::MediaSpan;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tracing::info;

/// How often the line moves.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// How often a line is logged where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Rates are measured over at least this long.
const RATE_OVER: Duration = Duration::from_secs(2);
/// The shortest and longest delays of interest, in seconds: of the encoder and of the output.
const SHOWN_STAGES: [&str; 4] = ["arrived", "encoded", "packaged", "stored"];

/// Shows the progress of a stream.
pub(super) struct ProgressLine {
    bar: Option<ProgressBar>,
    began: Instant,
    last_line: Instant,
    /// Where the rates are measured from: time, seconds of media, pictures and bytes.
    mark: (Instant, f64, u64, u64),
    rates: Rates,
}

/// What is measured over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    /// Seconds of media in a second.
    speed: f64,
    /// Pictures of the input in a second.
    pictures: f64,
    /// Bits of the input in a second of media.
    bits_in: f64,
}

/// What one line says.
#[derive(Clone, Debug, Default)]
struct Figures {
    /// Seconds of media so far.
    seconds: f64,
    /// Pictures that came, and pictures that were encoded over all rungs.
    pictures: (u64, u64),
    rates: Rates,
    /// Bits of all renditions in a second.
    bits_out: f64,
    /// Stages and the greatest age of their media in seconds; empty for files.
    delays: Vec<(String, f64)>,
    repairs: u64,
    dropped: u64,
}

impl ProgressLine {
    /// A line for an input whose duration is known, or not.
    pub(super) fn new(duration: Option<MediaSpan>) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| bar(duration));
        Self { bar, began: now, last_line: now, mark: (now, 0.0, 0, 0), rates: Rates::default() }
    }

    /// Shows the present state.
    pub(super) fn show(&mut self, core: &SharedCore, inspector: &Inspector) {
        let now = Instant::now();
        let (seconds, (pictures, bytes)) = (inspector.seconds(), inspector.progress());
        let (at, mark_seconds, mark_pictures, mark_bytes) = self.mark;
        let age = now.saturating_duration_since(at);
        if age >= RATE_OVER {
            let media = seconds - mark_seconds;
            self.rates = Rates {
                speed: media / age.as_secs_f64(),
                pictures: pictures.saturating_sub(mark_pictures) as f64 / age.as_secs_f64(),
                bits_in: if media > 0.0 {
                    bytes.saturating_sub(mark_bytes) as f64 * 8.0 / media
                } else {
                    0.0
                },
            };
            self.mark = (now, seconds, pictures, bytes);
        }
        let line_due = now.saturating_duration_since(self.last_line) >= LINE_EVERY;
        if self.bar.is_none() && !line_due {
            return;
        }
        let figures = self.figures(core, inspector, seconds, pictures);
        match &self.bar {
            Some(bar) => {
                bar.set_position((seconds * 1_000.0).max(0.0) as u64);
                let (rates, health) = figures.lines();
                bar.set_message(rates);
                bar.set_prefix(health);
                bar.tick();
            }
            None => {
                self.last_line = now;
                figures.log();
            }
        }
    }

    fn figures(&self, core: &SharedCore, inspector: &Inspector, seconds: f64, pictures: u64) -> Figures {
        let (output, _) = core.output().status();
        let (encoded, delays, counters) =
            core.look(|core: &StreamCore| (core.progress().encoded, core.delays().status(), core.counters()));
        Figures {
            seconds,
            pictures: (pictures, encoded),
            rates: self.rates,
            bits_out: output.values().map(|rung| rung.bits_per_second).sum(),
            delays: worst(&delays),
            repairs: inspector.repairs(),
            dropped: counters.shed_units,
        }
    }

    /// Takes the line away, and returns how long it was there.
    pub(super) fn finish(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.began.elapsed()
    }
}

impl Figures {
    /// Two lines for a terminal of eighty characters: rates, and what can go wrong.
    fn lines(&self) -> (String, String) {
        let (came, encoded) = self.pictures;
        let Rates { speed, pictures, bits_in } = self.rates;
        let rates = format!(
            "{} {speed:.2}x, {came} frames, {pictures:.1}/s, {encoded} encoded, {} in, {} kbit/s out",
            clock(self.seconds),
            kbits(bits_in),
            kbits(self.bits_out)
        );
        let mut health: Vec<String> =
            self.delays.iter().map(|(stage, age)| format!("{stage} {age:.2} s")).collect();
        health.push(format!("{} repairs", self.repairs));
        if self.dropped > 0 {
            health.push(format!("{} dropped", self.dropped));
        }
        (rates, health.join(", "))
    }

    fn log(&self) {
        let (pictures, encoded) = self.pictures;
        let delays: Vec<String> =
            self.delays.iter().map(|(stage, age)| format!("{stage}={age:.2}")).collect();
        let delays_seconds = (!delays.is_empty()).then(|| delays.join(" "));
        info!(
            media_seconds = rounded(self.seconds),
            speed = rounded(self.rates.speed),
            pictures,
            encoded,
            in_kbps = kbits(self.rates.bits_in),
            out_kbps = kbits(self.bits_out),
            delays_seconds,
            repairs = nonzero(self.repairs),
            dropped = nonzero(self.dropped),
            "encoding"
        );
    }
}

/// The greatest age of the last seconds at each stage.
fn worst(delays: &[StageDelays]) -> Vec<(String, f64)> {
    let shown = delays.iter().filter(|stage| SHOWN_STAGES.contains(&stage.stage.as_str()));
    shown
        .filter_map(|stage| {
            let ages = stage.rungs.values().map(|rung| rung.last_seconds);
            Some((stage.stage.clone(), ages.reduce(f64::max)?))
        })
        .collect()
}

fn kbits(bits: f64) -> u64 {
    (bits / 1_000.0).round().max(0.0) as u64
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

fn bar(duration: Option<MediaSpan>) -> ProgressBar {
    let (bar, style) = match duration {
        Some(duration) => (
            ProgressBar::new(duration.to_duration().as_millis() as u64),
            "[{bar:10}] {percent}% {wide_msg}\n  {prefix}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {wide_msg}\n  {prefix}"),
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let figures = Figures {
            seconds: 3_725.4,
            pictures: (900, 2_700),
            rates: Rates { speed: 1.0, pictures: 30.0, bits_in: 3_000_400.0 },
            bits_out: 4_500_000.0,
            delays: vec![("encoded".into(), 0.42)],
            repairs: 2,
            dropped: 0,
        };
        let (rates, health) = figures.lines();
        assert_eq!(rates, "01:02:05 1.00x, 900 frames, 30.0/s, 2700 encoded, 3000 in, 4500 kbit/s out");
        assert!(rates.len() < 78);
        assert_eq!(health, "encoded 0.42 s, 2 repairs");
        assert!(Figures { dropped: 3, ..figures }.lines().1.ends_with("3 dropped"));
        assert_eq!(clock(-1.0), "00:00:00");
    }
}
