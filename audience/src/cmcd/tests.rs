use super::*;
use proptest::prelude::*;

const SID: &str = "6e2fb550-c457-11e9-bb97-0800200c9a66";

fn read(members: &str) -> Cmcd {
    Cmcd::read(None, [members.as_bytes()])
}

#[test]
fn a_query_s_argument_is_decoded() {
    let query = format!(
        "_HLS_msn=7&CMCD=bl%3D2100%2Cbr%3D3200%2Cbs%2Cmtp%3D25400%2Cot%3Dv%2Cpr%3D1.05%2Csf%3Dh%2Csid%3D%22{SID}%22%2C\
         st%3Dl%2Csu&x=y"
    );
    let expected = Cmcd {
        sid: Sid::new(SID),
        object: Some(ObjectType::Video),
        format: Some(StreamingFormat::Hls),
        stream_type: Some(StreamType::Live),
        bitrate_kbps: Some(3200),
        buffer_ms: Some(2100),
        starved: true,
        throughput_kbps: Some(25_400),
        latency_ms: None,
        rate: Some(1.05),
        startup: true,
    };
    assert_eq!(Cmcd::read(Some(&query), []), expected);
    assert_eq!(Cmcd::read(Some("_HLS_msn=7&xCMCD=bs"), []), Cmcd::default());
}

#[test]
fn four_headers_are_one_request() {
    let session = format!("sid=\"{SID}\", st=l ,sf=h");
    let headers =
        ["br=3200,ot=av,d=4000,tb=6000", "bl=21300,dl=18500,ltc=4100,mtp=48100,su", &session, "bs,rtp=12000"];
    let cmcd = Cmcd::read(None, headers.map(str::as_bytes));
    assert_eq!(cmcd.sid, Sid::new(SID));
    assert_eq!((cmcd.object, cmcd.stream_type), (Some(ObjectType::Muxed), Some(StreamType::Live)));
    assert_eq!((cmcd.bitrate_kbps, cmcd.buffer_ms, cmcd.latency_ms), (Some(3200), Some(21_300), Some(4100)));
    assert!(cmcd.starved && cmcd.startup);
}

#[test]
fn the_query_comes_last_and_a_bad_value_changes_nothing() {
    let cmcd = Cmcd::read(Some("CMCD=bl%3D200%2Cbr%3Dfast"), [&b"bl=100,br=50"[..]]);
    assert_eq!((cmcd.buffer_ms, cmcd.bitrate_kbps), (Some(200), Some(50)));
}

#[test]
fn strings_may_have_quotes_and_commas() {
    let cmcd = read(r#"cid="a,bl=1,\",bl=2,\\",sid="x\"y\\,bl=3",bl=4"#);
    assert_eq!(cmcd.sid, Sid::new(r#"x"y\,bl=3"#));
    assert_eq!(cmcd.buffer_ms, Some(4));
}

#[test]
fn lists_of_version_2_give_the_number_of_the_pictures() {
    assert_eq!(read("br=(128;a 5000;v)").bitrate_kbps, Some(5000));
    assert_eq!(read("br=(5000;x=1;av 128;a)").bitrate_kbps, Some(5000));
    assert_eq!(read("bl=(2000 3000)").buffer_ms, Some(2000));
    assert_eq!(read("bl=()").buffer_ms, None);
    assert_eq!(read("ltc=4100;x,st=ll").latency_ms, Some(4100));
    assert_eq!(read("st=ll").stream_type, Some(StreamType::Live));
}

#[test]
fn booleans_may_be_said_in_full() {
    assert!(read("bs=?1").starved);
    assert!(!read("bs=?0").starved && !read("bs=").starved && !read("bs=yes").starved);
}

#[test]
fn values_out_of_range_are_ignored() {
    for members in [
        "bl=-1",
        "bl=86400001",
        "bl=1e3",
        "bl=NaN",
        "bl=inf",
        "bl=",
        "bl",
        "bl=1.2.3",
        "bl=.",
        "bl= 1 2",
        "bl=00000000000000001",
        "br=0",
        "br=0.4",
        "br=1000000001",
        "mtp=0",
        "pr=100.1",
        "pr=-1",
        "ot=x",
        "ot",
        "sf=1",
        "st=",
        "ltc=\"5\"",
        "sid=",
        "sid=\"\"",
        "sid=\"a",
        "sid=\"a\"b",
        "sid=a",
        "sid=\"\\a\"",
        "sid=\"\u{e9}\"",
        "BL=1",
        "bl=1\0",
    ] {
        assert_eq!(read(members), Cmcd::default(), "{members}");
    }
}

#[test]
fn a_session_id_has_at_most_64_characters() {
    let longest = "a".repeat(MAX_SID_CHARS);
    assert!(read(&format!("sid=\"{longest}\"")).sid.is_some());
    assert!(read(&format!("sid=\"{longest}a\"")).sid.is_none());
}

#[test]
fn members_beyond_the_bound_are_ignored() {
    let members = |padding: usize| format!("{}bs", "x,".repeat(padding));
    assert!(read(&members(MAX_MEMBERS - 1)).starved);
    assert!(!read(&members(MAX_MEMBERS)).starved);
    let bytes = |padding: usize| format!("{},bs", "x".repeat(padding));
    assert!(read(&bytes(MAX_BYTES - 3)).starved);
    assert!(!read(&bytes(MAX_BYTES)).starved);
}

proptest! {
    #[test]
    fn any_bytes_are_read(
        query in "\\PC{0,40}",
        encoded in proptest::collection::vec(any::<u8>(), 0..80),
        headers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4),
    ) {
        let encoded: String = encoded.iter().map(|byte| format!("%{byte:02x}")).collect();
        for query in [None, Some(query.as_str()), Some(&format!("CMCD={encoded}"))] {
            check(&Cmcd::read(query, headers.iter().map(Vec::as_slice)));
        }
    }

    #[test]
    fn what_looks_like_members_is_read(members in "((sid|bl|br|bs|ot|pr|ltc)(=[\\\\\"a-z0-9;()., ?-]{0,12})?,?){0,8}") {
        check(&read(&members));
    }
}

/// What holds for every request.
fn check(cmcd: &Cmcd) {
    crate::fuzzing::check_cmcd(cmcd);
}
