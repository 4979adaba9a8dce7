//! Where a stream's segments and playlists go: to the origin, which has them immediately, and to the store, which has
//! them once it has acknowledged the upload. Each has its own playlists, because at any time each can serve different
//! segments.

use crate::archive::{Archive, ArchiveManager, ArchiveSettings, RecordingHandle};
use crate::delivery::takeover::StreamStart;
use crate::delivery::{
    Delivery, DeliveryCounters, DeliveryEvent, DeliverySettings, FateListeners, Readers, Spool,
};
use crate::events::{Events, StreamEvents};
use crate::logging::{counts, nonzero};
use crate::origin::{ObjectCache, Reloadable, StreamInfo, StreamPath};
use crate::stream::Now;
use crate::stream::driver::StreamEnding;
use bytes::Bytes;
use hls::packager::{InitSegment, Output};
use hls::{Presentation, RungName, Timing, Track, TrackKind};
use media::{MediaTime, WallTime};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use store::latest::LatestWriter;
use store::{Caching, Object, ObjectName, Store, content_type};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// Object name of the stream's newest thumbnail, stored beside its playlists.
pub(crate) const THUMBNAIL: &str = "thumb.jpg";

/// Minimum interval between two thumbnails in the store: every write there is billed.
const PICTURE_EVERY: Duration = Duration::from_secs(4);

/// What the outputs of all streams of a process share.
#[derive(Clone)]
pub struct OutputOptions {
    /// The origin's object cache.
    pub cache: Arc<ObjectCache>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Space on a local disk for objects that the store accepts too slowly.
    pub spool: Option<Arc<Spool>>,
    /// The archive manager.
    pub archives: Arc<ArchiveManager>,
    /// What is kept of a broadcast; `None` is nothing.
    pub archive: Option<ArchiveSettings>,
    /// Who is told what happens to streams.
    pub events: Events,
}

/// The outputs of one stream.
pub struct Outputs {
    origin: Option<OriginSide>,
    store: Delivery<StorePlaylists>,
    written: JoinHandle<DeliveryCounters>,
    picture: Option<LatestWriter>,
    archive: Option<(Arc<ArchiveManager>, RecordingHandle)>,
    /// The stream's handle until it knows the stream's first session.
    unnamed: Option<StreamEvents>,
    acknowledged: mpsc::Receiver<Acknowledged>,
}

/// A segment that the store has acknowledged, as well as all earlier segments of its rendition.
#[derive(Debug)]
pub struct Acknowledged {
    /// The rendition.
    pub rung: RungName,
    /// End time of the segment.
    pub end: MediaTime,
    /// When the acknowledgement was known.
    pub at: Now,
}

/// A stream's output to the origin.
struct OriginSide {
    cache: Arc<ObjectCache>,
    path: StreamPath,
    presentation: Presentation,
    target_duration: Duration,
    part_target: Option<Duration>,
    info: StreamInfo,
    retention: Duration,
    /// Content types of media, by rendition.
    types: BTreeMap<RungName, MediaTypes>,
    /// Renditions whose playlist has changed since it was last rendered.
    touched: BTreeSet<RungName>,
    multivariant: Option<String>,
    cleared: bool,
}

#[derive(Clone, Copy)]
struct MediaTypes {
    init: &'static str,
    segment: &'static str,
}

