//! What goes wrong in an encoder and is put right without anybody noticing: counters that stay at zero while all is
//! well, and warnings in the log. Every encoder that a test starts is judged when it is stopped, so that no test passes
//! over a fault that heals. A test that causes upsets says which ones (`Options::expecting`, `Options::allowing`,
//! `Options::logging`). How often something happens is checked by the test itself.

use std::collections::BTreeSet;

/// A counter that stays at zero while all is well.
struct Upset {
    counter: &'static str,
    /// Series with one of these labels count what is no upset.
    calm: &'static [&'static str],
    /// Parts of the log lines that tell of this upset: a test that expects the upset expects these lines too.
    lines: &'static [&'static str],
}

const LATE_IN_THE_STORE: &str = "segments are late or missing in the store";
const STRANGERS: &str = "connections of strangers were refused or closed";

/// All upsets. These counters are left out: `encoder_audio_resyncs_total` (FFmpeg repeats a clip whose audio is
/// not a whole number of frames long, so every repetition is one), `encoder_streams_ended_total` (what an operator
/// wants), counters of edges (edges are other processes), `encoder_viewer_stalls_total` (players tell of those, and the
/// browser's tests count them).
const UPSETS: [Upset; 29] = [
    // The processes that encode.
    Upset {
        counter: "encoder_worker_restarts_total",
        calm: &[],
        lines: &["worker died", "worker finishes too early", "worker has finished and does not end"],
    },
    Upset { counter: "encoder_worker_hangs_total", calm: &[], lines: &["worker hangs: it is killed"] },
    Upset {
        counter: "encoder_worker_forbidden_calls_total",
        calm: &[],
        lines: &["a worker made a system call that it may not make"],
    },
    // Media that viewers do not get as it was published.
    Upset { counter: "encoder_shed_units_total", calm: &[], lines: &["media is late for ten seconds"] },
    Upset {
        counter: "encoder_dropped_units_total",
        // At each end: sound that is shorter than the last picture's time on the screen, or longer.
        calm: &["reason=\"surplus\""],
        lines: &[],
    },
    Upset { counter: "encoder_decode_errors_total", calm: &[], lines: &[] },
    Upset { counter: "encoder_misaligned_cuts_total", calm: &[], lines: &[] },
    Upset { counter: "encoder_forced_cuts_total", calm: &[], lines: &[] },
    Upset { counter: "encoder_packager_gaps_total", calm: &[], lines: &[] },
    Upset { counter: "encoder_silent_frames_total", calm: &[], lines: &[] },
    Upset {
        counter: "encoder_passed_over_tracks_total",
        calm: &[],
        lines: &["a sound track comes too late to become a rendition"],
    },
    Upset {
        counter: "encoder_timestamp_repairs_total",
        // FFmpeg repeats a clip that is not a whole number of pictures long.
        calm: &["kind=\"grid_losses\""],
        lines: &[],
    },
    Upset { counter: "encoder_odd_messages_total", calm: &[], lines: &[] },
    Upset {
        counter: "encoder_unreadable_media_total",
        calm: &[],
        lines: &["the publisher sends media that cannot be read"],
    },
    // The store and the archive.
    Upset {
        counter: "encoder_store_writes_total",
        calm: &["result=\"ok\""],
        lines: &[
            LATE_IN_THE_STORE,
            "stream is stored without its last playlists",
            "the store does not have the last playlists",
        ],
    },
    Upset {
        counter: "encoder_store_gaps_total",
        // These are `encoder_packager_gaps_total`.
        calm: &["reason=\"packager\""],
        lines: &[LATE_IN_THE_STORE],
    },
    Upset { counter: "encoder_store_late_total", calm: &[], lines: &[LATE_IN_THE_STORE] },
    Upset { counter: "encoder_store_lost_total", calm: &[], lines: &[LATE_IN_THE_STORE] },
    Upset { counter: "encoder_spool_segments_total", calm: &[], lines: &["the store is slow"] },
    Upset { counter: "encoder_spool_full_total", calm: &[], lines: &["the spool is full"] },
    Upset { counter: "encoder_spool_failures_total", calm: &[], lines: &["the spool fails"] },
    Upset {
        counter: "encoder_archives_total",
        calm: &["result=\"sealed\"", "result=\"already\""],
        lines: &["archive is not complete", "writing an archive failed", "finishing an archive failed"],
    },
    // Who has the stream.
    Upset {
        counter: "encoder_fenced_total",
        calm: &[],
        lines: &[
            "another encoder writes this stream's playlists",
            "another encoder goes on with this stream's archive",
        ],
    },
    Upset {
        counter: "encoder_stream_starts_total",
        calm: &["how=\"new\"", "how=\"after_end\"", "how=\"after_window\"", "how=\"taken_over\""],
        lines: &["the store did not say in time", "the store's playlists cannot be gone on from"],
    },
    // Publishers and strangers.
    Upset {
        counter: "encoder_rejected_total",
        calm: &[],
        lines: &["another encoder has this stream, or has just taken it"],
    },
    Upset { counter: "encoder_connections_refused_total", calm: &[], lines: &[STRANGERS] },
    Upset { counter: "encoder_held_requests_refused_total", calm: &[], lines: &[STRANGERS] },
    // Other services.
    Upset {
        counter: "encoder_events_total",
        calm: &["result=\"delivered\""],
        lines: &["events are not delivered", "events were not delivered before the end"],
    },
    Upset {
        counter: "encoder_certificate_changes_total",
        calm: &["outcome=\"taken\""],
        lines: &["new certificate cannot be used"],
    },
];

