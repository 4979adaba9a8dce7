//! One stream on an edge: where the stream is, and the media playlists that viewers follow. Each followed playlist is a
//! task that holds one request at the encoder; the versions go into an object cache, on which viewers' requests are held
//! as on an encoder ([`crate::origin`]).
//!
//! A playlist that stands still makes the task look up where the stream is, once a second for each stream, so a
//! takeover is followed within a second. Meanwhile the last version stays, and requests stay held.

use super::objects::{Keep, Outcome};
use super::places::Place;
use super::stored::is_part;
use super::upstream::{Answer, Kind, UpstreamError};
use super::{Shared, lock};
use crate::origin::cache::{MULTIVARIANT, playlist_path};
use crate::origin::{CachedObject, Reloadable, StreamPath};
use bytes::Bytes;
use listen::bucket::{Rate, TokenBucket};
use media::WallTime;
use metrics::counter;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{Caching, Object, content_type};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

/// Least interval between two looks at where a stream is.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A playlist without a request for this long is no longer followed: longer than a request is held, and than a
/// player waits between two requests.
const IDLE: Duration = Duration::from_secs(15);
/// Parts are fetched before they are asked for while a viewer has asked for one within this time.
const PARTS_WANTED: Duration = Duration::from_secs(10);
/// Pause before an encoder that did not have the playlist, or did not answer, is asked again.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a viewer waits for the first version of a playlist.
const FIRST_WITHIN: Duration = Duration::from_secs(4);
/// How long an answer to the encoder's newest objects that may change is kept.
const KEEP: Keep = Keep::For(Duration::from_secs(1));
/// Requests for media or rungs that the encoder does not have, for one stream: at once, and per second. Names of media
/// can be made up, and each would cost a request to the encoder.
const MISSES: Rate = Rate { burst: 128.0, per_second: 16.0 };

/// One stream.
pub(super) struct EdgeStream {
    path: StreamPath,
    shared: Arc<Shared>,
    place: watch::Sender<Place>,
    looked: tokio::sync::Mutex<Instant>,
    follows: Mutex<HashMap<String, Arc<Follow>>>,
    misses: Mutex<TokenBucket>,
    asked: Mutex<Instant>,
}

/// One followed playlist.
struct Follow {
    rung: String,
    asked: Mutex<Instant>,
    part_asked: Mutex<Option<Instant>>,
    state: watch::Sender<FollowState>,
    /// Whether a token of the stream's misses is to be given back once a version has come.
    paid: bool,
}

/// What is known of a followed playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FollowState {
    /// No version has come yet.
    Starting,
    /// There is a version.
    Shown,
    /// No version came.
    Gone,
}

/// The version that is shown.
struct Shown {
    claim: Arc<str>,
    since: WallTime,
    reload: Reloadable,
    /// Whether the next request asks for the newest version, because the encoder did not answer the last one.
    plainly: bool,
    /// The last number under which a former encoder's segment or part was shown.
    taken: Option<u64>,
}

/// What came of a request for the next version.
enum Asked {
    Answer(Result<Answer, UpstreamError>),
    /// The stream is elsewhere now.
    Moved,
    /// No viewer asks any more.
    Idle,
}

// === impl EdgeStream ===

