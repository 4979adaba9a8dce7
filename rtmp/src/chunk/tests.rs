use super::*;
use proptest::prelude::*;
use rml_rtmp::chunk_io::ChunkSerializer;
use rml_rtmp::messages::MessagePayload;
use rml_rtmp::time::RtmpTimestamp;

fn message(type_id: u8, timestamp_ms: u32, payload: &[u8]) -> ChunkMessage {
    ChunkMessage { type_id, stream_id: 1, timestamp_ms, payload: Bytes::copy_from_slice(payload) }
}

fn reader() -> ChunkReader {
    ChunkReader::new(ChunkLimits::PUBLISHING)
}

fn read_all(reader: &mut ChunkReader, mut bytes: &[u8]) -> Result<Vec<ChunkMessage>, ChunkError> {
    let mut messages = Vec::new();
    while let Some(message) = reader.read(&mut bytes)? {
        messages.push(message);
    }
    Ok(messages)
}

/// A full header that announces `length` bytes.
fn full(csid: u8, time: u32, length: u32, type_id: u8) -> Vec<u8> {
    let mut bytes = vec![csid];
    bytes.extend(&time.min(EXTENDED).to_be_bytes()[1..]);
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.push(type_id);
    bytes.extend(1u32.to_le_bytes());
    if time >= EXTENDED {
        bytes.extend(time.to_be_bytes());
    }
    bytes
}

fn chunk_size(size: u32) -> Vec<u8> {
    [full(2, 0, 4, 1), size.to_be_bytes().to_vec()].concat()
}

/// Writes chunks with headers compressed as far as the specification allows.
#[derive(Default)]
struct Writer {
    last: HashMap<u32, (u32, Option<u32>, u32, u8, u32)>,
}

impl Writer {
    fn begin(&mut self, csid: u32, message: &ChunkMessage, compress: bool) -> Vec<u8> {
        let length = message.payload.len() as u32;
        let (type_id, stream_id, time) = (message.type_id, message.stream_id, message.timestamp_ms);
        let mut field = time;
        let mut format = 0u8;
        if let (true, Some((last, last_field, ..))) = (compress, self.last.get(&csid)) {
            let (_, _, last_length, last_type, last_stream) = self.last[&csid];
            let delta = time.wrapping_sub(*last);
            if last_stream == stream_id && delta < 1 << 31 {
                field = delta;
                format = 1;
                if (last_length, last_type) == (length, type_id) {
                    format = if *last_field == Some(delta) { 3 } else { 2 };
                }
            }
        }
        self.last.insert(csid, (time, Some(field), length, type_id, stream_id));
        let mut bytes = Self::basic(format, csid);
        if format <= 2 {
            bytes.extend(&field.min(EXTENDED).to_be_bytes()[1..]);
        }
        if format <= 1 {
            bytes.extend(&length.to_be_bytes()[1..]);
            bytes.push(type_id);
        }
        if format == 0 {
            bytes.extend(stream_id.to_le_bytes());
        }
        if field >= EXTENDED {
            bytes.extend(field.to_be_bytes());
        }
        bytes
    }

    fn go_on(&self, csid: u32, with_extended: bool) -> Vec<u8> {
        let mut bytes = Self::basic(3, csid);
        let field = self.last[&csid].1.unwrap();
        if field >= EXTENDED && with_extended {
            bytes.extend(field.to_be_bytes());
        }
        bytes
    }

    fn basic(format: u8, csid: u32) -> Vec<u8> {
        let format = format << 6;
        match csid {
            2..=63 => vec![format | csid as u8],
            64..=319 => vec![format, (csid - 64) as u8],
            _ => vec![format | 1, (csid - 64) as u8, ((csid - 64) >> 8) as u8],
        }
    }
}

