//! Reads an archive from the store: its pages, and the stored segments after the last page. Of those segments only the
//! boxes are read.

use super::contents::Contents;
use super::each::{Failure, each, persist};
use super::names::{ArchivePlace, parse_segment};
use super::page::{BadPage, Page, PageEntry};
use crate::origin::StreamPath;
use hls::fmp4::index::{DamagedSegment, MediaKind, Scanner, SegmentIndex};
use hls::{RungName, SegmentInfo, SessionId, names};
use media::time::rescale;
use media::{MediaSpan, MediaTime, WallTime};
use std::collections::BTreeSet;
use std::sync::Arc;
use store::{Listed, ObjectName, Store, StoreError};

/// Concurrent reads.
const AT_A_TIME: usize = 16;
/// Most pages of one archive: half a year at one page a minute.
const MAX_PAGES: usize = 262_144;

/// Most archives of one stream that are looked at for the newest one.
const MOST_ARCHIVES: usize = 256;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store failed; retryable where its error says so.
    #[error(transparent)]
    Store(#[from] Failure),
    /// A page is damaged; a retry does not help.
    #[error("{object}: {error}")]
    Page {
        /// The damaged page.
        object: ObjectName,
        /// What is wrong with the page.
        error: BadPage,
    },
}

/// An archive as it is stored.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Contents of the pages.
    pub pages: Contents,
    /// Stored segments that no page names, each rendition's in order.
    pub rest: Vec<PageEntry>,
    /// All objects of the archive's folder.
    pub objects: Vec<Listed>,
}

/// All objects below a folder.
pub(crate) async fn list_all(store: &Arc<dyn Store>, folder: &ObjectName) -> Result<Vec<Listed>, Failure> {
    list_behind(store, folder, None).await
}

async fn list_behind(
    store: &Arc<dyn Store>,
    folder: &ObjectName,
    mut after: Option<ObjectName>,
) -> Result<Vec<Listed>, Failure> {
    let mut all = Vec::new();
    loop {
        let more = persist(folder, || store.list(folder, after.as_ref())).await?;
        let Some(last) = more.last() else { return Ok(all) };
        after = Some(last.name.clone());
        all.extend(more);
    }
}

/// The archives of the stream `{app}/{name}`, oldest first.
pub(crate) async fn archives(store: &Arc<dyn Store>, stream: &str) -> Result<Vec<ArchivePlace>, Failure> {
    let objects = list_all(store, &ArchivePlace::all(stream)).await?;
    let mut seen = BTreeSet::new();
    let places = objects.iter().filter_map(|listed| ArchivePlace::of_object(stream, &listed.name));
    Ok(places.filter(|place| seen.insert(place.session().clone())).collect())
}

/// A stream's newest archive that began at `since` or later; with `sealed`, `None` if that archive is not
/// complete. Reads at most a page of each archive's names.
///
/// # Errors
/// The store does not answer, or the stream has more than [`MOST_ARCHIVES`] archives since then.
pub(crate) async fn newest(
    store: &Arc<dyn Store>,
    stream: &StreamPath,
    since: WallTime,
    sealed: bool,
) -> Result<Option<ArchivePlace>, StoreError> {
    let stream = stream.to_string();
    let folder = ArchivePlace::all(&stream);
    // Sessions sort by age.
    let first = SessionId::from_start(since.unix_micros(), 0);
    let mut after = Some(ObjectName::new(format!("{folder}/{first}")));
    let mut newest = None;
    for _ in 0..MOST_ARCHIVES {
        let listed = store.list(&folder, after.as_ref()).await?;
        let last = listed.iter().rev().find_map(|listed| ArchivePlace::of_object(&stream, &listed.name));
        let Some(place) = last else {
            let Some(place): Option<ArchivePlace> = newest else { return Ok(None) };
            let complete = !sealed || store.read(&place.sealed()).await?.is_some();
            return Ok(complete.then_some(place));
        };
        // Names of the same archive are skipped: `0` is the character after the slash.
        after = Some(ObjectName::new(format!("{}0", place.folder())));
        newest = Some(place);
    }
    Err(StoreError::Unavailable("the stream has too many archives".into()))
}