impl EdgeStream {
    pub(super) fn new(path: StreamPath, place: Place, shared: Arc<Shared>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            path,
            shared,
            place: watch::Sender::new(place),
            looked: tokio::sync::Mutex::new(now),
            follows: Mutex::default(),
            misses: Mutex::new(TokenBucket::full(MISSES, now.into_std())),
            asked: Mutex::new(now),
        })
    }

    /// A viewer has asked for something of the stream.
    pub(super) fn touch(&self) {
        *lock(&self.asked) = Instant::now();
    }

    /// Whether the stream can be forgotten.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.follows).is_empty() && lock(&self.asked).elapsed() > IDLE
    }

    /// `{app}/{name}`
    pub(super) fn path(&self) -> &StreamPath {
        &self.path
    }

    /// The number of followed playlists.
    pub(super) fn followed(&self) -> usize {
        lock(&self.follows).len()
    }

    /// The encoder's address, if an encoder has the stream.
    pub(super) fn encoder(&self) -> Option<SocketAddr> {
        match *self.place.borrow() {
            Place::Encoder { address, .. } => Some(address),
            Place::Store { .. } | Place::Nowhere => None,
        }
    }

    /// When the stream was last claimed.
    fn claimed(&self) -> Option<WallTime> {
        match *self.place.borrow() {
            Place::Encoder { since, .. } | Place::Store { since, .. } => Some(since),
            Place::Nowhere => None,
        }
    }

    /// Looks up where the stream is, unless that was done within the last second.
    async fn look_again(&self) {
        let mut looked = self.looked.lock().await;
        if looked.elapsed() < LOOK_EVERY {
            return;
        }
        match self.shared.places.find(&self.path).await {
            Ok(place) => {
                self.place.send_if_modified(|known| {
                    let moved = *known != place;
                    if moved {
                        info!(stream = %self.path, place = %place, "the stream is elsewhere");
                        *known = place;
                    }
                    moved
                });
            }
            Err(error) => debug!(stream = %self.path, %error, "cannot look up where the stream is"),
        }
        *looked = Instant::now();
    }

    /// Follows a rung's playlist, and waits for its first version; `None` if there is none.
    pub(super) async fn playlist(self: Arc<Self>, rung: &str) -> Option<watch::Receiver<Arc<CachedObject>>> {
        let path = playlist_path(rung);
        if self.encoder().is_none() {
            self.look_again().await;
        }
        // Once more for a task that was just about to end.
        for _ in 0..2 {
            if let Some(versions) = self.shown(rung, &path) {
                return Some(versions);
            }
            let mut state = self.follow(rung)?.state.subscribe();
            let _ = timeout(FIRST_WITHIN, state.wait_for(|state| *state != FollowState::Starting)).await;
        }
        self.shown(rung, &path)
    }

    /// A playlist that is followed already.
    pub(super) fn shown(&self, rung: &str, path: &str) -> Option<watch::Receiver<Arc<CachedObject>>> {
        // The lock is held to the end: a task ends under the same lock, and not while a viewer finds its playlist.
        let follows = lock(&self.follows);
        let follow = follows.get(rung)?;
        *lock(&follow.asked) = Instant::now();
        self.shared.playlists.follow(&self.path, path)
    }

    /// The task that follows a playlist; `None` if no encoder has the stream, or too many playlists are asked for that
    /// do not exist.
    fn follow(self: &Arc<Self>, rung: &str) -> Option<Arc<Follow>> {
        let mut follows = lock(&self.follows);
        let vacant = match follows.entry(rung.to_owned()) {
            Entry::Occupied(follow) => return Some(Arc::clone(follow.get())),
            Entry::Vacant(vacant) => vacant,
        };
        self.encoder()?;
        let paid = !self.is_in_multivariant(&playlist_path(rung));
        if paid && !self.may_miss() {
            return None;
        }
        let follow = Arc::new(Follow {
            rung: rung.to_owned(),
            asked: Mutex::new(Instant::now()),
            part_asked: Mutex::new(None),
            state: watch::Sender::new(FollowState::Starting),
            paid,
        });
        vacant.insert(Arc::clone(&follow));
        let following =
            Following { stream: Arc::clone(self), path: playlist_path(rung), follow: Arc::clone(&follow) };
        tokio::spawn(async move { following.run().await });
        Some(follow)
    }

    /// Whether something may be asked for that may not exist. Give back what did exist.
    pub(super) fn may_miss(&self) -> bool {
        lock(&self.misses).take(MISSES, Instant::now().into_std())
    }

    pub(super) fn did_not_miss(&self) {
        lock(&self.misses).give_back(MISSES);
    }

    /// Asks for what may not exist, as often as the stream's misses allow. What a playlist names is asked for in any
    /// case: requests for made-up names must not keep media from viewers.
    async fn ask_within_misses(&self, named: bool, ask: impl Future<Output = Outcome>) -> Outcome {
        if named {
            return ask.await;
        }
        if !self.may_miss() {
            return Outcome::Failed;
        }
        let outcome = ask.await;
        if matches!(outcome, Outcome::Found(_)) {
            self.did_not_miss();
        }
        outcome
    }

    /// Whether the newest playlist of the rung names this media.
    fn is_in_playlist(&self, path: &str) -> bool {
        let Some((rung, file)) = path.split_once('/') else { return false };
        let playlist = playlist_path(rung);
        let followed = self.shared.playlists.get(&self.path, &playlist);
        let newest = followed.or_else(|| self.shared.objects.newest(&self.object(&playlist)));
        newest.is_some_and(|newest| names(&newest.object.body, file))
    }

    /// Whether a multivariant playlist names this media playlist.
    fn is_in_multivariant(&self, path: &str) -> bool {
        let newest = |query| self.shared.objects.newest(&self.object(&format!("{MULTIVARIANT}{query}")));
        let known = [newest(""), newest(FROM_START)];
        known.into_iter().flatten().any(|newest| names(&newest.object.body, path))
    }

    // === objects ===

    /// The name of an object of the stream among those in memory.
    pub(super) fn object(&self, path: &str) -> Arc<str> {
        format!("{}/{path}", self.path).into()
    }

    /// A viewer asks for media: if for a part, the next parts are fetched before they are asked for.
    pub(super) fn wants(&self, path: &str) {
        if let Some((rung, _)) = path.split_once('/')
            && is_part(path)
            && let Some(follow) = lock(&self.follows).get(rung)
        {
            *lock(&follow.part_asked) = Some(Instant::now());
        }
    }

    /// A segment, a part or an init segment.
    pub(super) async fn media(self: Arc<Self>, path: &str) -> Outcome {
        self.wants(path);
        self.fetch_media(path).await
    }

    async fn fetch_media(self: Arc<Self>, path: &str) -> Outcome {
        let name = self.object(path);
        let (stream, path) = (Arc::clone(&self), path.to_owned());
        let fetch = || async move {
            let named = stream.is_in_playlist(&path);
            stream.ask_within_misses(named, stream.ask_for_media(&path)).await
        };
        self.shared.objects.fetch(name, Keep::ForEver, fetch).await
    }

    async fn ask_for_media(&self, path: &str) -> Outcome {
        let asked = match self.encoder() {
            Some(encoder) => {
                let answer = self.shared.upstream.get(encoder, &self.path, path, Kind::Object, None).await;
                self.outcome(path, answer, Caching::Immutable)
            }
            None => Outcome::Missing,
        };
        match (&asked, &self.shared.stored) {
            // An encoder keeps what its playlists list; the store keeps everything but parts.
            (Outcome::Missing | Outcome::Failed, Some(stored)) => {
                match stored.media(&self.path, path).await {
                    Outcome::Missing => asked,
                    outcome => outcome,
                }
            }
            (Outcome::Missing | Outcome::Failed | Outcome::Found(_), _) => asked,
        }
    }

    fn outcome(&self, path: &str, answer: Result<Answer, UpstreamError>, caching: Caching) -> Outcome {
        match answer {
            Ok(Answer::Found { body, content_type, .. }) => {
                let object = Object { body, content_type, caching };
                Outcome::Found(Arc::new(CachedObject::new(object, None)))
            }
            Ok(Answer::Missing) => Outcome::Missing,
            Ok(Answer::NotYet) => Outcome::Failed,
            Err(error) => {
                debug!(stream = %self.path, path, %error, "encoder");
                Outcome::Failed
            }
        }
    }

    /// The multivariant playlist or the thumbnail: the encoder's, the recording's once the stream has ended, or the
    /// store's.
    pub(super) async fn small(self: Arc<Self>, path: &'static str) -> Outcome {
        let name = self.object(path);
        let stream = Arc::clone(&self);
        self.shared.objects.fetch(name, KEEP, || async move { stream.ask_for_small(path).await }).await
    }

    /// A playlist of the store.
    pub(super) async fn stored(self: Arc<Self>, path: &str) -> Outcome {
        let Some(stored) = self.shared.stored.clone() else { return Outcome::Missing };
        let name = self.object(path);
        let (stream, path) = (Arc::clone(&self), path.to_owned());
        let fetch = || async move {
            let named = stream.is_in_multivariant(&path);
            stream.ask_within_misses(named, stored.small(&stream.path, &path)).await
        };
        self.shared.objects.fetch(name, KEEP, fetch).await
    }

    /// The multivariant playlist of everything since the stream began, complete or not.
    pub(super) async fn from_start(self: Arc<Self>) -> Outcome {
        let Some(stored) = self.shared.stored.clone() else { return Outcome::Missing };
        let name = self.object(&format!("{MULTIVARIANT}{FROM_START}"));
        let stream = Arc::clone(&self);
        let fetch = || async move {
            match stream.claimed() {
                Some(claimed) => stored.archive(&stream.path, claimed, false).await,
                None => Outcome::Missing,
            }
        };
        self.shared.objects.fetch(name, KEEP, fetch).await
    }

    async fn ask_for_small(&self, path: &str) -> Outcome {
        if self.encoder().is_none() || self.has_ended() {
            self.look_again().await;
        }
        let from_encoder = match self.encoder() {
            Some(encoder) => {
                let answer = self.shared.upstream.get(encoder, &self.path, path, Kind::Object, None).await;
                if !matches!(answer, Ok(Answer::Found { .. })) {
                    self.look_again().await;
                }
                self.outcome(path, answer, Caching::None)
            }
            None => Outcome::Missing,
        };
        let Some(stored) = &self.shared.stored else { return from_encoder };
        match from_encoder {
            Outcome::Found(_) => from_encoder,
            // What viewers have of a stream whose encoder is away stands still.
            Outcome::Failed if self.shared.objects.newest(&self.object(path)).is_some() => Outcome::Failed,
            Outcome::Failed | Outcome::Missing => {
                let ended = matches!(*self.place.borrow(), Place::Store { ended: true, .. });
                if path.ends_with(".m3u8")
                    && let Some(claimed) = self.claimed()
                    && let found @ Outcome::Found(_) = stored.archive(&self.path, claimed, !ended).await
                {
                    return found;
                }
                stored.small(&self.path, path).await
            }
        }
    }

    /// Whether a followed playlist has its ENDLIST.
    fn has_ended(&self) -> bool {
        let follows = lock(&self.follows);
        follows.keys().any(|rung| {
            let versions = self.shared.playlists.follow(&self.path, &playlist_path(rung));
            versions.is_some_and(|versions| versions.borrow().reload.as_ref().is_some_and(|r| r.edge.ended))
        })
    }
}