/// Parts of warnings that stand in the log of every encoder that gives a reason for them.
const HARMLESS: [&str; 5] = [
    // Settings below 6 s of latency are what many tests are about; the encoder says at its start what they cost players
    // without parts and viewers of the store.
    "players that do not understand parts (plain HLS) are further behind",
    "viewers who read from the store, without parts, are further behind",
    // `Options::default` sets two seconds, so that a test may stop an encoder whose publisher is still there.
    "drain time-out (--drain-timeout)",
    // The test alone sends that signal.
    "signal: streams are cut short",
    // The publisher is a program of the test's own, which competes with other tests for the processors. Encoded media
    // that is late is another line.
    "or about to stall stage=\"arrived\"",
];

/// What ends a publisher's media in the middle may cause: its last pictures and its last sound do not end together, so
/// one rendition may have a segment more than another one, and what a new publisher sends may overlap.
pub const INTERRUPTED: &[&str] =
    &["encoder_packager_gaps_total", "encoder_dropped_units_total", "encoder_silent_frames_total"];

/// What an encoder may count from which another one takes a stream: it finds that out by a write that is refused, and
/// what it has not stored by then is in no playlist.
pub const GIVEN_UP: &[&str] = &[
    "encoder_fenced_total",
    "encoder_store_writes_total",
    "encoder_store_gaps_total",
    "encoder_store_lost_total",
];

/// What a store that fails may cause.
pub const STORE_FAILS: &[&str] = &[
    "encoder_store_writes_total",
    "encoder_store_gaps_total",
    "encoder_store_late_total",
    "encoder_store_lost_total",
    "encoder_archives_total",
];

/// The upsets that a test causes on purpose.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    expected: BTreeSet<&'static str>,
    allowed: BTreeSet<&'static str>,
    logged: BTreeSet<&'static str>,
    is_unjudged: bool,
}

