//! Rules for a playlist with parts, alone and from one reload to the next.

use super::live::Findings;
use super::{Rendition, Rule};
use crate::playlist::Media;

/// Tolerance in seconds: durations are written with five decimal places.
const ROUNDING: f64 = 2e-5;

/// Checks parts, preload hint and hold-back of one playlist.
pub(super) fn check(state: &mut Rendition, list: &Media, findings: &mut Findings) {
    let mut found = |rule, detail: String| findings.push((rule, detail));
    if let Some(before) = state.part_target
        && Some(before) != list.part_target
    {
        found(Rule::PartTarget, format!("changed from {before} to {:?}", list.part_target));
    }
    state.part_target = list.part_target.or(state.part_target);
    let Some(target) = list.part_target else {
        if !list.parts.is_empty() {
            found(Rule::PartTarget, "parts without EXT-X-PART-INF".into());
        }
        return;
    };
    let control = |name| {
        let value = list.server_control.as_ref()?.get(name)?;
        value.parse::<f64>().ok()
    };
    if control("PART-HOLD-BACK").is_none_or(|hold_back| hold_back + ROUNDING < 3.0 * target) {
        found(
            Rule::HoldBack,
            format!("PART-HOLD-BACK {:?}, PART-TARGET {target}", control("PART-HOLD-BACK")),
        );
    }
    let least = 3.0 * list.target_duration.unwrap_or(0) as f64;
    if control("HOLD-BACK").is_none_or(|hold_back| hold_back + ROUNDING < least) {
        found(Rule::HoldBack, format!("HOLD-BACK {:?}, three targets are {least}", control("HOLD-BACK")));
    }
    durations(list, target, &mut found);
    unchanged(state, list, &mut found);
    hint(state, list, &mut found);
}

fn durations(list: &Media, target: f64, found: &mut impl FnMut(Rule, String)) {
    for (i, part) in list.parts.iter().enumerate() {
        if part.duration > target + ROUNDING {
            found(Rule::PartDuration, format!("{} lasts {}, target {target}", part.uri, part.duration));
        }
        let next = list.parts.get(i + 1);
        let within = next.is_some_and(|next| next.msn == part.msn && !next.gap);
        if within && !part.gap && part.duration + ROUNDING < 0.85 * target {
            found(Rule::PartDuration, format!("{} lasts only {}, target {target}", part.uri, part.duration));
        }
    }
    for segment in list.segments.iter().filter(|s| !s.gap) {
        let parts: Vec<_> = list.parts.iter().filter(|p| p.msn == segment.msn).collect();
        let total: f64 = parts.iter().map(|p| p.duration).sum();
        if !parts.is_empty() && (total - segment.duration).abs() > ROUNDING * parts.len() as f64 {
            found(
                Rule::PartsOfSegment,
                format!("{} lasts {}, its parts {total}", segment.uri, segment.duration),
            );
        }
        if parts.first().is_some_and(|p| !p.independent) {
            found(Rule::NotIndependent, format!("the first part of {} is not marked so", segment.uri));
        }
    }
}

fn unchanged(state: &mut Rendition, list: &Media, found: &mut impl FnMut(Rule, String)) {
    for part in &list.parts {
        let now = (part.uri.clone(), part.duration);
        let before = state.parts.entry((part.msn, part.index)).or_insert_with(|| now.clone());
        if *before != now {
            found(Rule::PartChanged, format!("{}.{} was {before:?}, is {now:?}", part.msn, part.index));
        }
    }
}

/// The preload hint must exist until the stream ends. The hinted part must appear, unless its segment ended early or
/// starts with a discontinuity.
fn hint(state: &mut Rendition, list: &Media, found: &mut impl FnMut(Rule, String)) {
    if list.hint.is_some() == list.ended {
        found(Rule::PreloadHint, format!("{:?}, ended: {}", list.hint, list.ended));
    }
    if let Some((hinted, (msn, index))) = state.hint.take() {
        match state.parts.get(&(msn, index)) {
            Some((uri, _)) if *uri != hinted && state.known.get(&msn).is_none_or(|s| !s.discontinuity) => {
                found(Rule::HintBroken, format!("{hinted} was hinted at, {uri} came"));
            }
            _ => {}
        }
    }
    state.hint = list.hint.clone().map(|hint| (hint, list.edge()));
}

/// There must be one rendition report per other rendition, with a LAST-MSN within two of the playlist's own edge.
pub(super) fn reports(list: &Media, others: usize, findings: &mut Findings) {
    if list.ended {
        return;
    }
    if list.reports.len() != others {
        findings.push((Rule::RenditionReport, format!("{} reports, {others} others", list.reports.len())));
    }
    let (next, _) = list.edge();
    for report in &list.reports {
        let last: Option<u64> = report.get("LAST-MSN").and_then(|v| v.parse().ok());
        let part: Option<u64> = report.get("LAST-PART").and_then(|v| v.parse().ok());
        let near = last.is_some_and(|last| last.abs_diff(next) <= 2);
        if !near || part.is_none() || !report.contains_key("URI") {
            findings.push((Rule::RenditionReport, format!("{report:?} in a playlist that ends at {next}")));
        }
    }
}
