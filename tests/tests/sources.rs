//! One test per kind of source: published in real time for a few seconds, read back with FFmpeg.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::time::Duration;
use tests::checker::watch::{Watch, report};
use tests::checker::{Checker, Rule, Settings};
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::patience::eventually;
use tests::upsets::INTERRUPTED;
use tests::verdict::{self, Recorded};
use tests::{fixtures, publisher, turn};

/// The result of publishing a source.
struct Outcome {
    checker: Checker,
    pieces: Vec<Vec<Recorded>>,
    wrong: Vec<String>,
    log: String,
    _folder: tempfile::TempDir,
}

impl Outcome {
    /// Picture sizes of the video rungs in the last piece, smallest first.
    fn sizes(&self) -> Vec<(u32, u32)> {
        let last = self.pieces.last().into_iter().flatten();
        let mut sizes: Vec<_> = last.filter_map(|r| Some((r.stream.width?, r.stream.height?))).collect();
        sizes.sort_unstable();
        sizes
    }

    fn sound_in_step(&mut self) -> &mut Self {
        for piece in &self.pieces {
            verdict::sound_in_step(piece, &mut self.wrong);
        }
        self
    }

    #[track_caller]
    fn fine(&self) {
        assert!(self.wrong.is_empty(), "{}\n{}", self.wrong.join("\n"), self.log);
    }

    fn discontinuities(&self) -> usize {
        let lists = self.checker.multivariant_seen().unwrap().playlists();
        self.checker.listed(&lists[0]).iter().skip(1).filter(|s| s.discontinuity).count()
    }
}

/// Publishes the clip once to its end, and expects `pieces` stretches between discontinuities.
fn publish(clip: &str, ladder: &str, pieces: usize) -> Outcome {
    publish_with(clip, ladder, pieces, Settings::default())
}

fn publish_with(clip: &str, ladder: &str, pieces: usize, rules: Settings) -> Outcome {
    publish_to(Options::default().set("--ladder", ladder), clip, pieces, rules)
}

fn publish_to(options: Options, clip: &str, pieces: usize, rules: Settings) -> Outcome {
    let clip = fixtures::clip(clip);
    let _turn = turn::Turn::take();
    // Sound that ends before the first picture is left out: pictures are shown later where they are fewer a second.
    let options = options.set("--reconnect-window", "1").allowing(&["encoder_dropped_units_total"]);
    let encoder = Encoder::start(options);
    let mut publisher = publisher::ffmpeg_once(&clip, &encoder.rtmp_url(STREAM));
    let watch = Watch::start(&encoder.wait_for_stream(STREAM), rules);
    let ended = publisher.wait(Duration::from_secs(60));
    watch.checker().expect_outage();
    assert!(ended.is_some_and(|s| s.success()), "the publisher ended with {ended:?}: {}", publisher.output());
    eventually("ENDLIST", Duration::from_secs(20), || watch.checker().ended().then_some(()));
    let checker = watch.finish();
    let mut wrong = Vec::new();
    if !checker.violations().is_empty() {
        wrong.push(report(checker.violations()));
    }
    let folder = tempfile::tempdir().unwrap();
    let pieces: Vec<_> =
        (0..pieces).map(|n| verdict::recordings(&checker, n, folder.path(), &mut wrong)).collect();
    for piece in &pieces {
        verdict::keyframes_aligned(piece, &mut wrong);
    }
    Outcome { checker, pieces, wrong, log: encoder.stop(), _folder: folder }
}

const LADDER: &str = "360p@800k,180p@300k";

#[test]
fn film_rate_24() {
    let mut seen = publish("fps24", LADDER, 1);
    seen.sound_in_step().fine();
    assert_eq!(seen.pieces[0][0].stream.r_frame_rate.as_deref(), Some("24/1"));
}

#[test]
fn broadcast_rate_29_97() {
    publish("fps29.97", LADDER, 1).sound_in_step().fine();
}

#[test]
fn high_rate_50_and_60() {
    publish("fps50", LADDER, 1).sound_in_step().fine();
    publish("fps60", LADDER, 1).sound_in_step().fine();
}

