//! An audit of a bucket's whole history: reads every version of every playlist and checks that each object it names
//! existed at that moment, and for as long as the playlist named it.

use super::objects::{Entry, Object};
use crate::playlist;
use std::collections::{BTreeMap, BTreeSet};

/// The result of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All violations found.
    pub complaints: Vec<String>,
    /// Number of playlist versions.
    pub versions: usize,
    /// Segments named in any playlist version, gaps not counted.
    pub segments: usize,
    /// Gaps named in any playlist version.
    pub gaps: usize,
    /// Number of media playlists whose last version has EXT-X-ENDLIST, and number of all media playlists.
    pub ended: (usize, usize),
}

#[derive(Default)]
struct Watcher {
    report: Report,
    there: BTreeSet<String>,
    /// Objects named by the newest version of each playlist.
    named: BTreeMap<String, BTreeSet<String>>,
    /// First and last media sequence number in each playlist's newest version; and below, the URI of each number.
    numbers: BTreeMap<String, (u64, u64)>,
    uris: BTreeMap<(String, u64), (String, bool)>,
    ended: BTreeMap<String, bool>,
}

/// Audits the history of a bucket.
pub fn audit(journal: &[Entry], bucket: &str) -> Report {
    let mut watcher = Watcher::default();
    for entry in journal.iter().filter(|entry| entry.bucket == bucket) {
        match &entry.object {
            None => {
                watcher.there.remove(&entry.name);
                for (playlist, named) in &watcher.named {
                    if named.contains(&entry.name) {
                        let text = format!("{} was removed while {playlist} named it", entry.name);
                        watcher.report.complaints.push(text);
                    }
                }
            }
            Some(object) => {
                watcher.there.insert(entry.name.clone());
                watcher.headers(object);
                if entry.name.ends_with(".m3u8") {
                    watcher.playlist(object);
                }
            }
        }
    }
    let Watcher { mut report, uris, ended, .. } = watcher;
    report.gaps = uris.values().filter(|(_, gap)| *gap).count();
    report.segments = uris.len() - report.gaps;
    report.ended = (ended.values().filter(|ended| **ended).count(), ended.len());
    report
}

impl Watcher {
    fn complain(&mut self, text: String) {
        self.report.complaints.push(text);
    }

    fn headers(&mut self, object: &Object) {
        let Object { name, cache_control, content_type, .. } = object;
        let media = name.ends_with(".m4s") || name.ends_with("-init.mp4");
        let good =
            if media { cache_control.contains("immutable") } else { cache_control.contains("no-store") };
        if !good {
            self.complain(format!("{name} has Cache-Control {cache_control:?}"));
        }
        if content_type.is_empty() {
            self.complain(format!("{name} has no Content-Type"));
        }
    }

    fn playlist(&mut self, object: &Object) {
        self.report.versions += 1;
        let name = &object.name;
        let text = String::from_utf8_lossy(&object.body);
        let named = if text.contains("#EXTINF") { self.media(name, &text) } else { multivariant(&text) };
        let named: BTreeSet<_> = match named {
            Ok(uris) => uris.iter().map(|uri| join(name, uri)).collect(),
            Err(error) => {
                self.complain(format!("{name} cannot be read: {error:#}"));
                return;
            }
        };
        for uri in &named {
            if !self.there.contains(uri) {
                self.complain(format!(
                    "{name} of generation {} names {uri}, which is not there",
                    object.generation
                ));
            }
        }
        self.named.insert(name.clone(), named);
    }

    /// URIs that a media playlist requires to be readable. Also checks that its media sequence numbers do not go back
    /// and keep their URIs.
    fn media(&mut self, name: &str, text: &str) -> anyhow::Result<Vec<String>> {
        let media = playlist::media(text)?;
        let numbers = media.segments.first().zip(media.segments.last()).map(|(a, b)| (a.msn, b.msn));
        if let Some((first, last)) = numbers
            && let Some((first_before, last_before)) = self.numbers.insert(name.to_owned(), (first, last))
            && (first < first_before || last < last_before)
        {
            self.complain(format!("{name} went back from {first_before}–{last_before} to {first}–{last}"));
        }
        for segment in &media.segments {
            let key = (name.to_owned(), segment.msn);
            let now = (segment.uri.clone(), segment.gap);
            if let Some(before) = self.uris.insert(key, now.clone())
                && before != now
            {
                self.complain(format!("{name}: number {} was {before:?}, then {now:?}", segment.msn));
            }
        }
        if self.ended.insert(name.to_owned(), media.ended) == Some(true) && !media.ended {
            self.complain(format!("{name} had ended and goes on"));
        }
        let readable = media.segments.iter().filter(|segment| !segment.gap);
        let maps = readable.clone().filter_map(|segment| segment.map.clone());
        Ok(readable.map(|segment| segment.uri.clone()).chain(maps).collect())
    }
}

fn multivariant(text: &str) -> anyhow::Result<Vec<String>> {
    Ok(playlist::multivariant(text)?.playlists())
}

/// Resolves a relative URI against the name of the object that contains it.
fn join(object: &str, uri: &str) -> String {
    let mut parts: Vec<_> = object.split('/').collect();
    parts.pop();
    for part in uri.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}