// === the task that follows ===

struct Following {
    stream: Arc<EdgeStream>,
    path: String,
    follow: Arc<Follow>,
}

impl Drop for Following {
    /// A viewer who waits for the first version looks for it again once the state says that there is none.
    fn drop(&mut self) {
        self.end(&mut lock(&self.stream.follows));
        self.follow.state.send_replace(FollowState::Gone);
    }
}

impl Following {
    async fn run(&self) {
        let mut place = self.stream.place.subscribe();
        let mut shown: Option<Shown> = None;
        while !self.end_if_idle() {
            let now = place.borrow_and_update().clone();
            match (now, &shown) {
                // The last version stays for as long as viewers ask for it, unless the stream begins again.
                (Place::Encoder { claim, .. }, Some(last)) if last.has_ended() && last.claim == claim => {
                    self.stand_by(&mut place).await;
                }
                // It has begun again at an encoder that this edge cannot ask: viewers get it from the store.
                (Place::Store { ended: false, since }, Some(last))
                    if last.has_ended() && since > last.since =>
                {
                    return;
                }
                (Place::Store { .. } | Place::Nowhere, Some(last)) if last.has_ended() => {
                    self.stand_by(&mut place).await;
                }
                (Place::Encoder { address, claim, since }, _) => {
                    self.forget_ended(&mut shown);
                    let asked = self.ask(address, &claim, shown.as_ref(), &mut place).await;
                    if !self.settle(asked, claim, since, &mut shown).await {
                        return;
                    }
                }
                (Place::Store { .. } | Place::Nowhere, None) => return,
                (Place::Store { ended, since }, Some(last)) if ended || since > last.since => {
                    self.show_stored(ended, &mut shown).await;
                }
                (Place::Store { .. } | Place::Nowhere, Some(_)) => self.stand_still().await,
            }
        }
    }