impl Outputs {
    /// Creates outputs to the origin and the store. The origin's playlists begin with this encoder's own segments;
    /// their media sequence numbers continue.
    pub fn new(
        options: &OutputOptions,
        path: StreamPath,
        timing: &Timing,
        started: WallTime,
        beginning: &StreamStart,
    ) -> Self {
        let prefix = path.to_string();
        let settings = DeliverySettings {
            segment_deadline: timing.upload_deadline.to_duration(),
            archive: options.archive.is_some(),
            ..DeliverySettings::default()
        };
        let archive = options.archive.clone().map(|settings| {
            let settings = ArchiveSettings { target_duration: timing.target_duration, ..settings };
            let recording = match beginning {
                StreamStart::Fresh { .. } => options.archives.begin(&prefix, settings, started),
                StreamStart::TakenOver(inheritance) => {
                    options.archives.go_on(&prefix, settings, inheritance.past.clone())
                }
            };
            (options.archives.clone(), recording)
        });
        let discontinuities = beginning.discontinuities();
        let (presentation, inherited) = match beginning {
            StreamStart::Fresh { .. } => {
                (Presentation::new(timing).with_past_discontinuities(discontinuities), Vec::new())
            }
            StreamStart::TakenOver(inheritance) => {
                (Presentation::resume(timing, &inheritance.past), inheritance.playlists.clone())
            }
        };
        let (playlists, acknowledged) = StorePlaylists::over(presentation);
        let archived = archive.as_ref().map(|(_, recording)| recording.archive.clone());
        let picture = ObjectName::new(format!("{prefix}/{THUMBNAIL}"));
        let picture = LatestWriter::start(options.store.clone(), picture, PICTURE_EVERY);
        let (store, written) = Delivery::resume(
            options.store.clone(),
            options.spool.as_deref(),
            prefix,
            playlists.with_archive(archived),
            settings,
            inherited,
        );
        let info = StreamInfo {
            live: true,
            started,
            rungs: Vec::new(),
            latency_secs: timing.latency.as_secs_f64(),
            hold_back_secs: timing.parts.map_or(timing.hold_back, |parts| parts.hold_back).as_secs_f64(),
        };
        let origin = OriginSide {
            cache: options.cache.clone(),
            path,
            presentation: Presentation::for_origin(timing).with_past_discontinuities(discontinuities),
            target_duration: Duration::from_secs(timing.target_duration.into()),
            part_target: timing.parts.map(|parts| parts.target.to_duration()),
            info,
            retention: timing.retention.to_duration(),
            types: BTreeMap::new(),
            touched: BTreeSet::new(),
            multivariant: None,
            cleared: false,
        };
        Self {
            origin: Some(origin),
            picture: Some(picture),
            store,
            written,
            archive,
            unnamed: None,
            acknowledged,
        }
    }

    /// Creates an output to the store alone, with time-outs of an hour: every segment is written, however slow the
    /// store is.
    pub fn to_store(store: Arc<dyn Store>, timing: &Timing) -> Self {
        let patient = Duration::from_secs(3600);
        let settings = DeliverySettings {
            segment_deadline: patient,
            attempt_timeout: patient,
            longest_attempt: patient,
            second_attempt_after: patient,
            playlist_interval: Duration::from_secs(1),
            max_waiting_bytes: 256 << 20,
            seal_within: patient,
            ..DeliverySettings::default()
        };
        let (playlists, acknowledged) = StorePlaylists::new(timing);
        let (store, written) = Delivery::start(store, "", playlists, settings);
        Self { origin: None, picture: None, store, written, archive: None, unnamed: None, acknowledged }
    }

    /// Also tells a stream's handle when the stream's archive is complete and, for a new stream, which session is its
    /// first.
    #[must_use]
    pub(crate) fn with_events(mut self, events: &StreamEvents, beginning: &StreamStart) -> Self {
        if let Some((_, recording)) = &mut self.archive {
            recording.events = Some(events.clone());
        }
        self.unnamed = match beginning {
            StreamStart::Fresh { .. } => Some(events.clone()),
            // The archive has the name of another encoder's session.
            StreamStart::TakenOver(_) => None,
        };
        self
    }

    /// An epoch begins with these renditions.
    pub fn epoch(&mut self, tracks: Vec<Track>) {
        if let Some(origin) = &mut self.origin {
            origin.epoch(&tracks);
        }
        self.store.input(DeliveryEvent::Tracks(tracks));
    }

    /// An init segment, a media segment or a part. Parts go to the origin only, because a store cannot block a request
    /// until a part exists.
    pub fn packaged(&mut self, output: Output) {
        if let Some(origin) = &mut self.origin {
            origin.packaged(&output);
        }
        match output {
            Output::Init(init) => self.store.input(DeliveryEvent::Init(init)),
            Output::Part(_) => {}
            Output::Segment(segment) => {
                if let Some(events) = self.unnamed.take() {
                    events.has_session(&segment.info().session);
                }
                if let Some((_, recording)) = &self.archive {
                    recording.archive.packaged(&segment);
                }
                self.store.input(DeliveryEvent::Segment(segment));
            }
        }
    }