#[test]
fn audio_inside_a_video_message() {
    let mut bytes = chunk_size(4);
    for part in [
        full(4, 40, 10, 9),
        b"aaaa".to_vec(),
        full(5, 41, 3, 8),
        b"xyz".to_vec(),
        vec![0xc4],
        b"bbbb".to_vec(),
        vec![0xc4],
        b"cc".to_vec(),
    ] {
        bytes.extend(part);
    }
    let messages = read_all(&mut reader(), &bytes).unwrap();
    assert_eq!(messages, [message(8, 41, b"xyz"), message(9, 40, b"aaaabbbbcc")]);
}

#[test]
fn a_shorter_message_inside_a_longer_one_and_the_other_way_round() {
    for (long, short) in [(4, 5), (5, 4)] {
        let long_bytes = [7; 300];
        let bytes = [
            full(long, 1, 300, 9),
            long_bytes[..128].to_vec(),
            full(short, 2, 200, 8),
            vec![8; 128],
            vec![0xc0 | long],
            long_bytes[128..256].to_vec(),
            vec![0xc0 | short],
            vec![8; 72],
            vec![0xc0 | long],
            long_bytes[256..].to_vec(),
        ]
        .concat();
        let messages = read_all(&mut reader(), &bytes).unwrap();
        assert_eq!(messages, [message(8, 2, &[8; 200]), message(9, 1, &long_bytes)]);
    }
}

#[test]
fn any_chunk_size_but_zero_is_taken() {
    // The first bit carries no value.
    for zero in [0, 0x8000_0000] {
        assert_eq!(read_all(&mut reader(), &chunk_size(zero)), Err(ChunkError::ChunkSizeZero));
    }
    for good in [1, 127, 1 << 20, 134_217_728, 0x7fff_ffff, 0x8000_0001, u32::MAX] {
        let mut reader = reader();
        let mut bytes = [chunk_size(good), full(4, 0, 3, 9), vec![1]].concat();
        assert_eq!(read_all(&mut reader, &bytes), Ok(vec![]));
        assert_eq!(reader.buffered_bytes(), 3, "memory follows the message");
        // Three chunks, or the rest of one.
        bytes = if good & MAX_CHUNK_SIZE == 1 { vec![0xc4, 2, 0xc4, 3] } else { vec![2, 3] };
        assert_eq!(read_all(&mut reader, &bytes), Ok(vec![message(9, 0, &[1, 2, 3])]), "{good}");
    }
    let short = [full(2, 0, 2, 1), vec![0, 9]].concat();
    assert_eq!(read_all(&mut reader(), &short), Err(ChunkError::ShortControl(1)));
}

#[test]
fn abort_forgets_the_message_under_way() {
    let mut reader = reader();
    let bytes = [full(4, 0, 200, 9), vec![1; 128]].concat();
    assert_eq!(read_all(&mut reader, &bytes), Ok(vec![]));
    assert_eq!(reader.buffered_bytes(), 200);
    let abort = [full(2, 0, 4, 2), 4u32.to_be_bytes().to_vec(), full(4, 9, 1, 9), vec![5]].concat();
    assert_eq!(read_all(&mut reader, &abort), Ok(vec![message(9, 9, &[5])]));
    assert_eq!(reader.buffered_bytes(), 0);
    // An Abort for an unused chunk stream has no effect.
    let abort = [full(2, 0, 4, 2), 99u32.to_be_bytes().to_vec()].concat();
    assert_eq!(read_all(&mut reader, &abort), Ok(vec![]));
}

#[test]
fn strangers_lengths_are_refused_before_a_byte_is_buffered() {
    for (type_id, limit) in [(9, 0), (8, 0), (20, 16 << 10), (77, 16 << 10)] {
        let mut reader = ChunkReader::new(ChunkLimits::BEFORE_PUBLISH);
        let length = limit + 1;
        let error = Err(ChunkError::MessageTooLong { type_id, length, limit });
        assert_eq!(read_all(&mut reader, &full(4, 0, length, type_id)), error);
        assert_eq!(reader.buffered_bytes(), 0);
    }
}