    /// Ends the task if no viewer asks for the playlist: under the lock under which viewers find the playlist, so that no
    /// viewer finds a playlist that is removed a moment later.
    fn end_if_idle(&self) -> bool {
        let mut follows = lock(&self.stream.follows);
        let idle = self.is_idle();
        if idle {
            self.end(&mut follows);
        }
        idle
    }

    /// Removes the task and its playlist, but not those of a task that has begun since.
    fn end(&self, follows: &mut HashMap<String, Arc<Follow>>) {
        if follows.get(&self.follow.rung).is_some_and(|follow| Arc::ptr_eq(follow, &self.follow)) {
            self.stream.shared.playlists.remove(&self.stream.path, &self.path);
            follows.remove(&self.follow.rung);
        }
    }

    /// The stream has begun again under the name of one that ended: who comes now must not get the old playlist.
    fn forget_ended(&self, shown: &mut Option<Shown>) {
        if shown.as_ref().is_some_and(Shown::has_ended) {
            *shown = None;
            self.follow.state.send_replace(FollowState::Starting);
            self.stream.shared.playlists.remove(&self.stream.path, &self.path);
        }
    }

    /// Takes what came of a request for the next version. Returns whether to go on.
    async fn settle(
        &self,
        asked: Asked,
        claim: Arc<str>,
        since: WallTime,
        shown: &mut Option<Shown>,
    ) -> bool {
        match asked {
            Asked::Answer(Ok(Answer::Found { body, reload: Some(reload), .. })) => {
                let is_newer =
                    self.show(body, Shown { claim, since, reload, plainly: false, taken: None }, shown);
                if !is_newer {
                    sleep(PAUSE).await;
                }
                true
            }
            Asked::Moved | Asked::Idle => true,
            Asked::Answer(answer) => self.missed(answer, shown).await,
        }
    }

