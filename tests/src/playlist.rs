//! A playlist parser for validation: keeps every tag that the rules mention, whether present or absent, and fills in no
//! defaults. It shares no code with the encoder's own writer or with m3u8-rs, so that a shared misreading cannot hide.

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// Attributes of one tag, quotes removed.
pub type Attributes = BTreeMap<String, String>;

/// One media segment as listed in a playlist.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Media sequence number.
    pub msn: u64,
    /// Discontinuity sequence number.
    pub dsn: u64,
    /// URI as written.
    pub uri: String,
    /// EXTINF in seconds.
    pub duration: f64,
    /// Whether EXT-X-DISCONTINUITY precedes the segment.
    pub discontinuity: bool,
    /// Whether the segment has EXT-X-GAP.
    pub gap: bool,
    /// EXT-X-PROGRAM-DATE-TIME preceding the segment.
    pub date_time: Option<DateTime<Utc>>,
    /// URI of the EXT-X-MAP that applies.
    pub map: Option<String>,
}

/// One EXT-X-PART.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Media sequence number of the part's segment.
    pub msn: u64,
    /// Index of the part in its segment, from 0.
    pub index: usize,
    /// URI as written.
    pub uri: String,
    /// DURATION in seconds.
    pub duration: f64,
    /// Whether the part has INDEPENDENT=YES.
    pub independent: bool,
    /// Whether the part has GAP=YES.
    pub gap: bool,
}

/// A media playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Media {
    /// EXT-X-VERSION
    pub version: Option<u32>,
    /// EXT-X-TARGETDURATION in seconds.
    pub target_duration: Option<u64>,
    /// EXT-X-MEDIA-SEQUENCE; `None` if absent.
    pub media_sequence: Option<u64>,
    /// EXT-X-DISCONTINUITY-SEQUENCE; `None` if absent.
    pub discontinuity_sequence: Option<u64>,
    /// EXT-X-PLAYLIST-TYPE
    pub playlist_type: Option<String>,
    /// EXT-X-SERVER-CONTROL
    pub server_control: Option<Attributes>,
    /// Whether EXT-X-INDEPENDENT-SEGMENTS is present.
    pub independent_segments: bool,
    /// Whether EXT-X-ENDLIST is present.
    pub ended: bool,
    /// Segments in order.
    pub segments: Vec<Listed>,
    /// PART-TARGET of EXT-X-PART-INF in seconds.
    pub part_target: Option<f64>,
    /// Parts in order, of listed segments and of the segment in progress.
    pub parts: Vec<Part>,
    /// URI of EXT-X-PRELOAD-HINT with TYPE=PART.
    pub hint: Option<String>,
    /// EXT-X-RENDITION-REPORT in order.
    pub reports: Vec<Attributes>,
}

impl Media {
    /// Media sequence number after the last complete segment, and number of listed parts with that number.
    pub fn edge(&self) -> (u64, usize) {
        let next = self.media_sequence.unwrap_or(0) + self.segments.len() as u64;
        (next, self.parts.iter().filter(|p| p.msn == next).count())
    }

    /// Sum of the listed durations in seconds.
    pub fn duration(&self) -> f64 {
        self.segments.iter().map(|s| s.duration).sum()
    }
}

/// EXT-X-STREAM-INF with its URI.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// URI as written.
    pub uri: String,
    /// Attributes.
    pub attributes: Attributes,
}

/// A multivariant playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Multivariant {
    /// EXT-X-VERSION
    pub version: Option<u32>,
    /// Whether EXT-X-INDEPENDENT-SEGMENTS is present.
    pub independent_segments: bool,
    /// EXT-X-STREAM-INF in order.
    pub variants: Vec<Variant>,
    /// EXT-X-MEDIA in order.
    pub media: Vec<Attributes>,
    /// Whether an EXT-X-MEDIA follows an EXT-X-STREAM-INF.
    pub media_after_variant: bool,
}

impl Multivariant {
    /// URIs of all media playlists without duplicates: variants, then alternative renditions.
    pub fn playlists(&self) -> Vec<String> {
        let mut uris: Vec<String> = Vec::new();
        let renditions = self.media.iter().filter_map(|m| m.get("URI"));
        for uri in self.variants.iter().map(|v| &v.uri).chain(renditions) {
            if !uris.contains(uri) {
                uris.push(uri.clone());
            }
        }
        uris
    }
}