/// The stream's archives that are not complete, oldest first.
pub(crate) async fn unsealed(store: &Arc<dyn Store>, stream: &str) -> Result<Vec<ArchivePlace>, Failure> {
    let objects = list_all(store, &ArchivePlace::all(stream)).await?;
    let names: BTreeSet<_> = objects.iter().map(|listed| &listed.name).collect();
    let mut seen = BTreeSet::new();
    let places = objects.iter().filter_map(|listed| ArchivePlace::of_object(stream, &listed.name));
    let first = places.filter(|place| seen.insert(place.session().clone()));
    Ok(first.filter(|place| !names.contains(&place.sealed())).collect())
}

/// Archives of all streams with a note that they are not complete, each with its owner.
pub(crate) async fn noted(store: &Arc<dyn Store>) -> Result<Vec<(ArchivePlace, String)>, Failure> {
    let notes = list_all(store, &ArchivePlace::notes()).await?;
    let places = notes.iter().filter_map(|listed| ArchivePlace::of_note(&listed.name)).collect();
    let read = each(places, AT_A_TIME, |place| {
        let (store, note) = (store.clone(), place.note());
        async move {
            let stored = persist(&note, || store.read(&note)).await?;
            Ok(stored.map(|stored| (place, String::from_utf8_lossy(&stored.body).into_owned())))
        }
    });
    Ok(read.await?.into_iter().flatten().collect())
}

/// Reads an archive with its pages and later segments.
///
/// # Errors
/// See [`LoadError`]. A segment that cannot be read is left out and becomes a gap.
pub(crate) async fn load(store: &Arc<dyn Store>, place: &ArchivePlace) -> Result<Loaded, LoadError> {
    let objects = list_all(store, &place.folder()).await?;
    let mut pages = Contents::default();
    // Page numbers are contiguous; pages after a missing one are ignored.
    let numbers: BTreeSet<u64> =
        objects.iter().filter_map(|listed| place.page_number(&listed.name)).collect();
    let numbers = (0..).take_while(|number| numbers.contains(number)).take(MAX_PAGES);
    let names: Vec<_> = numbers.map(|number| place.page(number)).collect();
    let read = each(names, AT_A_TIME, |name| {
        let store = store.clone();
        async move {
            let stored = persist(&name, || store.read(&name)).await?;
            let missing = || Failure { object: name.to_string(), error: StoreError::Missing };
            let page = Page::from_json(&stored.ok_or_else(missing)?.body);
            page.map_err(|error| LoadError::Page { object: name.clone(), error })
        }
    })
    .await?;
    read.into_iter().for_each(|page| pages.take(page));
    let rest = rest(store, place, &pages).await?;
    Ok(Loaded { pages, rest, objects })
}

/// A segment that no page names.
struct UnlistedSegment {
    info: SegmentInfo,
    shift: MediaSpan,
    kind: MediaKind,
    timescale: u32,
}

async fn rest(
    store: &Arc<dyn Store>,
    place: &ArchivePlace,
    pages: &Contents,
) -> Result<Vec<PageEntry>, LoadError> {
    let mut rest = Vec::new();
    for track in pages.tracks() {
        let kind = if track.is_audio() { MediaKind::Audio } else { MediaKind::Video };
        let timescale = track.timescale();
        let found: Vec<_> = find(store, place, pages, &track.rung)
            .await?
            .into_iter()
            .map(|(info, shift)| UnlistedSegment { info, shift, kind, timescale })
            .collect();
        let read = each(found, AT_A_TIME, |found| {
            let store = store.clone();
            let name = place.media(&found.info.rung, &found.info.name);
            async move { read_index(&store, &name, found).await }
        })
        .await?;
        rest.extend(read.into_iter().flatten());
    }
    Ok(rest)
}