    fn is_idle(&self) -> bool {
        let versions = self.stream.shared.playlists.followers(&self.stream.path, &self.path);
        versions == 0 && lock(&self.follow.asked).elapsed() > IDLE
    }

    /// Asks the encoder for the version after the one that is shown.
    async fn ask(
        &self,
        address: SocketAddr,
        claim: &Arc<str>,
        shown: Option<&Shown>,
        place: &mut watch::Receiver<Place>,
    ) -> Asked {
        let next = shown.filter(|shown| shown.claim == *claim && !shown.plainly);
        let query = next.map(|shown| next_version(&shown.reload)).unwrap_or_default();
        let path = format!("{}{query}", self.path);
        let Shared { upstream, viewers, .. } = &*self.stream.shared;
        let report = viewers.report(&self.stream.path);
        let request = upstream.get(address, &self.stream.path, &path, Kind::Playlist, report);
        let mut request = std::pin::pin!(request);
        let mut moved = std::pin::pin!(moved(place, claim));
        let mut patience = next.map_or(LOOK_EVERY, |shown| standstill(&shown.reload));
        loop {
            // The request goes on while the store is asked.
            let look = async {
                sleep(patience).await;
                self.stream.look_again().await;
            };
            tokio::select! {
                // First: once the edge knows of the move, an answer of the former encoder is out of date.
                biased;
                () = &mut moved => return Asked::Moved,
                answer = &mut request => return Asked::Answer(answer),
                () = look => {}
            }
            patience = LOOK_EVERY;
            if self.is_idle() {
                return Asked::Idle;
            }
        }
    }

    /// Shows a version, unless the one that is shown is as new or newer: the versions of a claim do not go back. Returns
    /// whether the version is newer; if not, asking again must wait.
    fn show(&self, body: Bytes, mut version: Shown, shown: &mut Option<Shown>) -> bool {
        let age = |shown: &Shown| {
            let edge = shown.reload.edge;
            (edge.ended, edge.last_sequence, edge.open_parts)
        };
        if let Some(known) = shown.as_mut().filter(|known| known.claim == version.claim)
            && age(&version) <= age(known)
        {
            known.plainly = false;
            return false;
        }
        match shown {
            None if self.follow.paid => self.stream.did_not_miss(),
            Some(shown) if shown.claim != version.claim => counter!("encoder_edge_moves_total").increment(1),
            None | Some(_) => {}
        }
        version.taken = shown.as_ref().and_then(|known| known.taken_from(&version.claim));
        let Some(body) = version.without_taken(body) else {
            // The former encoder's last version stays until its successor has shown more.
            *shown = Some(version);
            return true;
        };
        let Shared { playlists, .. } = &*self.stream.shared;
        let object = Object { body, content_type: content_type::PLAYLIST, caching: Caching::None };
        playlists.put_playlist(&self.stream.path, &self.path, object, version.reload.clone());
        self.fetch_hinted(&version.reload);
        *shown = Some(version);
        self.follow.state.send_replace(FollowState::Shown);
        true
    }

    /// Fetches the part that comes next while viewers fetch parts: the encoder holds the request, so the part is here as
    /// soon as the playlist that lists it.
    fn fetch_hinted(&self, reload: &Reloadable) {
        let wanted = lock(&self.follow.part_asked).is_some_and(|asked| asked.elapsed() < PARTS_WANTED);
        if let Some(hint) = reload.hint.as_ref().filter(|_| wanted) {
            let (stream, path) = (Arc::clone(&self.stream), format!("{}/{hint}", self.follow.rung));
            tokio::spawn(async move { stream.fetch_media(&path).await });
        }
    }

