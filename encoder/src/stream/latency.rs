//! Which latency a stream is run with: requested by its publisher, set for the stream by an operator, or configured for
//! its application or for all. What follows from a latency is in [`hls::Timing`].
//!
//! A stream keeps its latency for its whole life, reconnects included: players stop for good when target or part
//! durations change. So a latency that is set here applies from the next publish that starts a stream.

use super::core::StreamSettings;
use crate::origin::StreamPath;
use hls::timing::Latency;
use hls::{Timing, TimingError};
use media::is_valid_name;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use transcode::wire::{Keyframes, VideoSettings};

/// Default latency in seconds, used where none is configured.
pub(crate) const DEFAULT_SECONDS: f64 = 4.0;
/// Maximum number of streams with a latency of their own. An entry takes about 200 bytes.
pub(crate) const MAX_SET: usize = 1_000;

/// The configured latencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Latencies {
    /// For applications that are not listed.
    pub default: Latency,
    /// By application name.
    pub apps: BTreeMap<String, Latency>,
    /// Range of latencies that publishers may request; `None`: requests are ignored.
    pub bounds: Option<Bounds>,
}

/// The lowest and the highest latency that publishers may request, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The lowest latency.
    pub least: Latency,
    /// The highest latency; not below `least`.
    pub most: Latency,
}

/// An unusable item of a list of latencies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct BadItem {
    /// The item as it was given.
    pub item: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Why bounds are unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBounds {
    /// The text is not two values.
    #[error("must be the least and the most, as in 3-10")]
    NotAPair,
    /// One of the values is not a valid latency.
    #[error(transparent)]
    Latency(#[from] TimingError),
    /// The higher value comes first.
    #[error("must be the least and the most, in this order")]
    Reversed,
}

/// Where a stream's latency comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The publisher requested it in the query after its stream key.
    Publisher,
    /// An operator set it for this stream.
    Set,
    /// The stream was taken over from an encoder that used it.
    TakenOver,
    /// The publisher's key has it.
    Key,
    /// It is configured for the stream's application.
    App,
    /// It is configured for all applications.
    Default,
}

impl Origin {
    /// The origin's name in log lines, as in `/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Set => "set",
            Self::TakenOver => "taken_over",
            Self::Key => "key",
            Self::App => "app",
            Self::Default => "default",
        }
    }
}

/// A stream's latency and its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The latency.
    pub latency: Latency,
    /// Where it comes from.
    pub from: Origin,
}

/// What became of a publisher's requested latency. A publisher is never refused because of its request: a show on air
/// with another latency is better than no show, and OBS would not display the reason.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RequestedLatency {
    /// No latency was requested.
    None,
    /// The requested latency applies.
    Granted,
    /// The request is out of bounds: the nearest bound applies.
    Bounded {
        /// Requested latency in seconds.
        wished: f64,
    },
    /// The request is ignored: no bounds are configured.
    NotAllowed,
    /// The request is ignored: it is not a number.
    NotANumber,
}

/// [`MAX_SET`] streams have a latency of their own already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_SET} streams have a latency of their own already: remove one first")]
pub(crate) struct TableFull;

/// The configured latencies, and those set for single streams since this process started.
#[derive(Debug)]
pub(crate) struct LatencyTable {
    configured: Latencies,
    set: Mutex<BTreeMap<StreamPath, Latency>>,
}

// === impl Latencies ===

impl Latencies {
    /// Parses `4,live=3,concert=10`: latencies in seconds by application, and one without a name for all other
    /// applications (4 when it is missing).
    ///
    /// # Errors
    /// All unusable items.
    pub(crate) fn parse(text: &str, bounds: Option<Bounds>) -> Result<Self, Vec<BadItem>> {
        let (mut default, mut apps, mut bad) = (None, BTreeMap::new(), Vec::new());
        for item in text.split(',').map(str::trim) {
            let mut reject = |problem: String| bad.push(BadItem { item: item.to_owned(), problem });
            let (app, value) = match item.split_once('=') {
                Some((app, value)) => (Some(app.trim()), value.trim()),
                None => (None, item),
            };
            if app.is_some_and(|app| !is_valid_name(app)) {
                reject("an application's name is 1 to 64 of A-Z a-z 0-9 _ -".into());
                continue;
            }
            let latency = match value.parse::<Latency>() {
                Ok(latency) => latency,
                Err(error) => {
                    reject(error.to_string());
                    continue;
                }
            };
            let before = match app {
                Some(app) => apps.insert(app.to_owned(), latency),
                None => default.replace(latency),
            };
            if before.is_some() {
                reject("is given twice".into());
            }
        }
        let default = default.or_else(|| Latency::from_secs_f64(DEFAULT_SECONDS).ok());
        match default {
            Some(default) if bad.is_empty() => Ok(Self { default, apps, bounds }),
            _ => Err(bad),
        }
    }

