//! Checks of the multivariant playlist, HTTP headers and objects, and comparisons between renditions.

use super::{Checker, Fetched, ObjectKind, Piece, Rule};
use crate::boxes;
use crate::http::Response;
use crate::playlist::{self, Attributes, Media, Multivariant};
use chrono::TimeDelta;
use std::collections::BTreeSet;
use std::time::Duration;

const PLAYLIST_TYPES: [&str; 2] = ["application/vnd.apple.mpegurl", "audio/mpegurl"];

impl Checker {
    /// Checks the multivariant playlist and returns it if it can be parsed.
    pub fn multivariant(&mut self, place: &str, fetched: Fetched<'_>) -> Option<Multivariant> {
        let text = self.playlist_response(place, fetched)?;
        let list = match playlist::multivariant(&text) {
            Ok(list) => list,
            Err(error) => {
                self.report(fetched.at, place, Rule::Syntax, format!("{error:#}"));
                return None;
            }
        };
        for (rule, detail) in findings(&list) {
            self.report(fetched.at, place, rule, detail);
        }
        if let Some(before) = self.multivariant.as_ref().filter(|b| b.playlists() != list.playlists()) {
            let detail = format!("{:?} became {:?}", before.playlists(), list.playlists());
            self.report(fetched.at, place, Rule::RenditionsChanged, detail);
        }
        for media in list.media.iter().filter(|m| m.get("TYPE").is_some_and(|t| t == "AUDIO")) {
            if let Some(uri) = media.get("URI") {
                self.renditions.entry(uri.clone()).or_default().audio_only = true;
            }
        }
        for variant in list.variants.iter().filter(|v| !v.attributes.contains_key("RESOLUTION")) {
            self.renditions.entry(variant.uri.clone()).or_default().audio_only = true;
        }
        self.multivariant = Some(list.clone());
        Some(list)
    }

    /// Checks an object that a media playlist names.
    pub fn object(&mut self, rendition: &str, uri: &str, kind: ObjectKind, fetched: Fetched<'_>) {
        let place = format!("{rendition} {uri}");
        let response = fetched.response;
        if response.status != 200 {
            self.report(fetched.at, &place, Rule::Status, format!("{} although listed", response.status));
            return;
        }
        let audio = self.renditions.get(rendition).is_some_and(|r| r.audio_only);
        let allowed: &[&str] = match (kind, audio) {
            (ObjectKind::Init, false) => &["video/mp4"],
            (ObjectKind::Init, true) => &["audio/mp4", "video/mp4"],
            (ObjectKind::Segment(_), false) => &["video/iso.segment", "video/mp4"],
            (ObjectKind::Segment(_), true) => &["audio/mp4", "video/iso.segment", "audio/iso.segment"],
        };
        self.content_type(&place, fetched, allowed);
        self.cors(&place, fetched);
        let cache = response.header("cache-control").unwrap_or_default();
        if !cache.contains("immutable") || !cache.contains("public") {
            self.report(
                fetched.at,
                &place,
                Rule::CacheControl,
                format!("{cache:?}, should be public and immutable"),
            );
        }
        match kind {
            ObjectKind::Init => self.init(rendition, &place, uri, fetched),
            ObjectKind::Segment(msn) => self.segment(rendition, &place, msn, fetched),
        }
    }

    /// Checks the response for a segment that left the playlist but is within its retention time.
    pub fn retained(&mut self, rendition: &str, uri: &str, fetched: Fetched<'_>) {
        if fetched.response.status != 200 {
            let detail = format!("{uri} answered {} before its time was over", fetched.response.status);
            self.report(fetched.at, rendition, Rule::Retention, detail);
        }
    }

