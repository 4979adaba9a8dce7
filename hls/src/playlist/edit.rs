//! Edits playlists that another process has rendered, as text. Only playlists of this crate are edited, so what each line
//! means is known. Rendering and reading back do not belong here.

use std::borrow::Cow;

const MEDIA_SEQUENCE: &str = "#EXT-X-MEDIA-SEQUENCE:";
const DISCONTINUITY_SEQUENCE: &str = "#EXT-X-DISCONTINUITY-SEQUENCE:";
const DISCONTINUITY: &str = "#EXT-X-DISCONTINUITY";
const MAP: &str = "#EXT-X-MAP:";

/// A media playlist without its segments up to the number `last`, as if the window had moved on; `None` if no segment is
/// left. The playlist is unchanged if it lists none of these segments, or does not say where its numbers begin, which
/// every playlist of this crate does.
///
/// An encoder that died has shown its viewers segments that its successor does not know of, and the successor gives
/// their numbers to segments of its own. A player that knows a number and finds another segment under it stands still
/// until the number has left the window.
pub fn without_head(playlist: &str, last: u64) -> Option<Cow<'_, str>> {
    let number =
        |tag: &str| -> Option<u64> { playlist.lines().find_map(|line| line.strip_prefix(tag))?.parse().ok() };
    let (first, discontinuities) = match (number(MEDIA_SEQUENCE), number(DISCONTINUITY_SEQUENCE)) {
        (Some(first), Some(discontinuities)) if first <= last => (first, discontinuities),
        (Some(_), _) | (None, _) => return Some(playlist.into()),
    };
    let lines: Vec<&str> = playlist.lines().collect();
    let body = lines.iter().position(|line| belongs_to_a_segment(line))?;
    let is_address = |line: &str| !line.starts_with('#') && !line.is_empty();
    let mut ends = (body..lines.len()).filter(|at| is_address(lines[*at]));
    let rest = ends.nth(usize::try_from(last - first).ok()?)? + 1;
    lines[rest..].iter().find(|line| is_address(line))?;
    let gone = &lines[body..rest];
    let passed = gone.iter().filter(|line| **line == DISCONTINUITY).count() as u64;
    let map = gone.iter().rev().find(|line| line.starts_with(MAP));

    let mut text = String::with_capacity(playlist.len());
    for line in &lines[..body] {
        if line.starts_with(MEDIA_SEQUENCE) {
            text.push_str(MEDIA_SEQUENCE);
            text.push_str(&last.saturating_add(1).to_string());
        } else if line.starts_with(DISCONTINUITY_SEQUENCE) {
            text.push_str(DISCONTINUITY_SEQUENCE);
            text.push_str(&discontinuities.saturating_add(passed).to_string());
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    let own_map =
        lines[rest..].iter().take_while(|line| line.starts_with('#')).any(|line| line.starts_with(MAP));
    for line in map.filter(|_| !own_map).into_iter().chain(&lines[rest..]) {
        text.push_str(line);
        text.push('\n');
    }
    Some(text.into())
}

/// Whether a line is one of a segment's: its tags, its parts or its address.
fn belongs_to_a_segment(line: &str) -> bool {
    let tags = ["#EXTINF:", MAP, "#EXT-X-PROGRAM-DATE-TIME:", "#EXT-X-PART:", "#EXT-X-GAP"];
    line == DISCONTINUITY || !line.starts_with('#') || tags.iter().any(|tag| line.starts_with(tag))
}

/// A playlist whose relative addresses lead to the same objects from a folder further up: `folder` is put before each.
pub fn moved_up(playlist: &str, folder: &str) -> String {
    let is_relative = |address: &str| !address.starts_with('/') && !address.contains("://");
    let mut text = String::with_capacity(playlist.len() + 256);
    for line in playlist.lines() {
        if !line.starts_with('#') {
            if !line.is_empty() && is_relative(line) {
                text.push_str(folder);
            }
            text.push_str(line);
        } else if let Some((before, rest)) = line.split_once("URI=\"")
            && is_relative(rest)
        {
            text.extend([before, "URI=\"", folder, rest]);
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:1\n#EXT-X-PART-INF:PART-TARGET=0.55000\n";
    const SEGMENTS: [&str; 3] = [
        "#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"b-init.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:a\n#EXTINF:1.00000,\nb-83.m4s\n",
        "#EXT-X-PROGRAM-DATE-TIME:b\n#EXT-X-PART:DURATION=0.5,URI=\"b-84.0.m4s\"\n#EXTINF:1.00000,\nb-84.m4s\n",
        "#EXT-X-PROGRAM-DATE-TIME:c\n#EXTINF:1.00000,\nb-85.m4s\n",
    ];
    const TAIL: &str = "#EXT-X-PROGRAM-DATE-TIME:d\n#EXT-X-PART:DURATION=0.5,URI=\"b-86.0.m4s\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"b-86.1.m4s\"\n";

    fn playlist(first: u64, discontinuities: u64, segments: &str) -> String {
        format!("{HEAD}{MEDIA_SEQUENCE}{first}\n{DISCONTINUITY_SEQUENCE}{discontinuities}\n{segments}{TAIL}")
    }

    #[test]
    fn the_head_goes_and_what_applies_to_the_rest_stays() {
        let whole = playlist(83, 1, &SEGMENTS.concat());
        assert_eq!(without_head(&whole, 82).as_deref(), Some(&*whole), "nothing to leave out");
        let map = "#EXT-X-MAP:URI=\"b-init.mp4\"\n";
        let expected = playlist(84, 2, &format!("{map}{}{}", SEGMENTS[1], SEGMENTS[2]));
        assert_eq!(without_head(&whole, 83).unwrap(), expected);
        assert_eq!(without_head(&whole, 84).unwrap(), playlist(85, 2, &format!("{map}{}", SEGMENTS[2])));
        assert_eq!(without_head(&whole, 85), None, "no segment is left");
        assert_eq!(without_head(&whole, u64::MAX), None);
    }

    #[test]
    fn a_discontinuity_further_on_stays_where_it_is() {
        let new = "#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"c-init.mp4\"\n#EXTINF:1.00000,\nc-84.m4s\n";
        let whole = playlist(83, 1, &format!("{}{new}", SEGMENTS[0]));
        assert_eq!(without_head(&whole, 83).unwrap(), playlist(84, 2, new));
    }

    #[test]
    fn what_is_no_playlist_of_ours_is_left_alone() {
        for text in ["", "#EXTM3U\n", "#EXT-X-MEDIA-SEQUENCE:x\n", "#EXT-X-MEDIA-SEQUENCE:1\na.m4s\n"] {
            assert_eq!(without_head(text, 5).as_deref(), Some(text));
        }
    }

    #[test]
    fn an_archives_addresses_are_right_further_up() {
        let text = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"audio.m3u8\"\n\
                    #EXT-X-STREAM-INF:BANDWIDTH=1\n720p.m3u8\n\
                    #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"360p-pictures.m3u8\",CODECS=\"avc1\"\n\n/absolute\n";
        let expected = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"archive/s/audio.m3u8\"\n\
                    #EXT-X-STREAM-INF:BANDWIDTH=1\narchive/s/720p.m3u8\n\
                    #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"archive/s/360p-pictures.m3u8\",CODECS=\"avc1\"\n\n\
                    /absolute\n";
        assert_eq!(moved_up(text, "archive/s/"), expected);
    }
}
