//! Rules for one media playlist: its content, and which changes are allowed from one reload to the next.

use super::{Checker, Fetched, ObjectKind, Removed, Rendition, Rule, Wish, low_latency};
use crate::playlist::{self, Listed, Media};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Broken rules with details; place and time are added later.
pub(super) type Findings = Vec<(Rule, String)>;

impl Checker {
    /// Checks a media playlist and returns the objects to fetch next. `rendition` is the playlist's URI in the
    /// multivariant playlist.
    pub fn media(&mut self, rendition: &str, fetched: Fetched<'_>) -> Vec<Wish> {
        let Some(text) = self.playlist_response(rendition, fetched) else { return Vec::new() };
        let list = match playlist::media(&text) {
            Ok(list) => list,
            Err(error) => {
                self.report(fetched.at, rendition, Rule::Syntax, format!("{error:#}"));
                return Vec::new();
            }
        };
        let mut findings = Findings::new();
        alone(&list, &mut findings);
        let (tolerance, slack, outage) = (self.settings.time_tolerance, self.settings.slack, self.outage);
        let state = self.renditions.entry(rendition.to_owned()).or_default();
        unchanging(state, &list, &mut findings);
        low_latency::check(state, &list, &mut findings);
        window_moves(state, &list, fetched.at, &mut findings);
        date_times(state, &list, tolerance, fetched.wall, &mut findings);
        punctuality(state, &list, fetched.at, slack, outage, &mut findings);
        let wishes = wishes(state, &list);
        if list.part_target.is_some() {
            let others = self.multivariant.as_ref().map_or(0, |m| m.playlists().len().saturating_sub(1));
            low_latency::reports(&list, others, &mut findings);
        }
        self.against_each_other(rendition, &list, &mut findings);
        for (rule, detail) in findings {
            self.report(fetched.at, rendition, rule, detail);
        }
        wishes
    }

    /// Removed segments to fetch once more, as (rendition, URI): each is returned once, in the last two seconds of its
    /// retention time.
    pub fn retention_due(&mut self, now: Duration) -> Vec<(String, String)> {
        let mut due = Vec::new();
        for (place, rendition) in &mut self.renditions {
            rendition.removed.retain(|removed| {
                let last_chance =
                    removed.until.saturating_sub(Duration::from_secs(2)).max(removed.removed_at);
                let now_due = now >= last_chance && now < removed.until;
                if now_due {
                    due.push((place.clone(), removed.uri.clone()));
                }
                !now_due && now < removed.until
            });
        }
        due
    }
}

/// Rules for a single playlist, without earlier versions.
fn alone(list: &Media, findings: &mut Findings) {
    match list.target_duration {
        None => findings.push((Rule::TargetDuration, "missing".into())),
        Some(0) => findings.push((Rule::TargetDuration, "is 0".into())),
        Some(target) => {
            for segment in list.segments.iter().filter(|s| s.duration.round() as u64 > target) {
                findings.push((
                    Rule::SegmentTooLong,
                    format!("{} s in {}, target {target}", segment.duration, segment.uri),
                ));
            }
        }
    }
    if list.media_sequence.is_none() {
        findings.push((Rule::MediaSequenceMissing, "a live playlist without it cannot be followed".into()));
    }
    if list.discontinuity_sequence.is_none() {
        findings.push((Rule::DiscontinuitySequenceMissing, "absent".into()));
    }
    if list.version.is_none_or(|v| v < 6) {
        findings.push((Rule::Version, format!("{:?}, EXT-X-MAP needs 6", list.version)));
    }
    if let Some(kind) = &list.playlist_type {
        findings.push((Rule::PlaylistType, kind.clone()));
    }
    let mut previous: Option<&Listed> = None;
    for segment in &list.segments {
        if segment.map.is_none() && !segment.gap {
            findings.push((Rule::MapMissing, segment.uri.clone()));
        }
        if previous.is_none_or(|_| segment.discontinuity) && segment.date_time.is_none() {
            findings.push((Rule::DateTimeMissing, segment.uri.clone()));
        }
        if previous.is_some_and(|p| p.map != segment.map && p.map.is_some()) && !segment.discontinuity {
            findings.push((Rule::MapChanged, segment.uri.clone()));
        }
        previous = Some(segment);
    }
}

/// Values that must never change between reloads.
fn unchanging(state: &mut Rendition, list: &Media, findings: &mut Findings) {
    match (state.target_duration, list.target_duration) {
        (Some(before), Some(now)) if before != now => {
            findings.push((Rule::TargetDuration, format!("changed from {before} to {now}")));
        }
        _ => {}
    }
    state.target_duration = list.target_duration.or(state.target_duration);
    if state.server_control.as_ref().is_some_and(|before| *before != list.server_control) {
        findings.push((Rule::ServerControl, format!("changed to {:?}", list.server_control)));
    }
    state.server_control = Some(list.server_control.clone());
}

