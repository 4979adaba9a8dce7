use super::*;
use proptest::prelude::*;

fn report(value: &str) -> Report {
    Report::parse(value.as_bytes()).unwrap()
}

fn edge(number: u64) -> EdgeId {
    EdgeId::from_random(number)
}

#[test]
fn a_report_is_a_header_s_value() {
    let report = Report::new([("720p", 30), ("1080p", 12), ("360p", 0), ("no/name", 1)]);
    assert_eq!(report.to_string(), "1080p=12, 720p=30");
    assert_eq!(Report::parse(b" 720p=30,1080p=12 ,360p=0"), Ok(report.clone()));
    assert_eq!(report.viewers(), 42);
    assert_eq!(Report::parse(b" "), Ok(Report::default()));
    assert_eq!(Report::default().to_string(), "");
}

#[test]
fn the_longest_report_is_read() {
    let names: Vec<_> = (0..MAX_RUNGS + 1).map(|rung| format!("{rung:064}")).collect();
    let longest = Report::new(names.iter().map(|name| (name.as_str(), u64::MAX)));
    assert_eq!(longest.rungs().count(), MAX_RUNGS);
    let value = longest.to_string();
    assert_eq!(value.len(), MAX_VALUE_BYTES - ", ".len());
    assert_eq!(Report::parse(value.as_bytes()), Ok(longest));
    assert_eq!(Report::parse(format!("{value}   ").as_bytes()), Err(BadReport::TooLong));
}

#[test]
fn other_values_are_refused() {
    let many: Vec<_> = (0..=MAX_RUNGS).map(|rung| format!("{rung}=1")).collect();
    for (value, why) in [
        ("720p", BadReport::Count),
        ("720p=", BadReport::Count),
        ("720p=+1", BadReport::Count),
        ("720p=-1", BadReport::Count),
        ("720p=1=2", BadReport::Count),
        ("720p= 1", BadReport::Count),
        ("720p=4294967296", BadReport::Count),
        ("720p=1,", BadReport::Count),
        (",", BadReport::Count),
        ("=1", BadReport::Name),
        ("720p =1", BadReport::Name),
        ("7\u{e9}=1", BadReport::Name),
        ("720p=1,720p=2", BadReport::Twice),
        ("720p=0,720p=2", BadReport::Twice),
        (&format!("{}=1", "a".repeat(65)), BadReport::Name),
        (&many.join(","), BadReport::TooManyRungs),
    ] {
        assert_eq!(Report::parse(value.as_bytes()), Err(why), "{value}");
    }
    assert_eq!(Report::parse(b"\xff=1"), Err(BadReport::Name));
}

#[test]
fn an_edge_s_id_is_16_hexadecimal_digits() {
    assert_eq!(edge(0xfe).to_string(), "00000000000000fe");
    assert_eq!("00000000000000fe".parse(), Ok(edge(0xfe)));
    for text in ["", "fe", "00000000000000FE", "+0000000000000fe", "000000000000000fe", "0000000000000\u{e9}"]
    {
        assert_eq!(text.parse::<EdgeId>(), Err(BadEdgeId), "{text}");
    }
}

#[test]
fn the_latest_report_of_each_edge_counts() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    reports.record(edge(1), report("720p=5"), now).unwrap();
    reports.record(edge(1), report("720p=2,360p=1"), now).unwrap();
    reports.record(edge(2), report("720p=10"), now).unwrap();
    assert_eq!(reports.rungs(now), BTreeMap::from([("360p", 1), ("720p", 12)]));
    assert_eq!((reports.viewers(now), reports.edges(now)), (13, 2));
    reports.record(edge(2), report(""), now).unwrap();
    assert_eq!((reports.viewers(now), reports.edges(now)), (3, 1));
}

#[test]
fn a_report_expires() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    reports.record(edge(1), report("720p=5"), now).unwrap();
    reports.record(edge(2), report("720p=1"), now + Duration::from_secs(1)).unwrap();
    assert_eq!(reports.viewers(now + REPORT_LIFETIME - Duration::from_millis(1)), 6);
    assert_eq!(reports.viewers(now + REPORT_LIFETIME), 1);
    assert_eq!(reports.edges(now + REPORT_LIFETIME + Duration::from_secs(1)), 0);
}

#[test]
fn edges_beyond_the_bound_wait_for_a_place() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    for number in 0..MAX_EDGES as u64 {
        reports.record(edge(number), report("720p=1"), now).unwrap();
    }
    assert_eq!(reports.record(edge(999), report("720p=1"), now), Err(TooManyEdges));
    reports.record(edge(0), report("720p=2"), now).unwrap();
    assert_eq!(reports.viewers(now), MAX_EDGES as u64 + 1);
    let later = now + REPORT_LIFETIME;
    reports.record(edge(999), report("720p=1"), later).unwrap();
    assert_eq!(reports.viewers(later), 1);
}

proptest! {
    #[test]
    fn reports_are_read_as_they_were_written(
        rungs in proptest::collection::btree_map("[A-Za-z0-9_-]{1,64}", 1..=u32::MAX, 0..=MAX_RUNGS),
    ) {
        let report = Report::new(rungs.iter().map(|(rung, viewers)| (rung.as_str(), u64::from(*viewers))));
        prop_assert!(report.rungs().eq(rungs.iter().map(|(rung, viewers)| (rung.as_str(), *viewers))));
        prop_assert_eq!(Report::parse(report.to_string().as_bytes()), Ok(report));
    }

    #[test]
    fn any_bytes_are_judged(input in proptest::collection::vec(any::<u8>(), 0..100), text in "[a-c0-2=, -]{0,40}") {
        crate::fuzzing::audience(&input);
        crate::fuzzing::audience(text.as_bytes());
    }
}