/// Parses an attribute list such as `A=1,B="x,y"`.
pub fn attributes(text: &str) -> anyhow::Result<Attributes> {
    let mut found = Attributes::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) =
            rest.split_once('=').with_context(|| format!("attribute without a value: {rest}"))?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').with_context(|| format!("open quote: {rest}"))?,
            None => after.find(',').map_or((after, ""), |at| after.split_at(at)),
        };
        if found.insert(name.to_owned(), value.to_owned()).is_some() {
            bail!("attribute {name} twice");
        }
        rest = match after.strip_prefix(',') {
            Some(more) => more,
            None if after.is_empty() => "",
            None => bail!("no comma behind {name}"),
        };
    }
    Ok(found)
}

fn lines(text: &str) -> anyhow::Result<impl Iterator<Item = &str>> {
    let mut lines = text.lines().map(str::trim_end).filter(|l| !l.is_empty());
    if lines.next() != Some("#EXTM3U") {
        bail!("does not begin with #EXTM3U (a byte order mark is not allowed)");
    }
    Ok(lines)
}

fn once<T>(slot: &mut Option<T>, value: T, tag: &str) -> anyhow::Result<()> {
    if slot.replace(value).is_some() {
        bail!("{tag} twice");
    }
    Ok(())
}

/// Parses a media playlist.
pub fn media(text: &str) -> anyhow::Result<Media> {
    let mut list = Media::default();
    let (mut dsn_step, mut map) = (0, None);
    let (mut duration, mut discontinuity, mut gap, mut date_time) = (None, false, false, None);
    for line in lines(text)? {
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        let number = || value.parse::<u64>().with_context(|| line.to_owned());
        if list.ended && !line.starts_with('#') {
            bail!("segment behind ENDLIST");
        }
        match tag {
            "#EXT-X-VERSION" => once(&mut list.version, value.parse()?, tag)?,
            "#EXT-X-TARGETDURATION" => once(&mut list.target_duration, number()?, tag)?,
            "#EXT-X-MEDIA-SEQUENCE" | "#EXT-X-DISCONTINUITY-SEQUENCE" if !list.segments.is_empty() => {
                bail!("{tag} behind a segment");
            }
            "#EXT-X-MEDIA-SEQUENCE" => once(&mut list.media_sequence, number()?, tag)?,
            "#EXT-X-DISCONTINUITY-SEQUENCE" => once(&mut list.discontinuity_sequence, number()?, tag)?,
            "#EXT-X-PLAYLIST-TYPE" => once(&mut list.playlist_type, value.to_owned(), tag)?,
            "#EXT-X-SERVER-CONTROL" => once(&mut list.server_control, attributes(value)?, tag)?,
            "#EXT-X-INDEPENDENT-SEGMENTS" => list.independent_segments = true,
            "#EXT-X-ENDLIST" => list.ended = true,
            "#EXT-X-MAP" => map = Some(attributes(value)?.remove("URI").context("MAP without URI")?),
            "#EXT-X-DISCONTINUITY" => {
                discontinuity = true;
                dsn_step += 1;
            }
            "#EXT-X-GAP" => gap = true,
            "#EXT-X-PART-INF" => {
                let target =
                    attributes(value)?.remove("PART-TARGET").context("PART-INF without PART-TARGET")?;
                once(&mut list.part_target, target.parse().with_context(|| line.to_owned())?, tag)?;
            }
            "#EXT-X-PART" => {
                let mut part = attributes(value)?;
                let msn = list.media_sequence.unwrap_or(0) + list.segments.len() as u64;
                let duration = part.get("DURATION").context("PART without DURATION")?;
                list.parts.push(Part {
                    msn,
                    index: list.parts.iter().filter(|p| p.msn == msn).count(),
                    duration: duration.parse().with_context(|| line.to_owned())?,
                    independent: part.get("INDEPENDENT").is_some_and(|v| v == "YES"),
                    gap: part.get("GAP").is_some_and(|v| v == "YES"),
                    uri: part.remove("URI").context("PART without URI")?,
                });
            }
            "#EXT-X-PRELOAD-HINT" => {
                let mut hint = attributes(value)?;
                if hint.get("TYPE").is_some_and(|kind| kind == "PART") {
                    once(&mut list.hint, hint.remove("URI").context("PRELOAD-HINT without URI")?, tag)?;
                }
            }
            "#EXT-X-RENDITION-REPORT" => list.reports.push(attributes(value)?),
            "#EXT-X-PROGRAM-DATE-TIME" => {
                // ISO 8601 allows a UTC offset without a colon, which FFmpeg writes.
                let parsed = DateTime::parse_from_rfc3339(value)
                    .or_else(|_| DateTime::parse_from_str(value, "%Y-%m-%dT%H:%M:%S%.f%z"))
                    .with_context(|| line.to_owned())?;
                once(&mut date_time, parsed.with_timezone(&Utc), tag)?;
            }
            "#EXTINF" => {
                let seconds = value.split(',').next().unwrap_or_default();
                once(&mut duration, seconds.parse::<f64>().with_context(|| line.to_owned())?, tag)?;
            }
            _ if line.starts_with('#') => {}
            uri => {
                let uri = if value.is_empty() { uri.to_owned() } else { line.to_owned() };
                list.segments.push(Listed {
                    msn: list.media_sequence.unwrap_or(0) + list.segments.len() as u64,
                    dsn: list.discontinuity_sequence.unwrap_or(0) + dsn_step,
                    duration: duration.take().with_context(|| format!("{uri} without EXTINF"))?,
                    discontinuity: std::mem::take(&mut discontinuity),
                    gap: std::mem::take(&mut gap),
                    date_time: date_time.take(),
                    map: map.clone(),
                    uri,
                });
            }
        }
    }
    Ok(list)
}

