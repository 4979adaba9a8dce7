//! Judges the archive of a broadcast as files: with hls-parser, with FFmpeg, and against what live viewers saw.

use crate::checker::Checker;
use crate::encoder_process::{STREAM, binary};
use crate::gcs::FakeGcs;
use crate::patience::eventually;
use crate::playlist::{self, Media, Multivariant};
use crate::process::Program;
use crate::verdict::SYNC_LIMIT;
use crate::{browser, probe};
use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest frame duration in the published test media, in seconds.
pub const FRAME: f64 = 1.0 / 30.0;
/// Tolerance of PROGRAM-DATE-TIME in seconds: the encoder writes the tag again when players would be off by more.
const DATE_TOLERANCE: f64 = 0.021;

/// An archive of the test stream, as files in a folder.
#[derive(Clone, Debug)]
pub struct Archived {
    folder: PathBuf,
}

/// Facts about a complete archive that passed all checks.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Duration of the recording in seconds.
    pub seconds: f64,
    /// Times in the recording, in seconds, at which media resumes after each discontinuity.
    pub breaks: Vec<f64>,
    /// Segments marked as gaps, over all renditions.
    pub gaps: usize,
}

impl Archived {
    /// The only archive of the test stream in a directory that encoders write to; `None` while there is none.
    #[track_caller]
    pub fn of(output: &Path) -> Option<Self> {
        let mut folders = std::fs::read_dir(output.join(format!("live/{STREAM}/archive"))).ok()?;
        let folder = folders.next()?.ok()?.path();
        assert!(folders.next().is_none(), "one broadcast is one archive");
        Some(Self { folder })
    }

    /// Like [`Archived::of`], but waits until the archive is complete.
    #[track_caller]
    pub fn complete(output: &Path) -> Self {
        eventually("a complete archive", Duration::from_secs(30), || {
            Self::of(output).filter(Self::is_complete)
        })
    }

    /// Waits until the only archive of the test stream in a bucket, below `prefix`, is complete. Copies all objects of
    /// that stream into `directory`.
    #[track_caller]
    pub fn complete_in(fake: &FakeGcs, bucket: &str, prefix: &str, directory: &Path) -> Self {
        let stream = format!("{prefix}/live/{STREAM}/");
        eventually("a complete archive in the bucket", Duration::from_secs(30), || {
            let names = fake.state().objects.names(bucket);
            names.iter().any(|name| name.starts_with(&stream) && name.ends_with("/sealed.json")).then_some(())
        });
        let state = fake.state();
        for name in state.objects.names(bucket).iter().filter(|name| name.starts_with(&stream)) {
            let object = state.objects.peek(bucket, name).expect("it is listed");
            let path = directory.join(name.trim_start_matches(prefix).trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().expect("below a folder")).expect("a folder");
            std::fs::write(path, &object.body).expect("a file");
        }
        Self::of(directory).expect("it is complete")
    }

    /// The archive's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The top rung's recording.
    pub fn recording(&self) -> PathBuf {
        self.folder.join("recording.mp4")
    }

    /// Whether the archive is complete: `sealed.json` exists.
    pub fn is_complete(&self) -> bool {
        self.folder.join("sealed.json").exists()
    }

