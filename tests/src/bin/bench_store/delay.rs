//! How soon a segment can be found in the bucket. The clock of a segment's last frame is read off the picture, so the
//! delay includes the publisher's own encoding; the time when a playlist first named the segment comes from the
//! bucket's journal, so nothing has to poll.

use crate::Row;
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::gcs::FakeGcs;
use tests::gcs::objects::{Entry, Objects};
use tests::{boxes, playlist};
use transcode::pattern::read_clock;

/// Picture size in pixels for reading the clock: large enough to be readable, small enough to decode fast.
const READ_AT: (usize, usize) = (640, 360);

/// Delays in seconds, ascending, and the number of missing segments.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    sorted: Vec<f64>,
    /// Segments of a rendition that no playlist ever named.
    pub(crate) missing: usize,
}

// === impl Delays ===

impl Delays {
    pub(crate) fn new(mut seconds: Vec<f64>, missing: usize) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self { sorted: seconds, missing }
    }

    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The quantile `part` (0 to 1) in seconds.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let index = (self.sorted.len().saturating_sub(1) as f64 * part).round() as usize;
        self.sorted.get(index).copied().unwrap_or(f64::NAN)
    }
}

/// When each file was first named in a playlist, except as a gap.
pub(crate) fn first_named(
    journal: &[Entry],
    bucket: &str,
    name: &str,
) -> anyhow::Result<BTreeMap<String, Duration>> {
    let mut first = BTreeMap::new();
    for entry in journal.iter().filter(|entry| entry.bucket == bucket && entry.name == name) {
        let Some(object) = &entry.object else { continue };
        let media = playlist::media(std::str::from_utf8(&object.body)?)?;
        for segment in media.segments.into_iter().filter(|segment| !segment.gap) {
            first.entry(segment.uri).or_insert(entry.at);
        }
    }
    Ok(first)
}

/// Delays of the segments in all `rungs` whose last frame was taken within `window` (server time). Segments with the
/// same name end with the same frame in all rungs; its clock is read from the first rung.
pub(crate) fn delays(
    fake: &FakeGcs,
    bucket: &str,
    folder: &str,
    rungs: &[&str],
    window: &Range<Duration>,
) -> anyhow::Result<Delays> {
    // Copy under the lock, so that a running stream does not wait; bodies are shared, not copied.
    let (journal, media) = {
        let state = fake.state();
        (
            state.objects.journal().to_vec(),
            media_of(&state.objects, bucket, &format!("{folder}/{}/", rungs[0])),
        )
    };
    let playlist = |rung: &str| format!("{folder}/{rung}/index.m3u8");
    let largest = first_named(&journal, bucket, &playlist(rungs[0]))?;
    let taken = last_frames(&largest, &media)?;
    let zero = fake.started_unix_ms();
    let at = |clock: u64| Duration::from_millis(clock.saturating_sub(zero));
    let wanted: Vec<_> = taken.iter().filter(|(_, clock)| window.contains(&at(**clock))).collect();
    let (mut found, mut missing) = (Vec::new(), 0);
    for rung in rungs {
        let named = first_named(&journal, bucket, &playlist(rung))?;
        for (file, clock) in &wanted {
            match named.get(*file) {
                Some(named) => found.push(named.as_secs_f64() - at(**clock).as_secs_f64()),
                None => missing += 1,
            }
        }
    }
    ensure!(!found.is_empty(), "no segment of {folder} within the time measured");
    Ok(Delays::new(found, missing))
}

/// Media files in a folder, by file name.
fn media_of(objects: &Objects, bucket: &str, folder: &str) -> BTreeMap<String, bytes::Bytes> {
    let names = objects.names(bucket).into_iter();
    let media = names.filter_map(|name| {
        let file = name.strip_prefix(folder)?.to_owned();
        (file.ends_with(".m4s") || file.ends_with(".mp4"))
            .then(|| Some((file, objects.peek(bucket, &name)?.body.clone())))?
    });
    media.collect()
}

/// The clock of each segment's last picture, in milliseconds of Unix time.
fn last_frames(
    named: &BTreeMap<String, Duration>,
    media: &BTreeMap<String, bytes::Bytes>,
) -> anyhow::Result<BTreeMap<String, u64>> {
    let init = media.iter().find(|(file, _)| file.contains("init")).context("an init segment")?.1;
    let parsed = boxes::init(init)?;
    let mut order: Vec<_> =
        named.iter().filter_map(|(file, at)| Some((at, file, media.get(file)?))).collect();
    // Order the segments by decode time.
    let mut decode_times = BTreeMap::new();
    for (_, file, body) in &order {
        let fragment = boxes::fragment(&parsed, body)?;
        decode_times.insert((*file).clone(), (fragment.start(), fragment.samples.len()));
    }
    order.sort_by_key(|(_, file, _)| decode_times[*file].0);
    let whole = tempfile::NamedTempFile::new()?;
    for body in std::iter::once(init).chain(order.iter().map(|(_, _, body)| *body)) {
        std::io::Write::write_all(&mut whole.as_file(), body)?;
    }
    let clocks = clocks(whole.path())?;
    let mut at = 0;
    let mut last = BTreeMap::new();
    for (_, file, _) in &order {
        at += decode_times[*file].1;
        // A picture that cannot be read only drops its segment from the measurement.
        if let Some(clock) = clocks.get(at - 1).copied().flatten() {
            last.insert((*file).clone(), clock);
        }
    }
    ensure!(at == clocks.len(), "{} pictures of {at}", clocks.len());
    Ok(last)
}

/// The clock of every picture, in presentation order.
fn clocks(video: &std::path::Path) -> anyhow::Result<Vec<Option<u64>>> {
    let (width, height) = READ_AT;
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-i"]).arg(video);
    command.args(["-fps_mode", "passthrough", "-vf"]).arg(format!("scale={width}:{height},format=gray"));
    command.args(["-f", "rawvideo", "-"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut ffmpeg = command.spawn().context("ffmpeg does not start")?;
    let mut pictures = ffmpeg.stdout.take().context("a pipe was asked for")?;
    let mut picture = vec![0; width * height];
    let mut found = Vec::new();
    while pictures.read_exact(&mut picture).is_ok() {
        found.push(read_clock(&picture, width, width, height));
    }
    ensure!(ffmpeg.wait()?.success(), "the segments in the bucket cannot be decoded");
    Ok(found)
}

/// Prints the table.
pub(crate) fn print(rows: &[Row]) {
    println!("| | segments | measured | median | 99 % | longest | missing |\n|---|---|---|---|---|---|---|");
    for Row { name, segment_seconds, delays, .. } in rows {
        println!(
            "| {name} | {segment_seconds} s | {} | {:.2} s | {:.2} s | {:.2} s | {} |",
            delays.count(),
            delays.at(0.5),
            delays.at(0.99),
            delays.at(1.0),
            delays.missing
        );
    }
}
