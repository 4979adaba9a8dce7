//! The bucket answers only errors for a while: the cost in memory, and the fate of the segments.

use crate::contenders::{EncoderRun, slow};
use std::time::{Duration, Instant};
use tests::encoder_process::Encoder;
use tests::gcs::{Fault, Operation};
use tests::patience::pause;

/// Interval between two memory samples. Each makes the kernel walk all pages.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Number of samples that count as "before".
const BEFORE: usize = 20;
/// Longest wait for everything to be stored after the outage.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The supervisor's memory at one moment in KiB. The worker does not use the store.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    pss: u64,
    rss: u64,
}

impl Sample {
    fn max(self, other: Self) -> Self {
        Self { pss: self.pss.max(other.pss), rss: self.rss.max(other.rss) }
    }
}

/// Memory samples in order.
#[derive(Debug, Default)]
pub(crate) struct Memory(Vec<Sample>);

impl Memory {
    /// Takes one sample, then pauses for one interval.
    pub(crate) fn look(&mut self, encoder: &Encoder) {
        let stat = encoder.stat();
        self.0.push(Sample { pss: stat.pss_kib, rss: stat.rss_kib });
        pause(LOOK_EVERY);
    }

    /// Maximum of the last `last` samples.
    fn peak(&self, last: usize) -> Sample {
        self.0.iter().rev().take(last).fold(Sample::default(), |peak, sample| peak.max(*sample))
    }
}

/// Results of an outage.
pub(crate) struct Outage {
    before: Sample,
    away: Sample,
    after: Sample,
    waiting_bytes: f64,
    gaps: f64,
    late: f64,
    lost: f64,
    /// Time from the bucket's return until no segment waited any more; `None` after [`LONGEST_WAIT`].
    caught_up: Option<Duration>,
}

/// Makes the bucket fail during a running stream.
pub(crate) fn outage(run: &EncoderRun, before: &Memory, call: Duration, length: Duration) -> Outage {
    eprintln!("bench-store: the bucket is away");
    let (encoder, fake) = (&run.encoder, &run.fake);
    let mut waiting_bytes = 0.0_f64;
    let mut waiting = || {
        let now = encoder.metric("encoder_store_waiting_bytes", &[]);
        waiting_bytes = waiting_bytes.max(now);
        now
    };
    fake.set_rule(|asked| match asked.operation {
        Operation::Public => Fault::None,
        _ => Fault::Status(503),
    });
    let (mut away, mut after) = (Memory::default(), Memory::default());
    let begin = Instant::now();
    while begin.elapsed() < length {
        away.look(encoder);
        waiting();
    }
    slow(fake, call);
    let back = Instant::now();
    let stored =
        || encoder.metric("encoder_store_late_total", &[]) + encoder.metric("encoder_store_lost_total", &[]);
    let gaps = || encoder.metric("encoder_store_gaps_total", &[]);
    let caught_up = loop {
        after.look(encoder);
        waiting();
        if stored() >= gaps() {
            break Some(back.elapsed());
        }
        if back.elapsed() > LONGEST_WAIT {
            break None;
        }
    };
    Outage {
        before: before.peak(BEFORE),
        away: away.peak(usize::MAX),
        after: after.peak(usize::MAX),
        waiting_bytes,
        gaps: gaps(),
        late: encoder.metric("encoder_store_late_total", &[]),
        lost: encoder.metric("encoder_store_lost_total", &[]),
        caught_up,
    }
}

impl Outage {
    /// Prints the table.
    pub(crate) fn print(&self) {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let line = |name: &str, of: fn(&Sample) -> u64| {
            let [before, away, after] = [&self.before, &self.away, &self.after].map(|sample| mib(of(sample)));
            println!("| {name} | {before:.0} MiB | {away:.0} MiB | {after:.0} MiB |");
        };
        println!("| supervisor, at most | before | while away | until all was stored |\n|---|---|---|---|");
        line("PSS", |sample| sample.pss);
        line("RSS", |sample| sample.rss);
        let caught_up = self.caught_up.map_or("not within a minute".to_owned(), |took| {
            format!("{:.1} s after it was back", took.as_secs_f64())
        });
        println!(
            "\n{:.1} MiB waited at most; {:.0} gaps, {:.0} of them stored later, {:.0} lost; all stored {caught_up}.",
            self.waiting_bytes / f64::from(1 << 20),
            self.gaps,
            self.late,
            self.lost
        );
    }
}