    /// A playlist's text; `None` if the playlist does not exist.
    pub fn text(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.join(name)).ok()
    }

    fn multivariant(&self) -> anyhow::Result<Multivariant> {
        playlist::multivariant(&self.text("index.m3u8").context("no multivariant playlist")?)
    }

    fn media(&self, name: &str) -> anyhow::Result<Media> {
        playlist::media(&self.text(name).with_context(|| format!("no {name}"))?)
            .with_context(|| name.to_owned())
    }

    /// Checks everything that must hold for a complete archive with this number of renditions: VOD playlists that name
    /// only existing files, and a recording that lasts as long as the playlists say (breaks included), decodes without
    /// a warning and can be sought in.
    ///
    /// # Errors
    /// Describes the first check that failed.
    pub fn judge(&self, renditions: usize) -> anyhow::Result<Judged> {
        ensure!(self.is_complete(), "not complete");
        let multivariant = self.multivariant()?;
        let names = multivariant.playlists();
        ensure!(names.len() == renditions, "{renditions} renditions expected, there are {names:?}");
        let mut texts = vec![("index.m3u8".to_owned(), self.text("index.m3u8").unwrap_or_default())];
        texts.extend(names.iter().map(|name| (name.clone(), self.text(name).unwrap_or_default())));
        let complaints = browser::strict(&texts)?;
        ensure!(complaints.is_empty(), "hls-parser: {complaints:?}");
        let mut gaps = 0;
        for name in &names {
            let media = self.media(name)?;
            ensure!(
                media.playlist_type.as_deref() == Some("VOD") && media.ended,
                "{name} is no VOD playlist: {:?}",
                self.text(name)
            );
            self.names_what_is_there(&media).with_context(|| name.clone())?;
            gaps += media.segments.iter().filter(|segment| segment.gap).count();
        }
        self.pictures().context("the playlist of pictures")?;
        let top = multivariant.variants.first().context("no variant")?;
        let (shown, breaks) = timeline(&self.media(&top.uri)?)?;
        // Pictures and sound may end in different segments.
        let (heard, _) = timeline(&self.media("audio.m3u8")?)?;
        let listed = shown.max(heard);
        let recording = self.recording();
        let name = recording.to_string_lossy();
        let streams = probe::streams(&name)?;
        let kinds: Vec<_> = streams.iter().map(|stream| stream.codec_type.as_str()).collect();
        ensure!(kinds == ["video", "audio"], "{kinds:?}");
        let size = streams[0].width.zip(streams[0].height).map(|(width, height)| format!("{width}x{height}"));
        ensure!(size.as_ref() == top.attributes.get("RESOLUTION"), "{size:?} is not the top rung's");
        let seconds = probe::duration(&name)?;
        let tolerance = FRAME + DATE_TOLERANCE * breaks.len() as f64;
        ensure!((seconds - listed).abs() <= tolerance, "{seconds:.3} s recorded, {listed:.3} s listed");
        probe::decodes_clean(&recording)?;
        for part in [0.1, 0.5, 0.9] {
            let to = seconds * part;
            let shown = probe::seek(&name, to)?;
            // A seek into a break shows the first picture after the break.
            let at_a_break = breaks.iter().any(|at| (at - shown).abs() <= DATE_TOLERANCE + FRAME);
            ensure!((shown - to).abs() <= FRAME + 0.001 || at_a_break, "sought {to:.3}, shown {shown:.3}");
        }
        ensure!(!self.folder.join("parts").exists(), "what it was put together from is still there");
        Ok(Judged { seconds, breaks, gaps })
    }

    fn names_what_is_there(&self, media: &Media) -> anyhow::Result<()> {
        for segment in media.segments.iter().filter(|segment| !segment.gap) {
            for uri in [Some(&segment.uri), segment.map.as_ref()].into_iter().flatten() {
                ensure!(self.folder.join(uri).is_file(), "{uri} is not there");
            }
        }
        Ok(())
    }

    /// Checks the I-frame playlist, which players use for seek bars: each byte range, appended to its init segment,
    /// decodes to one picture.
    fn pictures(&self) -> anyhow::Result<()> {
        let index = self.text("index.m3u8").unwrap_or_default();
        let line = index.lines().find(|line| line.starts_with("#EXT-X-I-FRAME-STREAM-INF:"));
        let (_, uri) = line.and_then(|line| line.split_once("URI=\"")).context("none is named")?;
        let name = uri.split('"').next().unwrap_or_default().to_owned();
        let text = self.text(&name).with_context(|| format!("no {name}"))?;
        let complaints = browser::strict(&[(name, text.clone())])?;
        ensure!(complaints.is_empty(), "hls-parser: {complaints:?}");
        let media = playlist::media(&text)?;
        let lengths =
            text.lines().filter_map(|line| line.strip_prefix("#EXT-X-BYTERANGE:")?.strip_suffix("@0"));
        let lengths = lengths.map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        let listed: Vec<_> = media.segments.iter().filter(|segment| !segment.gap).collect();
        ensure!(lengths.len() == listed.len() && !listed.is_empty(), "{} of {}", lengths.len(), listed.len());
        let work = tempfile::tempdir()?;
        for at in [0, listed.len() / 2, listed.len() - 1] {
            let map = listed[at].map.as_ref().context("no init segment")?;
            let mut bytes = std::fs::read(self.folder.join(map))?;
            let segment = std::fs::read(self.folder.join(&listed[at].uri))?;
            bytes.extend_from_slice(segment.get(..lengths[at]).context("a range beyond its segment")?);
            let file = work.path().join("picture.mp4");
            std::fs::write(&file, bytes)?;
            let mut command = Command::new("ffmpeg");
            command.args(["-nostdin", "-v", "error", "-i"]).arg(&file);
            let shown = command.args(["-frames:v", "1", "-f", "framecrc", "-"]).output()?;
            let said = String::from_utf8_lossy(&shown.stdout);
            let frames = said.lines().filter(|line| line.starts_with("0,")).count();
            ensure!(frames == 1, "no picture: {}", String::from_utf8_lossy(&shown.stderr));
        }
        Ok(())
    }

    /// Whether the archive holds every segment that live viewers saw, under the same media sequence number.
    ///
    /// # Errors
    /// Names a segment that is missing or differs.
    pub fn holds_what_was_shown(&self, live: &Checker) -> anyhow::Result<()> {
        let file = |uri: &str| uri.rsplit('/').next().unwrap_or_default().to_owned();
        for list in live.multivariant_seen().context("nothing was shown")?.playlists() {
            let rung = list.split('/').next().unwrap_or_default();
            let archive = self.media(&format!("{rung}.m3u8"))?;
            for shown in live.listed(&list).into_iter().filter(|segment| !segment.gap) {
                let kept = archive.segments.iter().find(|kept| kept.msn == shown.msn);
                let same = kept.is_some_and(|kept| !kept.gap && file(&kept.uri) == file(&shown.uri));
                ensure!(same, "{} of {rung} was shown, and the archive has {kept:?}", shown.uri);
            }
        }
        Ok(())
    }

    /// Largest distance between audio and video in seconds, from second `from` of the recording on.
    ///
    /// # Errors
    /// The distance exceeds [`SYNC_LIMIT`], or there are fewer than two flashes to judge by.
    pub fn in_step(&self, from: f64) -> anyhow::Result<f64> {
        let recording = self.recording();
        let (mut flashes, beeps) = (probe::flashes(&recording)?, probe::beeps(&recording)?);
        // A flash that is on at `from` has lost its beginning.
        flashes.retain(|flash| *flash > from + probe::FLASH);
        let errors = probe::sync_errors(&flashes, &beeps);
        let worst = errors.iter().fold(0.0_f64, |worst, error| worst.max(error.abs()));
        ensure!(errors.len() >= 2, "only {} flashes behind {from:.3} s", errors.len());
        ensure!(worst <= SYNC_LIMIT, "behind {from:.3} s sound is off by {errors:.3?}");
        Ok(worst)
    }
}