#[test]
fn a_publishers_long_messages_are_passed_over() {
    let table = [
        (ChunkLimits::PUBLISHING, 9, 8 << 20),
        (ChunkLimits::PUBLISHING, 22, 8 << 20),
        (ChunkLimits::PUBLISHING, 8, 1 << 20),
        (ChunkLimits::PUBLISHING, 18, 1 << 20),
        (ChunkLimits::BETWEEN_PUBLISHES, 9, 0),
        (ChunkLimits::BETWEEN_PUBLISHES, 20, 16 << 10),
    ];
    for (limits, type_id, limit) in table {
        let mut reader = ChunkReader::new(limits);
        let length = limit + 1;
        let mut bytes = chunk_size(1000);
        bytes.extend(full(4, 0, length, type_id));
        for (n, chunk) in vec![7; length as usize].chunks(1000).enumerate() {
            if n > 0 {
                bytes.push(0xc4);
            }
            bytes.extend(chunk);
            if n == 0 {
                // Another message inside it is read.
                bytes.extend([full(5, 0, 1, 4), vec![1]].concat());
            }
        }
        let (head, rest) = bytes.split_at(20);
        assert_eq!(read_all(&mut reader, head), Ok(vec![]));
        assert_eq!(reader.buffered_bytes(), 0, "{type_id}");
        assert_eq!(read_all(&mut reader, rest), Ok(vec![message(4, 0, &[1])]));
        assert_eq!((reader.buffered_bytes(), reader.passed_over()), (0, 1), "{type_id}");
        assert_eq!(
            read_all(&mut reader, &[full(4, 5, 1, 4), vec![2]].concat()),
            Ok(vec![message(4, 5, &[2])])
        );
    }
    // An Abort ends it as well, and leaves room for as many messages as before.
    let mut reader = reader();
    for _ in 0..20 {
        let long = [full(4, 0, 9 << 20, 9), vec![7; 128]].concat();
        assert_eq!(read_all(&mut reader, &long), Ok(vec![]));
        let abort = [full(2, 0, 4, 2), 4u32.to_be_bytes().to_vec()].concat();
        assert_eq!(read_all(&mut reader, &abort), Ok(vec![]));
    }
}

#[test]
fn unfinished_messages_are_bounded_in_number_and_bytes() {
    let mut reader = reader();
    for csid in 3..11 {
        assert_eq!(read_all(&mut reader, &[full(csid, 0, 1000, 9), vec![0; 128]].concat()), Ok(vec![]));
    }
    assert_eq!(reader.buffered_bytes(), 8000);
    assert_eq!(read_all(&mut reader, &full(11, 0, 1000, 9)), Err(ChunkError::TooManyPartialMessages(8)));

    for passes_over in [false, true] {
        let mut reader = ChunkReader::new(ChunkLimits { passes_over, ..ChunkLimits::PUBLISHING });
        let big = [full(4, 0, 8 << 20, 9), vec![0; 128]].concat();
        assert_eq!(read_all(&mut reader, &big), Ok(vec![]));
        let error = Err(ChunkError::TooManyPartialBytes(12 << 20));
        let expected = if passes_over { Ok(vec![]) } else { error };
        assert_eq!(read_all(&mut reader, &full(5, 0, 5 << 20, 9)), expected);
        assert_eq!(reader.buffered_bytes(), 8 << 20);
    }
}

#[test]
fn chunk_streams_are_bounded() {
    let mut reader = reader();
    for csid in 2..66u32 {
        let bytes = [Writer::basic(0, csid), full(0, 0, 1, 18)[1..].to_vec(), vec![0]].concat();
        assert_eq!(read_all(&mut reader, &bytes).unwrap().len(), 1, "{csid}");
    }
    let bytes = [Writer::basic(0, 1000), full(0, 0, 1, 18)[1..].to_vec()].concat();
    assert_eq!(read_all(&mut reader, &bytes), Err(ChunkError::TooManyChunkStreams(64)));
}