    /// A thumbnail of the stream, a JPEG; it replaces older thumbnails, including those not written yet.
    pub fn thumbnail(&mut self, picture: Bytes) {
        let object = Object { body: picture, content_type: content_type::JPEG, caching: Caching::None };
        if let Some(newest) = &self.picture {
            newest.put(object.clone());
        }
        if let Some(origin) = &self.origin {
            origin.cache.put(&origin.path, THUMBNAIL, object);
        }
    }

    /// Renders the playlists that have changed, once for all media that arrived together.
    pub fn refresh(&mut self) {
        if let Some(origin) = &mut self.origin {
            origin.refresh();
        }
    }

    /// Waits until [`Self::acknowledged`] or [`Self::is_fenced`] may have something new since the last call returned.
    pub async fn news(&mut self) {
        self.store.news().await;
    }

    /// Whether another encoder was found to write the same playlists in the store.
    pub fn is_fenced(&self) -> bool {
        self.store.is_fenced()
    }

    /// Segments that the store has acknowledged since the last call. To be called after [`Self::news`], because they
    /// accumulate between calls.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.acknowledged.try_iter().collect()
    }

    /// Counters of the writes to the store.
    pub fn stored(&self) -> DeliveryCounters {
        self.store.counters()
    }

    /// Another encoder has taken the stream over: removes this encoder's playlists from the origin without
    /// EXT-X-ENDLIST, because the stream has not ended.
    pub fn taken_over(mut self) {
        if let Some(origin) = self.origin.take() {
            origin.cache.remove_stream(&origin.path);
        }
    }

    /// Ends the playlists and waits until everything is written. That another encoder has taken the stream over may be
    /// detected only now; the stream then has not ended, and is removed from the origin.
    pub async fn ended(mut self) -> StreamEnding {
        let shown = self.origin.as_ref().map(|origin| (origin.cache.clone(), origin.path.clone()));
        if let Some(origin) = self.origin.take() {
            origin.end();
        }
        self.store.input(DeliveryEvent::End);
        let stored = self.written.await;
        let is_sealed = stored.as_ref().is_ok_and(|counters| counters.sealed);
        let is_fenced = stored.as_ref().is_ok_and(|counters| counters.fenced);
        match stored {
            Ok(_) if is_fenced => {
                if let Some((cache, path)) = shown {
                    cache.remove_stream(&path);
                }
            }
            Ok(counters) if is_sealed => {
                let gaps = counts(counters.gaps_by_reason());
                info!(segments = counters.segments, bytes = counters.bytes, gaps, "stored");
            }
            Ok(counters) => warn!(
                segments = counters.segments,
                failures = nonzero(counters.failures),
                last_failure = counters.last_failure,
                "the store does not have the last playlists"
            ),
            Err(error) => error!(%error, "writing to the store failed"),
        }
        match self.archive {
            Some((manager, recording)) if is_sealed => manager.finish(recording),
            Some((manager, recording)) => manager.finish_in_background(recording),
            None => {}
        }
        if is_fenced { StreamEnding::TakenOver } else { StreamEnding::Ended }
    }
}

impl OriginSide {
    fn epoch(&mut self, tracks: &[Track]) {
        if !self.cleared {
            // Remove an earlier stream of this name, which was kept for its last viewers.
            self.cache.remove_stream(&self.path);
            self.cleared = true;
        }
        self.presentation.set_tracks(tracks);
        for track in tracks {
            let types = match track.kind {
                TrackKind::Video(_) => {
                    MediaTypes { init: content_type::VIDEO_INIT, segment: content_type::VIDEO_SEGMENT }
                }
                TrackKind::Audio(_) => MediaTypes { init: content_type::AUDIO, segment: content_type::AUDIO },
            };
            self.types.insert(track.rung.clone(), types);
        }
        self.info.rungs = tracks.iter().map(|track| track.rung.to_string()).collect();
        self.cache.set_info(&self.path, self.info.clone());
    }