    /// Checks status and headers of a playlist; returns its text if readable.
    pub(super) fn playlist_response(&mut self, place: &str, fetched: Fetched<'_>) -> Option<String> {
        let response = fetched.response;
        if response.status != 200 {
            self.report(fetched.at, place, Rule::Status, response.status.to_string());
            return None;
        }
        self.content_type(place, fetched, &PLAYLIST_TYPES);
        self.cors(place, fetched);
        if response.header("content-encoding") != Some("gzip") {
            self.report(fetched.at, place, Rule::Gzip, "not compressed although asked for");
        }
        let text = response
            .text()
            .map_err(|e| self.report(fetched.at, place, Rule::Syntax, format!("{e:#}")))
            .ok()?;
        let cache = response.header("cache-control").unwrap_or_default();
        // Half a target duration (rfc8216bis B.1), and no less than the second that the header can say.
        let longest = (target_duration(&text) / 2).max(1);
        if !(cache.contains("no-store") || max_age(cache).is_some_and(|seconds| seconds <= longest)) {
            let detail = format!("{cache:?}, should allow {longest} s at most");
            self.report(fetched.at, place, Rule::CacheControl, detail);
        }
        Some(text)
    }

    fn content_type(&mut self, place: &str, fetched: Fetched<'_>, allowed: &[&str]) {
        let sent = fetched.response.header("content-type").unwrap_or_default();
        let essence = sent.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !allowed.contains(&essence.as_str()) {
            self.report(
                fetched.at,
                place,
                Rule::ContentType,
                format!("{sent:?}, should be one of {allowed:?}"),
            );
        }
    }

    fn cors(&mut self, place: &str, fetched: Fetched<'_>) {
        let allowed = fetched.response.header("access-control-allow-origin");
        if !allowed.is_some_and(|origin| origin == "*" || origin == "https://player.example") {
            self.report(fetched.at, place, Rule::Cors, format!("access-control-allow-origin is {allowed:?}"));
        }
    }

    fn init(&mut self, rendition: &str, place: &str, uri: &str, fetched: Fetched<'_>) {
        let body = fetched.response.body.clone();
        let read = match boxes::init(&body) {
            Ok(read) => {
                if !read
                    .brands
                    .iter()
                    .any(|b| matches!(b.as_str(), "iso6" | "iso7" | "iso8" | "iso9" | "cmfc" | "cmf2"))
                {
                    self.report(
                        fetched.at,
                        place,
                        Rule::Boxes,
                        format!("brands {:?} lack iso6", read.brands),
                    );
                }
                Some(read)
            }
            Err(error) => {
                self.report(fetched.at, place, Rule::Boxes, format!("{error:#}"));
                None
            }
        };
        let state = self.renditions.entry(rendition.to_owned()).or_default();
        state.inits.insert(uri.to_owned(), (body, read));
    }

    fn segment(&mut self, rendition: &str, place: &str, msn: u64, fetched: Fetched<'_>) {
        let body = fetched.response.body.clone();
        let state = self.renditions.entry(rendition.to_owned()).or_default();
        let Some(listed) = state.known.get(&msn).cloned() else { return };
        let Some(map) = listed.map.clone() else { return };
        let Some((init_body, Some(init))) = state.inits.get(&map).cloned() else { return };
        if state.pieces.last().is_none_or(|(name, _)| *name != map) || listed.discontinuity {
            state.pieces.push((map.clone(), Piece { init: init_body, segments: Vec::new() }));
        }
        if let Some((_, piece)) = state.pieces.last_mut() {
            piece.segments.push((msn, body.clone()));
        }
        let fragment = match boxes::fragment(&init, &body) {
            Ok(fragment) => fragment,
            Err(error) => return self.report(fetched.at, place, Rule::Boxes, format!("{error:#}")),
        };
        let (Some(start), Some(end)) = (fragment.start(), fragment.end()) else { return };
        let before = state.decode_end.replace((map.clone(), msn, end));
        let Some(track) = init.tracks.get(&fragment.track) else { return };
        let timescale = f64::from(track.timescale);
        let follows_on = |(m, n): (&String, u64)| *m == map && n + 1 == msn && !listed.discontinuity;
        if let Some((_, _, expected)) = before.filter(|(m, n, _)| follows_on((m, *n))) {
            let off = (start - expected) as f64 / timescale;
            // One tick of difference is rounding between time scales.
            if (start - expected).abs() > 1 {
                self.report(
                    fetched.at,
                    place,
                    Rule::DecodeTime,
                    format!("begins {off:+.4} s off the previous end"),
                );
            }
        }
        // Compare with the median frame duration, not the longest: a frame stretched over a hole must not excuse a
        // wrong EXTINF.
        let mut frames: Vec<u32> = fragment.samples.iter().map(|s| s.duration).collect();
        frames.sort_unstable();
        let frame = frames.get(frames.len() / 2).copied().unwrap_or(0);
        let difference = (end - start) as f64 / timescale - listed.duration;
        if difference.abs() > f64::from(frame) / timescale + 1e-3 {
            let detail = format!("EXTINF {} s, media {:+.4} s longer", listed.duration, difference);
            self.report(fetched.at, place, Rule::SegmentDuration, detail);
        }
        if track.handler == "vide" && !fragment.samples.first().is_some_and(|s| s.sync) {
            self.report(fetched.at, place, Rule::NotIndependent, "first sample is not a sync sample");
        }
    }