impl Expectations {
    /// These counters rise.
    #[track_caller]
    pub fn expect(&mut self, counters: &[&'static str]) {
        counters.iter().for_each(|counter| assert!(upset(counter).is_some(), "no upset is called {counter}"));
        self.expected.extend(counters);
    }

    /// These counters may rise: timing decides.
    #[track_caller]
    pub fn allow(&mut self, counters: &[&'static str]) {
        counters.iter().for_each(|counter| assert!(upset(counter).is_some(), "no upset is called {counter}"));
        self.allowed.extend(counters);
    }

    /// Warnings and errors that contain one of these texts may be in the log.
    pub fn allow_lines(&mut self, texts: &[&'static str]) {
        self.logged.extend(texts);
    }

    /// Nothing is judged.
    pub fn leave_unjudged(&mut self) {
        self.is_unjudged = true;
    }

    fn is_named(&self, counter: &str) -> bool {
        self.expected.contains(counter) || self.allowed.contains(counter)
    }

    fn allows_line(&self, line: &str) -> bool {
        let of_counters =
            UPSETS.iter().filter(|upset| self.is_named(upset.counter)).flat_map(|upset| upset.lines);
        let mut texts = of_counters.chain(&self.logged).chain(&HARMLESS);
        texts.any(|text| line.contains(text))
    }

    /// What is not as the test expects: `metrics` is the last answer of `/metrics`, if there was one.
    pub(crate) fn complaints(&self, metrics: Option<&str>, log: &str) -> Vec<String> {
        if self.is_unjudged {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        match metrics {
            Some(metrics) => UPSETS.iter().for_each(|upset| self.judge_counter(upset, metrics, &mut wrong)),
            None => wrong.push("/metrics was not read before the encoder ended".to_owned()),
        }
        let unexpected = log.lines().filter(|line| is_warning(line) && !self.allows_line(line));
        wrong.extend(unexpected.map(|line| format!("nobody expects this line: {line}")));
        wrong
    }

    fn judge_counter(&self, upset: &Upset, metrics: &str, wrong: &mut Vec<String>) {
        let raised = raised(upset, metrics);
        if self.expected.contains(upset.counter) {
            if raised.is_empty() {
                wrong.push(format!("{} is 0, and this test causes it", upset.counter));
            }
        } else if !self.allowed.contains(upset.counter) {
            wrong.extend(raised.iter().map(|series| format!("nobody expects {series}")));
        }
    }
}

fn upset(counter: &str) -> Option<&'static Upset> {
    UPSETS.iter().find(|upset| upset.counter == counter)
}

/// The lines of `/metrics` in which this upset is counted.
fn raised<'a>(upset: &Upset, metrics: &'a str) -> Vec<&'a str> {
    let is_raised = |line: &&str| {
        let rest = line.strip_prefix(upset.counter).filter(|rest| rest.starts_with(['{', ' ']));
        let value = rest.and_then(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok());
        value.is_some_and(|value| value != 0.0) && !upset.calm.iter().any(|label| line.contains(label))
    };
    metrics.lines().filter(is_raised).collect()
}

/// Whether a line of the log is a warning or an error, as text or as a JSON object.
fn is_warning(line: &str) -> bool {
    match line.split_whitespace().nth(1) {
        Some("WARN" | "ERROR") => true,
        _ => ["WARNING", "ERROR"].iter().any(|level| line.contains(&format!("\"severity\":\"{level}\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder_process::workspace;

    const CALM: &str = "# TYPE encoder_worker_restarts_total counter\nencoder_worker_restarts_total 0\n\
                        encoder_store_writes_total{kind=\"segment\",result=\"ok\"} 12\n";
    const RESTARTED: &str = "encoder_worker_restarts_total 2\n";
    const DIED: &str = "2030-01-01T00:00:00.000000Z  WARN stream{app=live}: worker died worker=1\n";

    fn expecting(counters: &[&'static str]) -> Expectations {
        let mut expectations = Expectations::default();
        expectations.expect(counters);
        expectations
    }

    #[test]
    fn what_heals_in_silence_is_told() {
        let nothing = Expectations::default();
        assert_eq!(nothing.complaints(Some(CALM), "2030-01-01T00:00:00Z  INFO worker died\n"), [""; 0]);
        assert_eq!(
            nothing.complaints(Some(RESTARTED), ""),
            ["nobody expects encoder_worker_restarts_total 2"]
        );
        let refused = "encoder_store_writes_total{kind=\"playlist\",result=\"refused\"} 1\n";
        assert_eq!(nothing.complaints(Some(refused), "").len(), 1);
        assert_eq!(nothing.complaints(Some(CALM), DIED).len(), 1);
        let json = "{\"time\":\"2030-01-01T00:00:00Z\",\"severity\":\"ERROR\",\"message\":\"x\"}";
        assert_eq!(nothing.complaints(Some(CALM), json).len(), 1);
        assert_eq!(nothing.complaints(None, "").len(), 1, "nothing was read");
    }

    #[test]
    fn what_a_test_expects_has_to_come_and_may_be_told_in_the_log() {
        let restarts = expecting(&["encoder_worker_restarts_total"]);
        assert_eq!(restarts.complaints(Some(RESTARTED), DIED), [""; 0]);
        assert_eq!(restarts.complaints(Some(CALM), "").len(), 1, "it did not come");
        let mut allowed = Expectations::default();
        allowed.allow(&["encoder_worker_restarts_total"]);
        for metrics in [CALM, RESTARTED] {
            assert_eq!(allowed.complaints(Some(metrics), DIED), [""; 0]);
        }
        let mut line = Expectations::default();
        line.allow_lines(&["worker died"]);
        assert_eq!(line.complaints(Some(CALM), DIED), [""; 0]);
        assert_eq!(line.complaints(Some(RESTARTED), DIED).len(), 1, "the counter is not named");
    }

    #[test]
    fn harmless_lines_stand() {
        for text in HARMLESS {
            let line = format!("2030-01-01T00:00:00.000000Z  WARN {text}\n");
            assert_eq!(Expectations::default().complaints(Some(CALM), &line), [""; 0]);
        }
    }

    /// A name that no encoder has would be zero for ever.
    #[test]
    fn every_upset_is_a_counter_of_the_encoder() {
        let described =
            std::fs::read_to_string(workspace().join("encoder/src/telemetry.rs")).expect("the file");
        for Upset { counter, .. } in &UPSETS {
            assert!(described.contains(&format!("\"{counter}\"")), "{counter}");
        }
    }
}