/// Runs `encoder archive seal` for one stream's folder (directory or bucket URL).
pub fn seal(stream: &str, more: &[&str]) -> Program {
    let mut command = Command::new(binary());
    command.args(["archive", "seal", stream]).args(more);
    Program::spawn("encoder archive seal", &mut command)
}

/// Duration of a playlist in seconds, including the time missing at discontinuities according to PROGRAM-DATE-TIME; and
/// the times in seconds at which those breaks end.
fn timeline(media: &Media) -> anyhow::Result<(f64, Vec<f64>)> {
    let (mut now, mut breaks) = (0.0, Vec::new());
    // The last PROGRAM-DATE-TIME, and its position on the playlist's time axis in seconds.
    let mut date: Option<(DateTime<Utc>, f64)> = None;
    for (index, segment) in media.segments.iter().enumerate() {
        if index > 0 && segment.discontinuity {
            let (told, at) = date.context("no PROGRAM-DATE-TIME at the beginning")?;
            let resumed = segment.date_time.context("no PROGRAM-DATE-TIME at a discontinuity")?;
            let since = (resumed - told).as_seconds_f64();
            now = f64::max(now, at + since);
            breaks.push(now);
        }
        if let Some(told) = segment.date_time {
            date = Some((told, now));
        }
        now += segment.duration;
    }
    Ok((now, breaks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_are_as_long_as_the_wall_clock_says() {
        let text = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:1\n\
            #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:00.000Z\n#EXTINF:1.0,\na.m4s\n#EXTINF:1.0,\nb.m4s\n\
            #EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:05.500Z\n#EXTINF:1.0,\nc.m4s\n";
        let (seconds, breaks) = timeline(&playlist::media(text).unwrap()).unwrap();
        assert!((seconds - 6.5).abs() < 1e-9 && breaks.len() == 1 && (breaks[0] - 5.5).abs() < 1e-9);
    }
}