    fn packaged(&mut self, output: &Output) {
        match output {
            Output::Init(InitSegment { rung, name, body }) => {
                if let Some(types) = self.types.get(rung) {
                    self.put_media(rung, name, body.clone(), types.init);
                }
                if let Output::Init(init) = output {
                    self.presentation.add_init(init);
                }
            }
            Output::Part(part) => {
                let info = part.info();
                if let (Some(body), Some(types)) = (part.body(), self.types.get(&info.rung)) {
                    self.put_media(&info.rung, &info.name, body.clone(), types.segment);
                }
                self.presentation.add_part(info.clone());
                self.touched.insert(info.rung.clone());
            }
            Output::Segment(segment) => {
                let info = segment.info();
                if let (Some(body), Some(types)) = (segment.body(), self.types.get(&info.rung)) {
                    self.put_media(&info.rung, &info.name, body.clone(), types.segment);
                }
                self.presentation.add(info.clone());
                self.touched.insert(info.rung.clone());
            }
        }
    }

    fn put_media(&self, rung: &RungName, name: &str, body: Bytes, content_type: &'static str) {
        let object = Object { body, content_type, caching: Caching::Immutable };
        self.cache.put(&self.path, &format!("{rung}/{name}"), object);
    }

    fn refresh(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        let multivariant =
            self.presentation.multivariant().filter(|text| self.multivariant.as_ref() != Some(text));
        if multivariant.is_some() {
            // A new rendition appears in the rendition reports of all others: render all playlists.
            self.touched.extend(self.types.keys().cloned());
        }
        for rung in std::mem::take(&mut self.touched) {
            if let Some(text) = self.presentation.media_playlist(&rung)
                && let Some(edge) = self.presentation.edge(&rung)
            {
                let path = format!("{rung}/index.m3u8");
                let reload = Reloadable {
                    edge,
                    target_duration: self.target_duration,
                    part_target: self.part_target,
                    hint: self.presentation.hint(&rung).map(Into::into),
                };
                self.cache.put_playlist(&self.path, &path, playlist(text), reload);
            }
        }
        // Written last, so that the multivariant playlist never names a rendition without a media playlist.
        if let Some(text) = multivariant {
            self.cache.put(&self.path, "index.m3u8", playlist(text.clone()));
            self.multivariant = Some(text);
        }
        for expired in self.presentation.take_expired() {
            self.cache.remove(&self.path, &format!("{}/{}", expired.rung, expired.name));
        }
    }

    /// Ends the playlists; viewers can read the rest for the retention time.
    fn end(mut self) {
        self.presentation.end();
        self.touched.extend(self.types.keys().cloned());
        self.refresh();
        self.info.live = false;
        let Self { cache, path, info, retention, .. } = self;
        if cache.info(&path).is_none_or(|shown| shown.started != info.started) {
            return;
        }
        cache.set_info(&path, info.clone());
        tokio::spawn(async move {
            tokio::time::sleep(retention).await;
            if cache.info(&path).is_some_and(|shown| shown.started == info.started) {
                cache.remove_stream(&path);
            }
        });
    }
}

fn playlist(text: String) -> Object {
    Object { body: text.into(), content_type: content_type::PLAYLIST, caching: Caching::None }
}

/// Most acknowledged segments that wait to be counted in the delay statistics; further ones are left out of the
/// statistics. The stream's driver takes them as soon as there are any.
const MAX_ACKNOWLEDGED: usize = 1024;

/// The store's playlists: a presentation of the acknowledged segments, and what else learns of the segments' fates.
pub struct StorePlaylists {
    presentation: Presentation,
    acknowledged: mpsc::SyncSender<Acknowledged>,
    archive: Option<Archive>,
}

impl StorePlaylists {
    /// Creates empty playlists, and returns the receiver of acknowledgements.
    pub fn new(timing: &Timing) -> (Self, mpsc::Receiver<Acknowledged>) {
        Self::over(Presentation::new(timing))
    }

    /// Continues a presentation, and returns the receiver of further acknowledgements.
    pub fn over(presentation: Presentation) -> (Self, mpsc::Receiver<Acknowledged>) {
        let (acknowledged, receiver) = mpsc::sync_channel(MAX_ACKNOWLEDGED);
        (Self { presentation, acknowledged, archive: None }, receiver)
    }

    /// Also tells an archive, if one is kept, each segment's final fate.
    #[must_use]
    pub fn with_archive(self, archive: Option<Archive>) -> Self {
        Self { archive, ..self }
    }
}

impl Readers for StorePlaylists {
    type Playlists = Presentation;

    fn split(self) -> (Presentation, FateListeners) {
        (self.presentation, FateListeners::new(self.acknowledged, self.archive))
    }
}