    /// Compares one rendition's newest playlist with what is known of the other renditions.
    pub(super) fn against_each_other(&self, rendition: &str, list: &Media, found: &mut Vec<(Rule, String)>) {
        let tolerance = TimeDelta::from_std(self.settings.time_tolerance).unwrap_or(TimeDelta::zero());
        let Some(own) = self.renditions.get(rendition) else { return };
        for (name, other) in self.renditions.iter().filter(|(name, _)| *name != rendition) {
            if let (Some(a), Some(b)) = (list.target_duration, other.target_duration)
                && a != b
            {
                found.push((Rule::TargetDuration, format!("{a} here, {b} in {name}")));
            }
            if other.server_control.as_ref().is_some_and(|control| *control != list.server_control) {
                found.push((Rule::ServerControl, format!("differs from {name}")));
            }
            for segment in &list.segments {
                let Some(twin) = other.known.get(&segment.msn) else { continue };
                if (twin.dsn, twin.discontinuity) != (segment.dsn, segment.discontinuity)
                    // The first segment of a window may have lost its EXT-X-DISCONTINUITY tag; its discontinuity
                    // sequence number still counts.
                    && twin.dsn != segment.dsn
                {
                    let detail = format!("{} has {} here, {} in {name}", segment.msn, segment.dsn, twin.dsn);
                    found.push((Rule::DiscontinuityAlignment, detail));
                }
                if let (Some(a), Some(b)) = (own.times.get(&segment.msn), other.times.get(&segment.msn))
                    && (*a - *b).abs() > tolerance
                {
                    found.push((
                        Rule::DateTimeAlignment,
                        format!("{} at {a} here, {b} in {name}", segment.msn),
                    ));
                }
            }
        }
    }

    /// HEAD and GET of one URI must agree on the status and on these headers.
    pub fn same_headers(&mut self, place: &str, at: Duration, get: &Response, head: &Response) {
        for name in ["content-type", "cache-control", "etag"] {
            if get.header(name) != head.header(name) || head.status != get.status {
                let detail = format!("HEAD: {name} {:?}, GET: {:?}", head.header(name), get.header(name));
                self.report(at, place, Rule::Status, detail);
            }
        }
    }
}

fn number(attributes: &Attributes, name: &str) -> Option<f64> {
    attributes.get(name).and_then(|v| v.parse().ok()).filter(|v| *v > 0.0)
}