    /// The encoder did not give a version. Returns whether to go on asking.
    async fn missed(&self, answer: Result<Answer, UpstreamError>, shown: &mut Option<Shown>) -> bool {
        match (answer, shown) {
            (Ok(Answer::NotYet), Some(shown)) => shown.plainly = true,
            (Ok(Answer::NotYet | Answer::Missing | Answer::Found { .. }), None) => return false,
            (Ok(Answer::Missing | Answer::Found { .. }), Some(_)) => {}
            (Err(error), shown) => {
                debug!(stream = %self.stream.path, playlist = self.path, %error, "encoder");
                if shown.is_none() {
                    return false;
                }
            }
        }
        self.stream.look_again().await;
        sleep(PAUSE).await;
        true
    }

    /// The stream has ended: waits until it may have begun again.
    async fn stand_by(&self, place: &mut watch::Receiver<Place>) {
        if timeout(LOOK_EVERY, place.changed()).await.is_err() {
            self.stream.look_again().await;
        }
    }

    /// No encoder has the stream: the version that is shown stays.
    async fn stand_still(&self) {
        sleep(LOOK_EVERY).await;
        self.stream.look_again().await;
    }

    /// The store has a later version: the last one, or those of an encoder that this edge cannot ask. The latter go on
    /// without held requests.
    async fn show_stored(&self, ended: bool, shown: &mut Option<Shown>) {
        let Shared { playlists, stored, .. } = &*self.stream.shared;
        if let (Some(stored), Some(shown)) = (stored, shown)
            && let Outcome::Found(last) = stored.small(&self.stream.path, &self.path).await
        {
            let is_last = ended && last.object.body.windows(ENDLIST.len()).any(|bytes| bytes == ENDLIST);
            if is_last || !ended {
                shown.reload.hint = None;
                shown.reload.edge.ended = is_last;
                let mut reload = shown.reload.clone();
                // Requests are answered with what there is, as after the end.
                reload.edge.ended = true;
                playlists.put_playlist(&self.stream.path, &self.path, last.object.clone(), reload);
            }
            if is_last {
                return;
            }
        }
        self.stand_still().await;
    }
}

impl Shown {
    fn has_ended(&self) -> bool {
        self.reload.edge.ended
    }

    /// The last number that viewers know from an encoder whose claim is not `claim`.
    fn taken_from(&self, claim: &Arc<str>) -> Option<u64> {
        if self.claim == *claim {
            return self.taken;
        }
        let edge = self.reload.edge;
        let last = edge.last_sequence.saturating_add(u64::from(edge.open_parts > 0));
        self.taken.max(Some(last))
    }

    /// The playlist without the segments whose numbers are taken; `None` if no other is listed.
    fn without_taken(&self, body: Bytes) -> Option<Bytes> {
        let Some(last) = self.taken else { return Some(body) };
        let edited = match std::str::from_utf8(&body).map(|text| hls::edit::without_head(text, last)) {
            Ok(Some(Cow::Owned(text))) => Bytes::from(text),
            Ok(None) => return None,
            Ok(Some(Cow::Borrowed(_))) | Err(_) => return Some(body),
        };
        Some(edited)
    }
}

/// Waits until another claim holds the stream, or none.
async fn moved(place: &mut watch::Receiver<Place>, held: &Arc<str>) {
    let is_elsewhere = |place: &Place| match place {
        Place::Encoder { claim, .. } => claim != held,
        Place::Store { .. } | Place::Nowhere => true,
    };
    // An error is impossible: the stream, which the task shares, has the sender.
    drop(place.wait_for(is_elsewhere).await);
}

/// Whether a playlist names an address: the whole of a line, or of an attribute in quotes.
fn names(playlist: &[u8], address: &str) -> bool {
    let Ok(text) = std::str::from_utf8(playlist) else { return false };
    text.match_indices(address).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + address.len()..]);
        let begins = before.is_empty() || before.ends_with(['\n', '"']);
        begins && (after.is_empty() || after.starts_with(['\n', '\r', '"']))
    })
}

/// The query that asks for everything since the stream began.
pub(super) const FROM_START: &str = "?from=START";

const ENDLIST: &[u8] = b"#EXT-X-ENDLIST";

/// The query that asks for the version after `reload`.
fn next_version(reload: &Reloadable) -> String {
    let edge = reload.edge;
    let segment = edge.last_sequence.saturating_add(1);
    match reload.part_target {
        Some(_) => format!("?_HLS_msn={segment}&_HLS_part={}", edge.open_parts),
        None => format!("?_HLS_msn={segment}"),
    }
}

/// How long after a version the next one is late.
fn standstill(reload: &Reloadable) -> Duration {
    (reload.part_target.unwrap_or(reload.target_duration) * 3 / 2).max(LOOK_EVERY)
}