/// Rules for the sliding window: media sequence numbers, names, discontinuity sequence, removal, end.
fn window_moves(state: &mut Rendition, list: &Media, at: Duration, findings: &mut Findings) {
    let first = list.media_sequence.unwrap_or(0);
    let end = first + list.segments.len() as u64;
    if let Some((old_first, old_end)) = state.window {
        if first < old_first || end < old_end {
            findings.push((
                Rule::MediaSequenceBackwards,
                format!("was {old_first}..{old_end}, is {first}..{end}"),
            ));
        }
        if first > old_end {
            findings.push((Rule::MediaSequenceHole, format!("{old_end}..{first} were never listed")));
        }
        for msn in old_first..first.min(old_end) {
            if let Some(gone) = state.known.get(&msn).filter(|s| !s.gap) {
                let keep = Duration::from_secs_f64(gone.duration + state.longest);
                state.removed.push(Removed { uri: gone.uri.clone(), removed_at: at, until: at + keep });
            }
        }
    }
    for segment in &list.segments {
        match state.known.get(&segment.msn) {
            Some(before) => {
                if (&before.uri, before.gap) != (&segment.uri, segment.gap)
                    || before.duration != segment.duration
                {
                    let was = format!("{} ({} s)", before.uri, before.duration);
                    findings.push((
                        Rule::SegmentChanged,
                        format!("{} was {was}, is {} ({} s)", segment.msn, segment.uri, segment.duration),
                    ));
                }
                if before.dsn != segment.dsn {
                    let detail = format!("segment {} had {}, has {}", segment.msn, before.dsn, segment.dsn);
                    findings.push((Rule::DiscontinuitySequence, detail));
                }
            }
            None => {
                if let Some(other) = state.known.values().find(|s| s.uri == segment.uri && !s.gap) {
                    findings.push((
                        Rule::NameReused,
                        format!("{} is {} and {}", segment.uri, other.msn, segment.msn),
                    ));
                }
            }
        }
    }
    // The stream's first media sequence number says nothing about removed segments: servers whose numbers must never go
    // back start with a large number.
    let removing = *state.first_seen.get_or_insert(first) < first;
    let shortest = 3.0 * list.target_duration.unwrap_or(0) as f64;
    if removing && list.duration() + 1e-3 < shortest {
        findings.push((
            Rule::WindowTooShort,
            format!("{:.3} s, three targets are {shortest} s", list.duration()),
        ));
    }
    let numbers: Vec<u64> = list.segments.iter().map(|s| s.msn).collect();
    match &state.ended {
        Some(_) if !list.ended => findings.push((Rule::ChangedAfterEnd, "ENDLIST went away".into())),
        Some(before) if before.last() != numbers.last() => {
            findings.push((
                Rule::ChangedAfterEnd,
                format!("ended at {:?}, now at {:?}", before.last(), numbers.last()),
            ));
        }
        _ => {}
    }
    if list.ended && state.ended.is_none() {
        state.ended = Some(numbers);
    }
    state.window = Some((first, end));
    state.longest = state.longest.max(list.duration());
}

/// Derives every segment's start in UTC; compares it with the written PROGRAM-DATE-TIME and with the earlier
/// derivation.
fn date_times(
    state: &mut Rendition,
    list: &Media,
    tolerance: Duration,
    wall: DateTime<Utc>,
    findings: &mut Findings,
) {
    let tolerance = TimeDelta::from_std(tolerance).unwrap_or(TimeDelta::zero());
    let mut derived: Option<DateTime<Utc>> = None;
    for segment in &list.segments {
        if let (Some(written), Some(derived)) = (segment.date_time, derived) {
            if !segment.discontinuity && (written - derived).abs() > tolerance {
                findings.push((
                    Rule::DateTimeDrift,
                    format!("{}: {written} written, {derived} by durations", segment.uri),
                ));
            }
            if segment.discontinuity && written < derived - tolerance {
                findings.push((
                    Rule::DateTimeDrift,
                    format!("{}: back to {written} from {derived}", segment.uri),
                ));
            }
        }
        let start = segment.date_time.or(derived);
        if let Some(start) = start {
            if start > wall {
                findings
                    .push((Rule::DateTimeFuture, format!("{} begins at {start}, it is {wall}", segment.uri)));
            }
            let before = state.times.insert(segment.msn, start);
            if let Some(before) = before.filter(|b| (start - *b).abs() > tolerance) {
                findings
                    .push((Rule::DateTimeDrift, format!("{} was at {before}, is at {start}", segment.uri)));
            }
            derived = Some(start + TimeDelta::nanoseconds((segment.duration * 1e9) as i64));
        }
    }
}

/// A new segment must appear within 1.5 target durations of the previous one.
fn punctuality(
    state: &mut Rendition,
    list: &Media,
    at: Duration,
    slack: Duration,
    outage: bool,
    findings: &mut Findings,
) {
    let newest = list.segments.last().map(|s| s.msn);
    let is_new = newest.is_some_and(|msn| !state.known.contains_key(&msn));
    let limit = Duration::from_secs_f64(1.5 * list.target_duration.unwrap_or(0) as f64);
    if let Some(waited) = state.updated_at.map(|before| at.saturating_sub(before))
        && waited > limit + slack
        && !list.ended
        && !outage
        && !state.late_reported
    {
        let detail = format!(
            "nothing new for {:.2} s, 1.5 targets are {:.1} s",
            waited.as_secs_f64(),
            limit.as_secs_f64()
        );
        findings.push((Rule::LateUpdate, detail));
        state.late_reported = true;
    }
    if is_new {
        state.updated_at = Some(at);
        state.late_reported = false;
    }
    for segment in &list.segments {
        state.known.entry(segment.msn).or_insert_with(|| segment.clone());
    }
}

/// Init segments and media segments that were not requested yet.
fn wishes(state: &mut Rendition, list: &Media) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for segment in list.segments.iter().filter(|s| !s.gap) {
        if let Some(map) = &segment.map
            && state.wished.insert(map.clone())
        {
            wishes.push(Wish { uri: map.clone(), kind: ObjectKind::Init });
        }
        if state.wished.insert(segment.uri.clone()) {
            wishes.push(Wish { uri: segment.uri.clone(), kind: ObjectKind::Segment(segment.msn) });
        }
    }
    wishes
}