fn findings(list: &Multivariant) -> Vec<(Rule, String)> {
    let mut found = Vec::new();
    if list.variants.is_empty() {
        found.push((Rule::VariantAttributes, "no variants".into()));
    }
    if list.version.is_none_or(|v| v < 6) {
        found.push((Rule::Version, format!("{:?}", list.version)));
    }
    if !list.independent_segments {
        found.push((Rule::IndependentSegments, "missing".into()));
    }
    if list.media_after_variant {
        found.push((Rule::RenditionGroup, "EXT-X-MEDIA behind EXT-X-STREAM-INF".into()));
    }
    for media in &list.media {
        for needed in ["TYPE", "GROUP-ID", "NAME"] {
            if !media.contains_key(needed) {
                found.push((Rule::RenditionGroup, format!("EXT-X-MEDIA without {needed}")));
            }
        }
        if media.get("TYPE").is_some_and(|t| t == "AUDIO") && !media.contains_key("CHANNELS") {
            found.push((Rule::RenditionGroup, "audio without CHANNELS".into()));
        }
        if media.get("TYPE").is_some_and(|t| t == "CLOSED-CAPTIONS")
            && (!media.contains_key("INSTREAM-ID") || media.contains_key("URI"))
        {
            found.push((Rule::RenditionGroup, "captions without INSTREAM-ID, or with URI".into()));
        }
    }
    // Attributes lose their quotes when they are read: a group must not be called NONE here.
    let captions: BTreeSet<_> = list.variants.iter().map(|v| v.attributes.get("CLOSED-CAPTIONS")).collect();
    match (captions.len(), captions.first().copied().flatten()) {
        (1, Some(group)) if group == "NONE" => {}
        (1, Some(group)) => {
            let in_group = |m: &&Attributes| m.get("TYPE").is_some_and(|t| t == "CLOSED-CAPTIONS");
            if !list.media.iter().filter(in_group).any(|m| m.get("GROUP-ID") == Some(group)) {
                found.push((Rule::RenditionGroup, format!("captions' group {group:?} is not defined")));
            }
        }
        _ => found.push((Rule::RenditionGroup, format!("CLOSED-CAPTIONS of the variants: {captions:?}"))),
    }
    for variant in &list.variants {
        let (uri, a) = (&variant.uri, &variant.attributes);
        let mut wrong = |detail: String| found.push((Rule::VariantAttributes, format!("{uri}: {detail}")));
        let (peak, average) = (number(a, "BANDWIDTH"), number(a, "AVERAGE-BANDWIDTH"));
        match (peak, average) {
            (Some(peak), Some(average)) if average <= peak => {}
            _ => wrong(format!("BANDWIDTH {peak:?}, AVERAGE-BANDWIDTH {average:?}")),
        }
        let codecs = a.get("CODECS").map(String::as_str).unwrap_or_default();
        if codecs.is_empty() {
            wrong("no CODECS".into());
        }
        let video =
            codecs.split(',').any(|c| ["avc1", "hvc1", "av01"].iter().any(|p| c.trim().starts_with(p)));
        if video {
            let resolution = a.get("RESOLUTION").and_then(|r| r.split_once('x'));
            if !resolution.is_some_and(|(w, h)| w.parse::<u32>().is_ok() && h.parse::<u32>().is_ok()) {
                wrong(format!("RESOLUTION {:?}", a.get("RESOLUTION")));
            }
            if number(a, "FRAME-RATE").is_none() {
                wrong(format!("FRAME-RATE {:?}", a.get("FRAME-RATE")));
            }
        }
        if let Some(group) = a.get("AUDIO") {
            let defined = list
                .media
                .iter()
                .any(|m| m.get("GROUP-ID") == Some(group) && m.get("TYPE").is_some_and(|t| t == "AUDIO"));
            if !defined {
                found.push((
                    Rule::RenditionGroup,
                    format!("{uri} names group {group:?}, which is not defined"),
                ));
            } else if !codecs.contains("mp4a") {
                found.push((
                    Rule::VariantAttributes,
                    format!("{uri}: CODECS {codecs:?} lacks the audio group's"),
                ));
            }
        }
    }
    found
}

/// A playlist's target duration in seconds; 0 for a multivariant playlist.
fn target_duration(text: &str) -> u64 {
    let tag = text.lines().find_map(|line| line.strip_prefix("#EXT-X-TARGETDURATION:"));
    tag.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// The seconds for which Cache-Control allows reuse.
fn max_age(cache_control: &str) -> Option<u64> {
    let directive = cache_control.split(',').find_map(|directive| directive.trim().strip_prefix("max-age="));
    directive?.parse().ok()
}
