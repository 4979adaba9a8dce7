//! Names of an archive's objects. No store access here.
//!
//! ```text
//! {app}/{name}/{rung}/{session}-{seq}.m4s          the broadcast's segments, never moved
//! {app}/{name}/archive/{session}/index.m3u8        EVENT, VOD once sealed; media playlists beside it: {rung}.m3u8
//! {app}/{name}/archive/{session}/recording.mp4     and recording-{rung}.mp4 for further rungs
//! {app}/{name}/archive/{session}/index-000000.json the index, page by page (super::page)
//! {app}/{name}/archive/{session}/sealed.json       written last: marks the archive as complete
//! {app}/{name}/archive/{session}/parts/…           intermediate pieces of recordings
//! .encoder/archives/{app}/{name}/{session}         a note with the owner, until the archive is complete
//! ```

use hls::{RungName, SessionId};
use store::ObjectName;

/// The folder of a stream's archives.
pub(crate) const FOLDER: &str = "archive";
/// The folder of notes on all streams' archives. The leading dot is safe: no application's name begins with one.
const NOTES: &str = ".encoder/archives";
const PAGE: &str = "index-";
const PAGE_END: &str = ".json";

/// One archive of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivePlace {
    /// `{app}/{name}`
    stream: String,
    session: SessionId,
}

impl ArchivePlace {
    /// The archive whose first session is `session`, of the stream `{app}/{name}`.
    pub fn new(stream: impl Into<String>, session: SessionId) -> Self {
        Self { stream: stream.into(), session }
    }

    /// The stream, `{app}/{name}`.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The archive's first session, which names the archive within its stream.
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// The folder of all archives of a stream.
    pub fn all(stream: &str) -> ObjectName {
        ObjectName::new(format!("{stream}/{FOLDER}"))
    }

    /// The archive's folder.
    pub fn folder(&self) -> ObjectName {
        ObjectName::new(format!("{}/{FOLDER}/{}", self.stream, self.session))
    }

    /// The archive that one of the stream's objects belongs to.
    pub fn of_object(stream: &str, object: &ObjectName) -> Option<Self> {
        let path = object.as_str().strip_prefix(stream)?.strip_prefix('/')?;
        let (session, _) = path.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
        Some(Self::new(stream, SessionId::new(session).ok()?))
    }

    /// The folder of the notes on archives that are not complete.
    pub fn notes() -> ObjectName {
        ObjectName::new(NOTES)
    }

    /// The archive's note.
    pub fn note(&self) -> ObjectName {
        ObjectName::new(format!("{NOTES}/{}/{}", self.stream, self.session))
    }

    /// The archive that a note refers to.
    pub fn of_note(object: &ObjectName) -> Option<Self> {
        let (stream, session) = object.as_str().strip_prefix(NOTES)?.strip_prefix('/')?.rsplit_once('/')?;
        let (app, name) = stream.split_once('/')?;
        let plain = media::is_valid_name(app) && media::is_valid_name(name);
        Some(Self::new(stream, SessionId::new(session).ok()?)).filter(|_| plain)
    }

    fn file(&self, file: &str) -> ObjectName {
        ObjectName::new(format!("{}/{file}", self.folder()))
    }

    /// The folder of a rendition's segments.
    pub fn rendition(&self, rung: &RungName) -> ObjectName {
        ObjectName::new(format!("{}/{rung}", self.stream))
    }

    /// A media segment or init segment of a rendition.
    pub fn media(&self, rung: &RungName, file: &str) -> ObjectName {
        ObjectName::new(format!("{}/{rung}/{file}", self.stream))
    }

    /// Relative path from the stream to the archive's objects.
    pub fn way_from_stream(&self) -> String {
        format!("{FOLDER}/{}/", self.session)
    }

    /// Relative path from a playlist to a rendition's segments.
    pub fn way_to_media(rung: &RungName) -> String {
        format!("../../{rung}/")
    }

    /// A rendition's media playlist.
    pub fn playlist(&self, rung: &RungName) -> ObjectName {
        self.file(&format!("{rung}.m3u8"))
    }

    /// A rendition's I-frame playlist.
    pub fn pictures(&self, rung: &RungName) -> ObjectName {
        self.file(&format!("{rung}-pictures.m3u8"))
    }

    /// The multivariant playlist.
    pub fn multivariant(&self) -> ObjectName {
        self.file("index.m3u8")
    }

    /// The MP4 of a rung; `first` if the rung is the first that was requested.
    pub fn recording(&self, rung: &RungName, first: bool) -> ObjectName {
        if first { self.file("recording.mp4") } else { self.file(&format!("recording-{rung}.mp4")) }
    }

    /// A page of the index.
    pub fn page(&self, number: u64) -> ObjectName {
        self.file(&format!("{PAGE}{number:06}{PAGE_END}"))
    }

    /// The page number of an object; `None` if it is not a page.
    pub fn page_number(&self, object: &ObjectName) -> Option<u64> {
        let file = object.as_str().rsplit('/').next()?;
        let number = file.strip_prefix(PAGE)?.strip_suffix(PAGE_END)?.parse().ok()?;
        (self.page(number) == *object).then_some(number)
    }

    /// The mark that the archive is complete.
    pub fn sealed(&self) -> ObjectName {
        self.file("sealed.json")
    }

    /// The folder of the intermediate pieces of recordings.
    pub fn parts(&self) -> ObjectName {
        self.file("parts")
    }

    /// The part of a recording in front of its segments.
    pub fn header(&self, rung: &RungName, fingerprint: &str) -> ObjectName {
        self.file(&format!("parts/{rung}.{fingerprint}.header"))
    }

    /// An intermediate piece of a recording. Other sources have other fingerprints, so a piece of this name always has
    /// the same contents.
    pub fn part(&self, rung: &RungName, fingerprint: &str, level: usize, index: usize) -> ObjectName {
        self.file(&format!("parts/{rung}.{fingerprint}.{level}-{index}"))
    }
}

/// Session and sequence number in a segment's file name.
pub(crate) fn parse_segment(file: &str) -> Option<(SessionId, u64)> {
    let (session, sequence) = file.strip_suffix(".m4s")?.rsplit_once('-')?;
    let parsed = (SessionId::new(session).ok()?, sequence.parse().ok()?);
    (hls::names::segment_name(&parsed.0, parsed.1) == file).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_told_from_others() {
        let place = ArchivePlace::new("live/demo", SessionId::new("kx-0").unwrap());
        assert_eq!(place.page_number(&place.page(12)), Some(12));
        for other in ["index.m3u8", "index-12.json", "index-x.json", "sealed.json"] {
            assert_eq!(place.page_number(&place.file(other)), None, "{other}");
        }
        assert_eq!(ArchivePlace::of_object("live/demo", &place.page(1)), Some(place.clone()));
        assert_eq!(ArchivePlace::of_note(&place.note()), Some(place.clone()));
        assert_eq!(ArchivePlace::of_note(&place.page(1)), None);
        assert_eq!(ArchivePlace::of_object("live/dem", &place.page(1)), None);
        assert_eq!(parse_segment("kx-0-17.m4s").map(|(s, n)| (s.to_string(), n)), Some(("kx-0".into(), 17)));
        for other in ["kx-0-init.mp4", "kx-0-17.3.m4s", "17.m4s", "kx-0-017.m4s", "index.m3u8"] {
            assert_eq!(parse_segment(other), None, "{other}");
        }
    }
}