/// A rendition's segments of the archive's sessions after the last segment that a page names, each with its epoch's
/// time shift. The segments' times are not known yet.
async fn find(
    store: &Arc<dyn Store>,
    place: &ArchivePlace,
    pages: &Contents,
    rung: &RungName,
) -> Result<Vec<(SegmentInfo, MediaSpan)>, Failure> {
    let folder = place.rendition(rung);
    let last = pages.lanes.get(rung).and_then(|lane| lane.last()).map(|entry| &entry.info);
    // Names sort by age. Objects that sort before the session's own name are older than the archive.
    let after = match last {
        Some(last) => place.media(rung, &last.name),
        None => place.media(rung, place.session().as_str()),
    };
    let objects = list_behind(store, &folder, Some(after)).await?;
    let file = |listed: &Listed| listed.name.as_str().rsplit('/').next().unwrap_or_default().to_owned();
    let files: BTreeSet<String> = objects.iter().map(file).collect();
    let mut init = last.map(|last| last.init.clone());
    let mut session = last.map(|last| last.session.clone());
    let mut sequence = last.map(|last| last.sequence);
    let mut found = Vec::new();
    for listed in &objects {
        let Some((of, number)) = parse_segment(&file(listed)) else { continue };
        let Some(epoch) = pages.epochs.iter().find(|epoch| epoch.session == of) else { continue };
        // A later session may begin at a sequence number that an earlier session has used.
        if session.as_ref() == Some(&of) && sequence.is_some_and(|last| number <= last) {
            continue;
        }
        let own = names::init_name(&of);
        if files.contains(&own) {
            init = Some(own);
        }
        let Some(init) = init.clone() else { continue };
        let info = SegmentInfo {
            rung: rung.clone(),
            sequence: number,
            discontinuity: session.as_ref() != Some(&of),
            // The epoch's start with its wall clock, as a reference: the segment's own times come from its boxes.
            start: epoch.start + epoch.shift,
            duration: MediaSpan::ZERO,
            wall: epoch.wall,
            name: file(listed),
            init,
            session: of.clone(),
            bytes: Some(listed.size),
        };
        (session, sequence) = (Some(of), Some(number));
        found.push((info, epoch.shift));
    }
    Ok(found)
}

async fn read_index(
    store: &Arc<dyn Store>,
    name: &ObjectName,
    found: UnlistedSegment,
) -> Result<Option<PageEntry>, LoadError> {
    let UnlistedSegment { mut info, shift, kind, timescale } = found;
    let mut scanner = Scanner::new(info.bytes.unwrap_or(0), kind);
    while let Some(wanted) = scanner.wanted() {
        let read = persist(name, || store.read_range(name, wanted.clone())).await?;
        if let Err(error) = scanner.take(&read.unwrap_or_default()) {
            return Ok(unreadable(name, &error));
        }
    }
    let index: SegmentIndex = match scanner.finish() {
        Ok(mut index) => {
            index.shift(shift.to_scaled(timescale));
            index
        }
        Err(error) => return Ok(unreadable(name, &error)),
    };
    let Some(span) = index.span() else { return Ok(None) };
    let time =
        |ticks: u64| MediaTime::from_scaled(i64::try_from(ticks).unwrap_or(i64::MAX / 90_000), timescale);
    let (start, end) = (time(span.start), time(span.end));
    info.wall = info.wall + (start - info.start);
    info.start = start;
    info.duration = (end - start).max(MediaSpan::from_ticks_90k(rescale(1, timescale.into(), 90_000).max(1)));
    let picture = index.first_sample_end().filter(|_| kind == MediaKind::Video);
    Ok(Some(PageEntry { info, index: Some(index), picture }))
}

fn unreadable(name: &ObjectName, error: &DamagedSegment) -> Option<PageEntry> {
    tracing::warn!(object = %name, %error, "a segment is left out of the archive");
    None
}