    fn configured_for(&self, app: &str) -> Chosen {
        match self.apps.get(app) {
            Some(&latency) => Chosen { latency, from: Origin::App },
            None => Chosen { latency: self.default, from: Origin::Default },
        }
    }

    /// All configured latencies with their application's name; `None` stands for the default.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Option<&str>, Latency)> {
        let apps = self.apps.iter().map(|(app, latency)| (Some(app.as_str()), *latency));
        std::iter::once((None, self.default)).chain(apps)
    }
}

/// Writes the configured form: `4,live=3`.
impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default.as_secs_f64())?;
        self.apps.iter().try_for_each(|(app, latency)| write!(f, ",{app}={}", latency.as_secs_f64()))
    }
}

// === impl Bounds ===

impl FromStr for Bounds {
    type Err = BadBounds;

    fn from_str(text: &str) -> Result<Self, BadBounds> {
        let (least, most) = text.split_once('-').ok_or(BadBounds::NotAPair)?;
        let (least, most) = (least.parse()?, most.parse()?);
        if least > most { Err(BadBounds::Reversed) } else { Ok(Self { least, most }) }
    }
}

impl Bounds {
    /// The latency within the bounds that is nearest to `seconds`.
    fn nearest(self, seconds: f64) -> Latency {
        if seconds < self.least.as_secs_f64() {
            self.least
        } else {
            Latency::from_secs_f64(seconds).map_or(self.most, |latency| latency.min(self.most))
        }
    }
}

// === impl LatencyTable ===

impl LatencyTable {
    /// Creates a table in which no latency is set.
    pub(crate) fn new(configured: Latencies) -> Self {
        Self { configured, set: Mutex::default() }
    }

    /// Range of latencies that publishers may request.
    pub(crate) fn bounds(&self) -> Option<Bounds> {
        self.configured.bounds
    }

    /// Chooses the latency of a stream that begins; `query` is the query after its publisher's stream key. In order of
    /// precedence: the publisher's request where allowed, the latency set for the stream, the one that the publisher's
    /// key has (`of_key`), the latency configured for its application, the default.
    pub(crate) fn choose(
        &self,
        stream: &StreamPath,
        query: &str,
        of_key: Option<Latency>,
    ) -> (Chosen, RequestedLatency) {
        let without = match (self.next(stream), of_key) {
            (set @ Chosen { from: Origin::Set, .. }, _) => set,
            (_, Some(latency)) => Chosen { latency, from: Origin::Key },
            (configured, None) => configured,
        };
        let wished = query.split('&').find_map(|parameter| parameter.strip_prefix("latency="));
        let Some(wished) = wished else { return (without, RequestedLatency::None) };
        let Some(bounds) = self.configured.bounds else { return (without, RequestedLatency::NotAllowed) };
        let Some(wished) = wished.parse().ok().filter(|seconds: &f64| seconds.is_finite()) else {
            return (without, RequestedLatency::NotANumber);
        };
        let chosen = Chosen { latency: bounds.nearest(wished), from: Origin::Publisher };
        let is_outside = wished < bounds.least.as_secs_f64() || wished > bounds.most.as_secs_f64();
        (chosen, if is_outside { RequestedLatency::Bounded { wished } } else { RequestedLatency::Granted })
    }

    /// The latency of a stream's next start, if its publisher requests none.
    pub(crate) fn next(&self, stream: &StreamPath) -> Chosen {
        match self.lock().get(stream) {
            Some(&latency) => Chosen { latency, from: Origin::Set },
            None => self.configured.configured_for(&stream.app),
        }
    }