#[test]
fn headers_out_of_place() {
    for format in [2u8, 3] {
        let error = Err(ChunkError::NoPrecedingHeader(5));
        assert_eq!(read_all(&mut reader(), &[format << 6 | 5, 0, 0, 0]), error);
    }
    // librtmp sometimes begins a chunk stream with type 1.
    let bytes = [0x45, 0, 0, 7, 0, 0, 1, 9, 0xaa];
    let expected = ChunkMessage { stream_id: 0, ..message(9, 7, &[0xaa]) };
    assert_eq!(read_all(&mut reader(), &bytes), Ok(vec![expected]));
    let bytes = [full(4, 0, 200, 9), vec![0; 128], full(4, 0, 200, 9)].concat();
    assert_eq!(read_all(&mut reader(), &bytes), Err(ChunkError::HeaderInsideMessage(4)));
}

#[test]
fn deltas_wrap_and_may_be_extended() {
    let table: [(u32, u32); 4] =
        [(0xffff_fff0, 32), (10, 0x0100_0000), (0xff_fffe, 1), (0xffff_ffff, 0xffff_ffff)];
    for (start, delta) in table {
        let mut bytes = [full(4, start, 1, 9), vec![1]].concat();
        bytes.push(0x44);
        bytes.extend(&delta.min(EXTENDED).to_be_bytes()[1..]);
        bytes.extend([0, 0, 1, 9]);
        if delta >= EXTENDED {
            bytes.extend(delta.to_be_bytes());
        }
        bytes.push(2);
        let messages = read_all(&mut reader(), &bytes).unwrap();
        assert_eq!(messages[1].timestamp_ms, start.wrapping_add(delta), "{start} + {delta}");
    }
}

#[test]
fn an_extended_time_may_be_left_out_inside_a_message() {
    let time = 0x0102_0304u32;
    // Payloads that equal the field wholly or in part at their beginning, at every length of the last chunk.
    for tail in [&[9u8, 9, 9, 9, 9][..], &[1], &[1, 2], &[1, 2, 3], &[1, 2, 9], &[1, 9], &[1, 2, 3, 9, 9, 9]]
    {
        for with in [true, false] {
            let mut payload = vec![0; 128];
            payload.extend(tail);
            let mut bytes = full(4, time, payload.len() as u32, 9);
            bytes.extend(&payload[..128]);
            bytes.push(0xc4);
            if with {
                bytes.extend(time.to_be_bytes());
            }
            bytes.extend(tail);
            bytes.extend([full(5, 7, 1, 8), vec![3], full(5, 8, 1, 8), vec![4]].concat());
            let messages = read_all(&mut reader(), &bytes).unwrap();
            let expected = [message(9, time, &payload), message(8, 7, &[3]), message(8, 8, &[4])];
            assert_eq!(messages, expected, "{tail:?} {with}");
        }
    }
}

#[test]
fn empty_messages_are_messages() {
    let bytes = [full(4, 5, 0, 9), vec![0xc4], full(5, 6, 0, 8)].concat();
    let expected = [message(9, 5, &[]), message(9, 10, &[]), message(8, 6, &[])];
    assert_eq!(read_all(&mut reader(), &bytes).unwrap(), expected);
}

fn any_message() -> impl Strategy<Value = ChunkMessage> {
    let time = prop_oneof![0u32..5_000, any::<u32>(), 0xff_fff0u32..0x100_0010];
    let length = prop_oneof![Just(0usize), 1usize..400, Just(64), Just(1), 1usize..6];
    (prop_oneof![Just(8u8), Just(9), Just(18), Just(20)], 0u32..3, time, length, any::<u8>()).prop_map(
        |(type_id, stream_id, timestamp_ms, length, seed)| ChunkMessage {
            type_id,
            stream_id,
            timestamp_ms,
            payload: (0..length).map(|n| seed.wrapping_add(n as u8)).collect(),
        },
    )
}

