//! Where an archive's objects are. Text only.
//!
//! ```text
//! {app}/{name}/{rung}/{session}-{seq}.m4s          the broadcast's segments, which stay where they are
//! {app}/{name}/archive/{session}/index.m3u8        EVENT, in the end VOD; media playlists beside it: {rung}.m3u8
//! {app}/{name}/archive/{session}/recording.mp4     and recording-{rung}.mp4 for further rungs
//! {app}/{name}/archive/{session}/index-000000.json the index, page by page (super::page)
//! {app}/{name}/archive/{session}/sealed.json       written last: nothing is left to do
//! {app}/{name}/archive/{session}/parts/…           while a recording is put together
//! .encoder/archives/{app}/{name}/{session}         a note of whose it is, until it is complete
//! ```

use crate::store::ObjectName;
use hls::{RungName, SessionId};

/// The folder of a stream's archives.
const FOLDER: &str = "archive";
/// The folder of notes on all streams' archives. No application's name begins with a dot.
const NOTES: &str = ".encoder/archives";
const PAGE: &str = "index-";
const PAGE_END: &str = ".json";

/// One archive of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `{app}/{name}`
    stream: String,
    session: SessionId,
}

impl Place {
    /// The archive that began with a session of the stream `{app}/{name}`.
    pub fn new(stream: impl Into<String>, session: SessionId) -> Self {
        Self { stream: stream.into(), session }
    }

    /// `{app}/{name}` of its stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Its name among the stream's archives.
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// Where all of a stream's archives are.
    pub fn all(stream: &str) -> ObjectName {
        ObjectName::new(format!("{stream}/{FOLDER}"))
    }

    /// Its own folder.
    pub fn folder(&self) -> ObjectName {
        ObjectName::new(format!("{}/{FOLDER}/{}", self.stream, self.session))
    }

    /// The archive that an object of the stream belongs to.
    pub fn of_object(stream: &str, object: &ObjectName) -> Option<Self> {
        let path = object.as_str().strip_prefix(stream)?.strip_prefix('/')?;
        let (session, _) = path.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
        Some(Self::new(stream, SessionId::new(session).ok()?))
    }

    /// Where archives that are not complete are noted.
    pub fn notes() -> ObjectName {
        ObjectName::new(NOTES)
    }

    /// Its own note.
    pub fn note(&self) -> ObjectName {
        ObjectName::new(format!("{NOTES}/{}/{}", self.stream, self.session))
    }

    /// The archive that a note is on.
    pub fn of_note(object: &ObjectName) -> Option<Self> {
        let (stream, session) = object.as_str().strip_prefix(NOTES)?.strip_prefix('/')?.rsplit_once('/')?;
        let (app, name) = stream.split_once('/')?;
        let plain = hls::names::is_valid_name(app) && hls::names::is_valid_name(name);
        Some(Self::new(stream, SessionId::new(session).ok()?)).filter(|_| plain)
    }

    fn file(&self, file: &str) -> ObjectName {
        ObjectName::new(format!("{}/{file}", self.folder()))
    }

    /// A rendition's segments.
    pub fn rendition(&self, rung: &RungName) -> ObjectName {
        ObjectName::new(format!("{}/{rung}", self.stream))
    }

    /// A segment or init segment.
    pub fn media(&self, rung: &RungName, file: &str) -> ObjectName {
        ObjectName::new(format!("{}/{rung}/{file}", self.stream))
    }

    /// From a playlist to a rendition's segments.
    pub fn way_to_media(rung: &RungName) -> String {
        format!("../../{rung}/")
    }

    /// A rendition's playlist.
    pub fn playlist(&self, rung: &RungName) -> ObjectName {
        self.file(&format!("{rung}.m3u8"))
    }

    /// A rendition's playlist of pictures alone.
    pub fn pictures(&self, rung: &RungName) -> ObjectName {
        self.file(&format!("{rung}-pictures.m3u8"))
    }

    /// The multivariant playlist.
    pub fn multivariant(&self) -> ObjectName {
        self.file("index.m3u8")
    }

    /// The MP4: of the `first` rung that was asked for, or of a further one.
    pub fn recording(&self, rung: &RungName, first: bool) -> ObjectName {
        if first { self.file("recording.mp4") } else { self.file(&format!("recording-{rung}.mp4")) }
    }

    /// A page of the index.
    pub fn page(&self, number: u64) -> ObjectName {
        self.file(&format!("{PAGE}{number:06}{PAGE_END}"))
    }

    /// The number of the page that an object is.
    pub fn page_number(&self, object: &ObjectName) -> Option<u64> {
        let file = object.as_str().rsplit('/').next()?;
        let number = file.strip_prefix(PAGE)?.strip_suffix(PAGE_END)?.parse().ok()?;
        (self.page(number) == *object).then_some(number)
    }

    /// What says that the archive is complete.
    pub fn sealed(&self) -> ObjectName {
        self.file("sealed.json")
    }

    /// Where recordings are put together.
    pub fn parts(&self) -> ObjectName {
        self.file("parts")
    }

    /// What comes before the segments in a recording.
    pub fn header(&self, rung: &RungName, fingerprint: &str) -> ObjectName {
        self.file(&format!("parts/{rung}.{fingerprint}.header"))
    }

    /// A piece of a recording. Other sources have other fingerprints, so that a piece of this name is always the same.
    pub fn part(&self, rung: &RungName, fingerprint: &str, level: usize, index: usize) -> ObjectName {
        self.file(&format!("parts/{rung}.{fingerprint}.{level}-{index}"))
    }
}

/// Session and sequence number of a segment's file name.
pub fn parse_segment(file: &str) -> Option<(SessionId, u64)> {
    let (session, sequence) = file.strip_suffix(".m4s")?.rsplit_once('-')?;
    let parsed = (SessionId::new(session).ok()?, sequence.parse().ok()?);
    (hls::names::segment_name(&parsed.0, parsed.1) == file).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_told_from_others() {
        let place = Place::new("live/demo", SessionId::new("kx-0").unwrap());
        assert_eq!(place.page_number(&place.page(12)), Some(12));
        for other in ["index.m3u8", "index-12.json", "index-x.json", "sealed.json"] {
            assert_eq!(place.page_number(&place.file(other)), None, "{other}");
        }
        assert_eq!(Place::of_object("live/demo", &place.page(1)), Some(place.clone()));
        assert_eq!(Place::of_note(&place.note()), Some(place.clone()));
        assert_eq!(Place::of_note(&place.page(1)), None);
        assert_eq!(Place::of_object("live/dem", &place.page(1)), None);
        assert_eq!(parse_segment("kx-0-17.m4s").map(|(s, n)| (s.to_string(), n)), Some(("kx-0".into(), 17)));
        for other in ["kx-0-init.mp4", "kx-0-17.3.m4s", "17.m4s", "kx-0-017.m4s", "index.m3u8"] {
            assert_eq!(parse_segment(other), None, "{other}");
        }
    }
}