/// Parses a multivariant playlist.
pub fn multivariant(text: &str) -> anyhow::Result<Multivariant> {
    let mut list = Multivariant::default();
    let mut stream_inf = None;
    for line in lines(text)? {
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        match tag {
            "#EXT-X-VERSION" => once(&mut list.version, value.parse()?, tag)?,
            "#EXT-X-INDEPENDENT-SEGMENTS" => list.independent_segments = true,
            "#EXT-X-MEDIA" => {
                list.media_after_variant |= !list.variants.is_empty();
                list.media.push(attributes(value)?);
            }
            "#EXT-X-STREAM-INF" => once(&mut stream_inf, attributes(value)?, tag)?,
            "#EXTINF" | "#EXT-X-TARGETDURATION" => bail!("{tag} in a multivariant playlist"),
            _ if line.starts_with('#') => {}
            _ => list.variants.push(Variant {
                uri: line.to_owned(),
                attributes: stream_inf.take().with_context(|| format!("{line} without EXT-X-STREAM-INF"))?,
            }),
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_commas_do_not_end_an_attribute() {
        let a = attributes(r#"BANDWIDTH=1,CODECS="avc1.64001f,mp4a.40.2",RESOLUTION=1x2"#).unwrap();
        assert_eq!(a["CODECS"], "avc1.64001f,mp4a.40.2");
        assert_eq!(a["RESOLUTION"], "1x2");
        for bad in ["A", "A=\"x", "A=\"x\"B=1", "A=1,A=2"] {
            assert!(attributes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_follow_from_the_header_and_the_order() {
        let list = media(
            "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-DISCONTINUITY-SEQUENCE:3\n\
             #EXT-X-MAP:URI=\"a.mp4\"\n#EXTINF:2.0,\na.m4s\n#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"b.mp4\"\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:02.500Z\n#EXTINF:2.0,\nb.m4s\n#EXT-X-ENDLIST\n",
        )
        .unwrap();
        let numbers: Vec<_> = list.segments.iter().map(|s| (s.msn, s.dsn, s.map.as_deref())).collect();
        assert_eq!(numbers, [(7, 3, Some("a.mp4")), (8, 4, Some("b.mp4"))]);
        assert_eq!(list.segments[1].date_time.unwrap().timestamp_millis() % 1000, 500);
        assert!(list.ended);
    }

    #[test]
    fn malformed_playlists_are_refused() {
        for bad in [
            "\u{feff}#EXTM3U\n",
            "#EXTM3U\na.m4s\n",
            "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-TARGETDURATION:2\n",
            "#EXTM3U\n#EXTINF:1,\na\n#EXT-X-MEDIA-SEQUENCE:3\n",
            "#EXTM3U\n#EXT-X-ENDLIST\n#EXTINF:1,\na\n",
        ] {
            assert!(media(bad).is_err(), "{bad}");
        }
    }
}
