//! How a player follows a live media playlist: which request follows which response. Pure, without I/O.

/// The edge of one version of a media playlist: identifies the version and determines the request for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Media sequence number of the first segment that is not listed completely.
    pub msn: u64,
    /// Number of listed parts of that segment.
    pub parts: u64,
    /// Whether the playlist has parts (EXT-X-PART-INF).
    pub has_parts: bool,
    /// Whether the server holds blocking reloads (CAN-BLOCK-RELOAD=YES).
    pub can_block: bool,
    /// EXT-X-TARGETDURATION in seconds.
    pub target_duration: u64,
    /// Whether the playlist has EXT-X-ENDLIST: no further version will come.
    pub ended: bool,
}

impl Edge {
    /// Parses a playlist; `None` if the text is not a playlist or has no media sequence number.
    pub fn of(text: &str) -> Option<Self> {
        let value = |tag: &str| text.lines().find_map(|line| line.strip_prefix(tag)).map(str::trim);
        let number = |tag: &str| value(tag).and_then(|v| v.parse().ok());
        let control = value("#EXT-X-SERVER-CONTROL:").unwrap_or_default();
        let mut edge = Self {
            msn: number("#EXT-X-MEDIA-SEQUENCE:")?,
            parts: 0,
            has_parts: value("#EXT-X-PART-INF:").is_some(),
            can_block: control.split(',').any(|attribute| attribute == "CAN-BLOCK-RELOAD=YES"),
            target_duration: number("#EXT-X-TARGETDURATION:")?,
            ended: text.lines().any(|line| line == "#EXT-X-ENDLIST"),
        };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if line.starts_with("#EXT-X-PART:") {
                edge.parts += 1;
            } else if !line.starts_with('#') {
                // The parts so far belong to this segment.
                edge.msn += 1;
                edge.parts = 0;
            }
        }
        Some(edge)
    }

    /// Query string of a blocking reload for the next version; `None` if the server does not support that.
    pub fn blocking_query(&self) -> Option<String> {
        let Self { msn, parts, has_parts, can_block, .. } = self;
        can_block.then(|| match has_parts {
            true => format!("_HLS_msn={msn}&_HLS_part={parts}"),
            false => format!("_HLS_msn={msn}"),
        })
    }
}

/// A listed part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Media sequence number of its segment.
    pub(super) msn: u64,
    /// Its number in the segment, from 0.
    pub(super) number: u64,
    /// Its URI as listed.
    pub(super) uri: String,
}

/// All listed parts in their order; empty if the text is not a playlist.
pub(super) fn parts(text: &str) -> Vec<Part> {
    let first = text.lines().find_map(|line| line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:"));
    let Some(mut msn) = first.and_then(|number| number.trim().parse().ok()) else { return Vec::new() };
    let mut number = 0;
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(attributes) = line.strip_prefix("#EXT-X-PART:") {
            let uri = attributes.split_once("URI=\"").and_then(|(_, rest)| rest.split('"').next());
            found.extend(uri.map(|uri| Part { msn, number, uri: uri.to_owned() }));
            number += 1;
        } else if !line.starts_with('#') {
            msn += 1;
            number = 0;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,HOLD-BACK=6\n\
        #EXT-X-MEDIA-SEQUENCE:41\n#EXTINF:2,\na.m4s\n#EXTINF:2,\nb.m4s\n";

    #[test]
    fn whole_segments_are_asked_for_by_number() {
        let edge = Edge::of(PLAIN).unwrap();
        assert_eq!((edge.msn, edge.parts, edge.has_parts, edge.target_duration), (43, 0, false, 2));
        assert_eq!(edge.blocking_query().unwrap(), "_HLS_msn=43");
        let polled = Edge::of(&PLAIN.replace("CAN-BLOCK-RELOAD=YES,", "")).unwrap();
        assert_eq!(polled.blocking_query(), None);
    }

    #[test]
    fn parts_are_asked_for_one_by_one() {
        let part = "#EXT-X-PART:DURATION=0.5,URI=\"p\"\n";
        let head = PLAIN.replace("#EXT-X-MEDIA", "#EXT-X-PART-INF:PART-TARGET=0.5\n#EXT-X-MEDIA");
        // The parts of a complete segment precede its EXTINF.
        let text =
            format!("{}{part}{part}#EXTINF:1,\nc.m4s\n{part}#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"q\"\n", head);
        let edge = Edge::of(&text).unwrap();
        assert_eq!((edge.msn, edge.parts), (44, 1));
        assert_eq!(edge.blocking_query().unwrap(), "_HLS_msn=44&_HLS_part=1");
        assert_eq!(Edge::of(&head).unwrap().blocking_query().unwrap(), "_HLS_msn=43&_HLS_part=0");
        let listed: Vec<(u64, u64)> = parts(&text).iter().map(|part| (part.msn, part.number)).collect();
        assert_eq!(listed, [(43, 0), (43, 1), (44, 0)]);
        assert_eq!((parts(&text)[0].uri.as_str(), parts("#EXTM3U")), ("p", Vec::new()));
    }

    #[test]
    fn an_end_is_an_end_and_nonsense_nothing() {
        assert!(Edge::of(&format!("{PLAIN}#EXT-X-ENDLIST\n")).unwrap().ended);
        assert_eq!(Edge::of(""), None);
        assert_eq!(Edge::of("<html>"), None);
    }
}