#[test]
fn variable_rate() {
    publish("vfr", LADDER, 1).sound_in_step().fine();
}

#[test]
fn keyframes_wherever_the_publisher_liked() {
    publish("gop-irregular", LADDER, 1).sound_in_step().fine();
}

#[test]
fn odd_sizes_become_even() {
    let mut seen = publish("odd-size", LADDER, 1);
    seen.sound_in_step().fine();
    assert!(seen.sizes().iter().all(|(w, h)| w % 2 == 0 && h % 2 == 0), "{:?}", seen.sizes());
}

#[test]
fn anamorphic_pictures_become_square_pixels() {
    let mut seen = publish("anamorphic", LADDER, 1);
    seen.sound_in_step().fine();
    for video in seen.pieces[0].iter().filter(|r| r.video) {
        let (width, height) = (video.stream.width.unwrap(), video.stream.height.unwrap());
        let shape = f64::from(width) / f64::from(height);
        assert!((shape - 16.0 / 9.0).abs() < 0.02, "{width}x{height}");
        assert!(matches!(video.stream.sample_aspect_ratio.as_deref(), None | Some("1:1")));
    }
}

#[test]
fn rungs_above_the_source_are_left_out() {
    let mut seen = publish("small", "720p@2800k,480p@1400k,180p@300k", 1);
    seen.sound_in_step().fine();
    assert_eq!(seen.sizes(), [(320, 180)]);
}

#[test]
fn the_automatic_ladder_never_upscales_and_says_what_it_chose() {
    let mut seen = publish("anamorphic", "auto", 1);
    seen.sound_in_step().fine();
    assert!(seen.sizes().iter().all(|(_, h)| *h <= 576), "{:?}", seen.sizes());
    assert!(seen.log.contains("ladder"), "{}", seen.log);
}

#[test]
fn mono_at_44100() {
    publish("mono-44100", LADDER, 1).sound_in_step().fine();
}

#[test]
fn audio_only() {
    let seen = publish("audio-only", LADDER, 1);
    seen.fine();
    assert!(seen.pieces[0].iter().all(|r| !r.video) && seen.pieces[0].len() == 1);
}

#[test]
fn video_only() {
    // Silence is made for as long as the stream lasts, by the worker that encodes sound or by the stream itself.
    let options = Options::default().set("--ladder", LADDER).allowing(&["encoder_silent_frames_total"]);
    let seen = publish_to(options, "video-only", 1, Settings::default());
    seen.fine();
    // Silence replaces the missing audio.
    assert!(seen.pieces[0].iter().any(|r| !r.video));
    assert_eq!(seen.checker.multivariant_seen().unwrap().media.len(), 1);
}

#[test]
fn audio_that_comes_late() {
    // An encoder that does not wait for late audio gains a rendition when the audio starts.
    let rules = Settings { ignore: [Rule::RenditionsChanged].into(), ..Settings::default() };
    // FFmpeg holds the pictures back until the sound comes, and sends four seconds of them at once. The sound's
    // configuration ends the first worker at that moment, and the queue to the second one has no room for all: pictures
    // are shed, up to the next keyframe. Silence precedes the sound.
    let upsets = [
        "encoder_forced_cuts_total",
        "encoder_packager_gaps_total",
        "encoder_shed_units_total",
        "encoder_silent_frames_total",
        "encoder_timestamp_repairs_total",
    ];
    let options = Options::default().set("--ladder", LADDER).allowing(&upsets);
    let seen = publish_to(options, "late-audio", 1, rules);
    seen.fine();
    assert!(seen.pieces.iter().flatten().any(|r| !r.video), "sound never came");
}

#[test]
fn a_new_resolution_in_the_middle_is_one_discontinuity() {
    // One worker ends in the middle of the stream, and another one begins. The second half's sound begins a frame and a
    // half after the first half's.
    let options = Options::default().set("--ladder", "480p@1400k,360p@800k").allowing(INTERRUPTED);
    let options = options.allowing(&["encoder_timestamp_repairs_total"]);
    let mut seen = publish_to(options, "resolution-change", 2, Settings::default());
    seen.sound_in_step().fine();
    assert_eq!(seen.discontinuities(), 1);
}