proptest! {
    /// Reads messages that rml_rtmp's serializer wrote, in pieces of any size.
    #[test]
    fn reads_what_rml_rtmp_writes(
        messages in proptest::collection::vec(any_message(), 1..12),
        size in 1u32..300,
        pieces in proptest::collection::vec(1usize..50, 1..20),
    ) {
        let mut serializer = ChunkSerializer::new();
        let mut bytes = serializer.set_max_chunk_size(size, RtmpTimestamp::new(0)).unwrap().bytes;
        // The serializer writes no chunk for an empty message.
        let mut sent = Vec::new();
        for message in messages.into_iter().filter(|message| !message.payload.is_empty()) {
            let payload = MessagePayload {
                timestamp: RtmpTimestamp::new(message.timestamp_ms),
                type_id: message.type_id,
                message_stream_id: message.stream_id,
                data: message.payload.clone(),
            };
            bytes.extend(serializer.serialize(&payload, false, false).unwrap().bytes);
            sent.push(message);
        }
        let mut reader = reader();
        let mut got = Vec::new();
        let mut rest = &bytes[..];
        for piece in pieces.iter().cycle() {
            let (head, tail) = rest.split_at(rest.len().min(*piece));
            got.extend(read_all(&mut reader, head).unwrap());
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(got, sent);
        prop_assert_eq!(reader.buffered_bytes(), 0);
    }

    /// Reads messages that are interleaved and whose headers are compressed as far as the specification allows, with
    /// and without repeated extended timestamps.
    #[test]
    fn reads_what_is_interleaved(
        messages in proptest::collection::vec((any_message(), 0usize..4, any::<bool>()), 1..16),
        order in proptest::collection::vec(0usize..4, 64),
        size in 1u32..200,
        piece in 1usize..40,
        with_extended: bool,
    ) {
        const CSIDS: [u32; 4] = [3, 63, 200, 4000];
        let mut bytes = chunk_size(size);
        let mut writer = Writer::default();
        let mut queues: [std::collections::VecDeque<(ChunkMessage, bool)>; 4] = Default::default();
        for (message, queue, compress) in messages {
            queues[queue].push_back((message, compress));
        }
        let mut under_way: [Option<(ChunkMessage, usize)>; 4] = Default::default();
        let mut sent = Vec::new();
        for &turn in order.iter().cycle() {
            if queues.iter().all(|queue| queue.is_empty()) && under_way.iter().all(Option::is_none) {
                break;
            }
            let csid = CSIDS[turn];
            let (message, done) = match under_way[turn].take() {
                Some(state) => {
                    bytes.extend(writer.go_on(csid, with_extended));
                    state
                }
                None => {
                    let Some((message, compress)) = queues[turn].pop_front() else { continue };
                    bytes.extend(writer.begin(csid, &message, compress));
                    (message, 0)
                }
            };
            let end = message.payload.len().min(done + size as usize);
            bytes.extend(&message.payload[done..end]);
            if end == message.payload.len() {
                sent.push(message);
            } else {
                under_way[turn] = Some((message, end));
            }
        }
        let mut reader = reader();
        let mut got = Vec::new();
        for piece in bytes.chunks(piece) {
            got.extend(read_all(&mut reader, piece).unwrap());
        }
        // If the last chunk begins like an extended timestamp, the reader waits for more bytes to decide what it is.
        if !with_extended {
            got.extend(read_all(&mut reader, &full(2, 0, 0, 3)).unwrap().into_iter().filter(|m| m.type_id != 3));
        }
        prop_assert_eq!(got, sent);
    }

    /// Any bytes: no panic, and the buffered bytes stay within their bound.
    #[test]
    fn any_bytes_are_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..2_000), limits: bool) {
        let limits = if limits { ChunkLimits::PUBLISHING } else { ChunkLimits::BEFORE_PUBLISH };
        let mut reader = ChunkReader::new(limits);
        for piece in bytes.chunks(7) {
            let result = read_all(&mut reader, piece);
            prop_assert!(reader.buffered_bytes() <= limits.partial_bytes);
            if result.is_err() {
                break;
            }
        }
    }
}