    /// Sets a stream's latency from its next start on, until it is set again or removed or the process ends.
    ///
    /// # Errors
    /// Too many other streams have a latency set.
    pub(crate) fn set(&self, stream: &StreamPath, latency: Latency) -> Result<(), TableFull> {
        let mut set = self.lock();
        if set.len() >= MAX_SET && !set.contains_key(stream) {
            return Err(TableFull);
        }
        set.insert(stream.clone(), latency);
        Ok(())
    }

    /// Removes the latency set for a stream.
    pub(crate) fn unset(&self, stream: &StreamPath) {
        self.lock().remove(stream);
    }

    /// All latencies that were set and not removed, by stream.
    pub(crate) fn all_set(&self) -> Vec<(StreamPath, Latency)> {
        self.lock().iter().map(|(stream, latency)| (stream.clone(), *latency)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StreamPath, Latency>> {
        // Nothing panics while the lock is held, and a map of values is always consistent.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings of libav's `encoder` with `preset` for a latency: keyframe interval, lookahead, B-frames and
/// rate-control buffer follow from `timing`.
pub fn video_settings(encoder: String, preset: String, timing: &Timing) -> VideoSettings {
    VideoSettings {
        encoder,
        preset,
        keyframes: Keyframes::Grid { ticks_90k: timing.gop.ticks_90k() },
        lookahead_frames: timing.lookahead_frames,
        b_frames: timing.b_frames,
        vbv_ms: timing.vbv_ms,
    }
}

// === impl Settings ===

impl StreamSettings {
    /// The same settings for another latency: everything that follows from the latency is recomputed.
    pub fn at(&self, latency: Latency) -> Self {
        let timing = Timing::new(latency);
        let VideoSettings { encoder, preset, .. } = self.video.clone();
        Self { video: video_settings(encoder, preset, &timing), timing, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(value: f64) -> Latency {
        Latency::from_secs_f64(value).unwrap()
    }

    fn stream(app: &str, name: &str) -> StreamPath {
        StreamPath::new(app, name).unwrap()
    }

    #[test]
    fn a_list_names_applications_and_one_number_is_for_all_others() {
        for (text, default, live, shown) in [
            ("3", 3.0, 3.0, "3"),
            ("live=2.5", 4.0, 2.5, "4,live=2.5"),
            ("6,live=3,concert=10", 6.0, 3.0, "6,concert=10,live=3"),
            (" live = 3 , 5 ", 5.0, 3.0, "5,live=3"),
        ] {
            let latencies = Latencies::parse(text, None).unwrap();
            assert_eq!(latencies.configured_for("other").latency, seconds(default), "{text}");
            assert_eq!(latencies.configured_for("live").latency, seconds(live), "{text}");
            assert_eq!(latencies.to_string(), shown);
        }
    }

    #[test]
    fn all_bad_items_are_told() {
        let bad = Latencies::parse("1,live=99,a/b=3,concert=fast,live=3,live=4,=5,2.5,", None).unwrap_err();
        let items: Vec<_> = bad.iter().map(|bad| bad.item.as_str()).collect();
        assert_eq!(items, ["1", "live=99", "a/b=3", "concert=fast", "live=4", "=5", ""]);
        assert!(Latencies::parse("3,4", None).unwrap_err()[0].to_string().contains("twice"));
    }

    #[test]
    fn bounds_are_two_latencies_in_order() {
        assert_eq!("2.5-10".parse(), Ok(Bounds { least: seconds(2.5), most: seconds(10.0) }));
        assert_eq!("3-3".parse(), Ok(Bounds { least: seconds(3.0), most: seconds(3.0) }));
        assert_eq!("3".parse::<Bounds>(), Err(BadBounds::NotAPair));
        assert_eq!("10-3".parse::<Bounds>(), Err(BadBounds::Reversed));
        for bad in ["1-3", "3-99", "3-", "-3", "a-b", "3-4-5", "NaN-3"] {
            assert!(matches!(bad.parse::<Bounds>(), Err(BadBounds::Latency(_))), "{bad}");
        }
    }

    #[test]
    fn publisher_then_operator_then_application_then_all() {
        let bounds = Some("3-10".parse().unwrap());
        let table = LatencyTable::new(Latencies::parse("6,live=5", bounds).unwrap());
        let (show, other) = (stream("live", "show"), stream("test", "show"));
        let chosen = |stream, query| {
            let (Chosen { latency, from }, requested) = table.choose(stream, query, None);
            (latency.as_secs_f64(), from, requested)
        };
        assert_eq!(chosen(&other, ""), (6.0, Origin::Default, RequestedLatency::None));
        assert_eq!(chosen(&show, "token=x"), (5.0, Origin::App, RequestedLatency::None));
        // The bounds apply to publishers, not to operators.
        table.set(&show, seconds(15.0)).unwrap();
        assert_eq!(chosen(&show, ""), (15.0, Origin::Set, RequestedLatency::None));
        assert_eq!(chosen(&other, ""), (6.0, Origin::Default, RequestedLatency::None));
        assert_eq!(chosen(&show, "a=b&latency=3.5&c"), (3.5, Origin::Publisher, RequestedLatency::Granted));
        table.unset(&show);
        assert_eq!(chosen(&show, ""), (5.0, Origin::App, RequestedLatency::None));
    }

    #[test]
    fn a_wish_never_keeps_a_publisher_off_the_air() {
        let bounds = Some("3-10".parse().unwrap());
        let table = LatencyTable::new(Latencies::parse("6", bounds).unwrap());
        let show = stream("live", "show");
        for (query, latency, requested) in [
            ("latency=3", 3.0, RequestedLatency::Granted),
            ("latency=10", 10.0, RequestedLatency::Granted),
            ("latency=2.9", 3.0, RequestedLatency::Bounded { wished: 2.9 }),
            ("latency=-1", 3.0, RequestedLatency::Bounded { wished: -1.0 }),
            ("latency=10.1", 10.0, RequestedLatency::Bounded { wished: 10.1 }),
            ("latency=1e300", 10.0, RequestedLatency::Bounded { wished: 1e300 }),
            ("latency=", 6.0, RequestedLatency::NotANumber),
            ("latency=NaN", 6.0, RequestedLatency::NotANumber),
            ("latency=inf", 6.0, RequestedLatency::NotANumber),
            ("latency=5s", 6.0, RequestedLatency::NotANumber),
            ("latencyx=5", 6.0, RequestedLatency::None),
            ("latency", 6.0, RequestedLatency::None),
            ("latency=4&latency=5", 4.0, RequestedLatency::Granted),
        ] {
            let (chosen, became) = table.choose(&show, query, None);
            assert_eq!((chosen.latency.as_secs_f64(), became), (latency, requested), "{query}");
        }
        let strict = LatencyTable::new(Latencies::parse("6", None).unwrap());
        let (chosen, requested) = strict.choose(&show, "latency=5", None);
        assert_eq!((chosen.from, requested), (Origin::Default, RequestedLatency::NotAllowed));
    }

    #[test]
    fn what_is_set_does_not_grow_without_end() {
        let table = LatencyTable::new(Latencies::parse("6", None).unwrap());
        for number in 0..MAX_SET {
            table.set(&stream("live", &number.to_string()), seconds(3.0)).unwrap();
        }
        assert_eq!(table.set(&stream("live", "more"), seconds(3.0)), Err(TableFull));
        table.set(&stream("live", "7"), seconds(5.0)).unwrap();
        table.unset(&stream("live", "0"));
        table.set(&stream("live", "more"), seconds(3.0)).unwrap();
        assert_eq!(table.all_set().len(), MAX_SET);
    }

    #[test]
    fn everything_that_follows_from_a_latency_follows() {
        let settings = crate::stream::core_tests::settings("auto");
        let at = settings.at(seconds(15.0));
        assert_eq!(at.timing, Timing::new(seconds(15.0)));
        assert_eq!(at.video, {
            let VideoSettings { encoder, preset, .. } = settings.video.clone();
            video_settings(encoder, preset, &at.timing)
        });
        assert_ne!(at.video, settings.video);
        assert_eq!(at.ladder, settings.ladder);
    }
}
