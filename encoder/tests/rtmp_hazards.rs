//! Hostile and broken peers against a live server: for any input from a peer, the process survives and the next
//! publisher is admitted. The bounds on buffered bytes are tested beside the chunk reader.

#![allow(clippy::unwrap_used)] // A test helper's unwrap is the test's failure.

mod support;

use encoder::testing::ingest::{Admission, MediaSink, ServerOptions, serve};
use rml_rtmp::chunk_io::ChunkSerializer;
use rml_rtmp::messages::{MessagePayload, RtmpMessage, UserControlEventType};
use rml_rtmp::rml_amf0::Amf0Value;
use rml_rtmp::time::RtmpTimestamp;
use rtmp::chunk::{ChunkLimits, ChunkReader};
use rtmp::{EndReason, MediaMessage, MessageKind, Metadata, PublishRequest, Refusal, amf};
use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{PATIENCE, Server, end, server, server_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A minimal publisher.
struct Client {
    socket: TcpStream,
    serializer: ChunkSerializer,
    reader: ChunkReader,
    unread: Vec<u8>,
}

impl Client {
    async fn shaken(address: SocketAddr) -> Self {
        Self::shaken_from("127.0.0.1", address).await
    }

    /// Connects from this address of the loopback network.
    async fn shaken_from(from: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
        let mut socket = socket.connect(address).await.unwrap();
        socket.write_all(&[&[3][..], &[0; 1536]].concat()).await.unwrap();
        let mut answer = vec![0; 1 + 2 * 1536];
        socket.read_exact(&mut answer).await.unwrap();
        socket.write_all(&answer[1..1537]).await.unwrap();
        let reader = ChunkReader::new(ChunkLimits::BEFORE_PUBLISH);
        Self { socket, serializer: ChunkSerializer::new(), reader, unread: Vec::new() }
    }

    async fn connected(address: SocketAddr) -> Self {
        let mut client = Self::shaken(address).await;
        client.connect("live").await;
        client
    }

    async fn publishing(address: SocketAddr) -> Self {
        Self::publishing_from("127.0.0.1", address).await
    }

    async fn publishing_from(from: &str, address: SocketAddr) -> Self {
        let mut client = Self::shaken_from(from, address).await;
        client.connect("live").await;
        client.command(1, "publish", vec![text("key"), text("live")]).await;
        client.until("NetStream.Publish.Start").await;
        client
    }

    async fn connect(&mut self, app: &str) {
        let properties = HashMap::from([("app".to_string(), text(app))]);
        self.message(
            RtmpMessage::Amf0Command {
                command_name: "connect".into(),
                transaction_id: 1.0,
                command_object: Amf0Value::Object(properties),
                additional_arguments: vec![],
            },
            0,
            0,
        )
        .await;
    }

    async fn command(&mut self, stream: u32, name: &str, additional_arguments: Vec<Amf0Value>) {
        let command_object = Amf0Value::Null;
        self.message(
            RtmpMessage::Amf0Command {
                command_name: name.into(),
                transaction_id: 2.0,
                command_object,
                additional_arguments,
            },
            0,
            stream,
        )
        .await;
    }

    async fn message(&mut self, message: RtmpMessage, time: u32, stream: u32) {
        let payload = message.into_message_payload(RtmpTimestamp::new(time), stream).unwrap();
        let packet = self.serializer.serialize(&payload, true, false).unwrap();
        self.raw(&packet.bytes).await;
    }

    async fn video(&mut self, time: u32, data: &[u8]) {
        self.message(RtmpMessage::VideoData { data: data.to_vec().into() }, time, 1).await;
    }

    async fn metadata(&mut self) {
        let data = [string("@setDataFrame"), string("onMetaData"), vec![5]].concat();
        let payload = MessagePayload {
            timestamp: RtmpTimestamp::new(0),
            type_id: 18,
            message_stream_id: 1,
            data: data.into(),
        };
        let packet = self.serializer.serialize(&payload, true, false).unwrap();
        self.raw(&packet.bytes).await;
    }

    /// Ignores errors: the server may have closed the connection already.
    async fn raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.ok();
    }

    /// Reads until a message contains `words`; panics when the server closes the connection first.
    async fn until(&mut self, words: &str) -> Vec<u8> {
        let found = timeout(PATIENCE, async {
            loop {
                let mut input = &self.unread[..];
                let message = self.reader.read(&mut input).unwrap();
                self.unread = input.to_vec();
                if let Some(message) = message {
                    if message.payload.windows(words.len()).any(|part| part == words.as_bytes()) {
                        return message.payload.to_vec();
                    }
                    continue;
                }
                let count = self.socket.read_buf(&mut self.unread).await.unwrap();
                assert!(count > 0, "closed before {words}");
            }
        });
        found.await.unwrap()
    }

    /// Waits until the server closes the connection.
    async fn closed(&mut self) {
        let mut sink = vec![0; 4096];
        timeout(PATIENCE, async { while matches!(self.socket.read(&mut sink).await, Ok(1..)) {} })
            .await
            .expect("the server closes");
    }
}

fn text(text: &str) -> Amf0Value {
    Amf0Value::Utf8String(text.into())
}

/// A message with a full header on chunk stream 3 and its payload in chunks of 128 bytes.
fn chunks(type_id: u8, stream: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3, 0, 0, 0];
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.extend([type_id, stream, 0, 0, 0]);
    for (n, chunk) in payload.chunks(128).enumerate() {
        if n > 0 {
            bytes.push(0xc3);
        }
        bytes.extend(chunk);
    }
    bytes
}

fn whole(type_id: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    chunks(type_id, stream, payload.len() as u32, payload)
}

fn string(text: &str) -> Vec<u8> {
    [&[2, 0, text.len() as u8][..], text.as_bytes()].concat()
}

/// Checks that the next publisher is admitted, that its media arrives, and that its end is reported.
async fn assert_healthy(server: &mut Server) {
    let mut client = Client::publishing(server.address).await;
    client.video(0, b"hello").await;
    client.command(0, "deleteStream", vec![Amf0Value::Number(1.0)]).await;
    drop(client);
    let (reason, heard) = end(server).await;
    assert_eq!(reason, EndReason::Unpublished);
    assert_eq!(&heard.video[0].payload[..], b"hello");
}

#[tokio::test]
async fn what_a_stranger_sends_costs_its_own_connection() {
    let deep = |count: usize| [10, 0, 0, 0, 1].repeat(count);
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("a command of one value", whole(20, 0, &string("play"))),
        ("a command of two values", whole(20, 0, &[string("play"), vec![0; 9]].concat())),
        ("a command of none", whole(20, 0, &[5])),
        ("the same said to be AMF3", whole(17, 0, &[&[0][..], &string("play")].concat())),
        ("a command cut short", whole(20, 0, &string("play")[..5])),
        ("deep nesting", whole(20, 0, &[string("connect"), vec![0; 9], deep(3_000)].concat())),
        ("deeper nesting", whole(20, 0, &deep(20_000))),
        ("nulls up to the limit", whole(20, 0, &vec![5; 16 << 10])),
        ("16 MB of nulls", whole(20, 0, &vec![5; (16 << 20) - 1])),
        ("16 MB announced", chunks(20, 0, (16 << 20) - 1, &[5; 128])),
        ("video before publish", whole(9, 1, b"video")),
        ("chunk size 0", whole(1, 0, &[0; 4])),
        ("chunk size without a size", whole(1, 0, &[])),
        ("publish before connect", whole(20, 0, &[string("publish"), vec![0; 9], vec![5]].concat())),
        ("a type 3 header first", vec![0xc7; 64]),
        ("a header inside a message", [chunks(20, 0, 200, &[5; 128]), vec![3; 12]].concat()),
        ("chunk streams without end", (3..80).flat_map(|csid| [&[csid][..], &[0; 11]].concat()).collect()),
        (
            "messages without end",
            (3..20)
                .flat_map(|csid| {
                    let mut bytes = chunks(20, 0, 200, &[5; 128]);
                    bytes[0] = csid;
                    bytes
                })
                .collect(),
        ),
        ("noise", (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
    ];
    let mut server = server(Ok(()), None).await;
    for (name, bytes) in table {
        let mut client = Client::shaken(server.address).await;
        client.raw(&bytes).await;
        timeout(PATIENCE, client.closed()).await.unwrap_or_else(|_| panic!("{name}: not closed"));
        println!("{name}: closed");
        assert_healthy(&mut server).await;
    }
}

/// Messages that look broken but do no harm are ignored, and the connection can publish.
#[tokio::test]
async fn what_is_odd_but_harmless_is_passed_over() {
    let window = whole(5, 0, &[0xff; 4]);
    let date = [string("onMetaData"), vec![3, 0, 1, b'd', 11], vec![0; 10], vec![0, 0, 9]].concat();
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("a lone @setDataFrame", whole(18, 0, &string("@setDataFrame"))),
        ("@setDataFrame onMetaData", whole(18, 0, &[string("@setDataFrame"), string("onMetaData")].concat())),
        ("a Date", whole(18, 0, &date)),
        ("empty data", whole(18, 0, &[])),
        ("data that is cut", whole(18, 0, &date[..20])),
        ("deep data", whole(18, 0, &[10, 0, 0, 0, 1].repeat(2_000))),
        ("a window of 4 GiB", window),
        ("a window of 0", whole(5, 0, &[0; 4])),
        ("an unknown user control event", whole(4, 0, &[0, 99, 0, 0, 0, 0])),
        ("a user control event cut short", whole(4, 0, &[0])),
        ("an unknown message", whole(200, 0, b"?")),
        ("an abort of nothing", whole(2, 0, &[0, 0, 0, 9])),
        ("a command of one value", whole(20, 0, &string("FCPublish"))),
        ("a command of two values", whole(20, 0, &[string("FCPublish"), vec![0; 9]].concat())),
    ];
    let mut server = server(Ok(()), None).await;
    for (name, bytes) in &table {
        println!("{name}");
        let mut client = Client::shaken(server.address).await;
        client.raw(bytes).await;
        client.connect("live").await;
        client.raw(bytes).await;
        client.command(1, "publish", vec![text("key")]).await;
        client.until("NetStream.Publish.Start").await;
        client.raw(bytes).await;
        client.video(7, b"video").await;
        drop(client);
        let (reason, heard) = end(&mut server).await;
        assert_eq!(reason, EndReason::Closed, "{name}");
        assert_eq!(heard.video.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn metadata_with_a_date_is_read() {
    let mut server = server(Ok(()), None).await;
    let mut client = Client::publishing(server.address).await;
    let mut data = [string("@setDataFrame"), string("onMetaData"), vec![8, 0, 0, 0, 3]].concat();
    data.extend([&[0, 4][..], b"date", &[11], &[0; 10]].concat());
    data.extend([&[0, 5][..], b"width", &[0], &1280f64.to_be_bytes()].concat());
    data.extend([&[0, 7][..], b"encoder", &string("obs-output \n module")].concat());
    data.extend([&[0, 12][..], b"videocodecid", &string("avc1")].concat());
    data.extend([0, 0, 9]);
    client.raw(&whole(18, 1, &data)).await;
    client.command(1, "closeStream", vec![]).await;
    let (reason, heard) = end(&mut server).await;
    assert_eq!(reason, EndReason::Unpublished);
    let expected = Metadata {
        width: Some(1280.0),
        has_video: Some(true),
        encoder: Some("obs-output ? module".into()),
        ..Metadata::default()
    };
    assert_eq!(heard.metadata, [expected]);
}

#[tokio::test]
async fn interleaved_messages_arrive_whole() {
    let mut server = server(Ok(()), None).await;
    let mut client = Client::publishing(server.address).await;
    let video = chunks(9, 1, 200, &[1; 128]);
    let mut audio = whole(8, 1, &[2; 300][..]);
    audio[0] = 4;
    for at in [12 + 128, 12 + 128 + 1 + 128] {
        audio[at] = 0xc4;
    }
    let (first, rest) = audio.split_at(12 + 128);
    client.raw(&[&video[..], first, &[0xc3], &[1; 72], rest].concat()).await;
    drop(client);
    let (reason, heard) = end(&mut server).await;
    assert_eq!(reason, EndReason::Closed);
    assert_eq!(&heard.video[0].payload[..], &[1; 200]);
    assert_eq!(&heard.audio[0].payload[..], &[2; 300]);
}

/// One chunk for each message, however long: the largest chunk size is announced.
#[tokio::test]
async fn the_largest_chunk_size_is_accepted() {
    let mut server = server(Ok(()), None).await;
    let mut client = Client::publishing(server.address).await;
    client.raw(&whole(1, 0, &[0x7f, 0xff, 0xff, 0xff])).await;
    client.raw(&[&chunks(9, 1, 300_000, &[])[..], &[7; 300_000]].concat()).await;
    drop(client);
    let (reason, heard) = end(&mut server).await;
    assert_eq!((reason, heard.video[0].payload.len()), (EndReason::Closed, 300_000));
}

#[tokio::test]
async fn a_second_connect_and_play_are_passed_over_and_a_second_publish_is_another_one() {
    let mut server = server(Ok(()), None).await;
    let mut client = Client::publishing(server.address).await;
    client.connect("other").await;
    client.command(1, "play", vec![text("key")]).await;
    client.command(1, "publish", vec![text("key")]).await;
    client.until("NetStream.Publish.Start").await;
    client.video(0, b"one").await;
    client.command(1, "publish", vec![text("other")]).await;
    client.until("NetStream.Publish.Start").await;
    client.video(0, b"two").await;
    drop(client);
    for (expected, payload) in [(EndReason::Unpublished, b"one"), (EndReason::Closed, b"two")] {
        let (reason, heard) = end(&mut server).await;
        assert_eq!((reason, &heard.video[0].payload[..]), (expected, &payload[..]));
    }
    let requests = server.stage.requests.lock().unwrap();
    let asked: Vec<_> = requests.iter().map(|request| (&*request.app, request.key.expose())).collect();
    assert_eq!(asked, [("live", "key"), ("live", "other")]);
}

/// After its goodbye a publisher may publish again on its connection: at once, and after its stream has ended.
#[tokio::test]
async fn a_publisher_that_said_goodbye_may_publish_again() {
    for republish_within in [Duration::ZERO, 2 * PATIENCE] {
        let options =
            ServerOptions { republish_within, publish_timeout: PATIENCE, ..ServerOptions::default() };
        let mut server = server_with(Ok(()), None, options).await;
        let mut client = Client::publishing(server.address).await;
        for _ in 0..3 {
            client.video(0, b"video").await;
            client.command(0, "deleteStream", vec![Amf0Value::Number(1.0)]).await;
            if republish_within.is_zero() {
                assert_eq!(end(&mut server).await.0, EndReason::Unpublished);
            }
            client.command(1, "publish", vec![text("key")]).await;
            client.until("NetStream.Publish.Start").await;
            if !republish_within.is_zero() {
                // The former sink ends once the next one has taken over.
                assert_eq!(end(&mut server).await.0, EndReason::Unpublished);
            }
        }
        client.command(0, "FCUnpublish", vec![]).await;
        // The stream does not wait for a connection that is closed.
        drop(client);
        assert_eq!(end(&mut server).await.0, EndReason::Unpublished);
    }
}

/// A publisher whose protocol leaves no way to go on is told what is wrong.
#[tokio::test]
async fn a_publisher_that_breaks_the_protocol_is_told() {
    let mut server = server(Ok(()), None).await;
    let mut client = Client::publishing(server.address).await;
    client.raw(&whole(1, 0, &[0; 4])).await;
    client.until("a chunk size of zero").await;
    client.closed().await;
    assert_eq!(end(&mut server).await.0, EndReason::Violation);
}

#[tokio::test]
async fn streams_created_without_end_cost_nothing() {
    let mut server = server(Ok(()), None).await;
    let mut client = Client::connected(server.address).await;
    for _ in 0..500 {
        client.command(0, "createStream", vec![]).await;
        client.until("_result").await;
    }
    assert_healthy(&mut server).await;
}

#[tokio::test]
async fn the_publisher_is_described_and_the_key_split_from_its_query() {
    let server = server(Err(Refusal::Busy), None).await;
    for (app, name, expected) in [
        ("live", "key", ("live", "key", "")),
        ("live/", "key?latency=5&x=?", ("live", "key", "latency=5&x=?")),
        ("live?a=b/c", "key?", ("live", "key", "")),
    ] {
        let mut client = Client::shaken(server.address).await;
        client.connect(app).await;
        client.command(1, "publish", vec![text(name)]).await;
        client.until("NetStream.Publish.Denied").await;
        client.closed().await;
        let request = server.stage.requests.lock().unwrap().pop().unwrap();
        assert_eq!((request.app.as_str(), request.key.expose(), request.query.as_str()), expected);
    }
    for (app, name, words) in [
        ("live/inst", "topsecret", "too many parts"),
        ("live/topsecret", "", "too many parts"),
        ("", "topsecret", "no application"),
        ("live", "", "no stream key"),
        ("live", "?latency=5", "no stream key"),
        ("li.ve", "topsecret", "application name"),
    ] {
        let mut client = Client::shaken(server.address).await;
        client.connect(app).await;
        client.command(1, "publish", vec![text(name)]).await;
        let answer = client.until(words).await;
        assert!(!String::from_utf8_lossy(&answer).contains("topsecret"));
        client.closed().await;
        assert!(server.stage.requests.lock().unwrap().is_empty(), "{app}/{name}");
    }
}

#[tokio::test]
async fn refusals_are_errors_that_name_their_reason() {
    for (refusal, code) in [
        (Refusal::BadName("no such key".into()), "NetStream.Publish.BadName"),
        (Refusal::AlreadyPublishing, "NetStream.Publish.BadName"),
        (Refusal::Busy, "NetStream.Publish.Denied"),
        (Refusal::Draining, "NetStream.Publish.Denied"),
        (Refusal::Unsupported("no such codec".into()), "NetStream.Publish.Rejected"),
        (Refusal::Internal, "NetStream.Publish.Denied"),
    ] {
        let server = server(Err(refusal.clone()), None).await;
        let mut client = Client::connected(server.address).await;
        client.command(1, "publish", vec![text("key")]).await;
        let answer = client.until("onStatus").await;
        let amf::AmfCommand { name, arguments, .. } = amf::command(&answer).unwrap();
        assert_eq!(name, "onStatus");
        let status = arguments[1].clone().get_object_properties().unwrap();
        assert_eq!(status["level"], text("error"));
        assert_eq!(status["code"], text(code));
        assert_eq!(status["description"], text(&refusal.to_string()));
        client.closed().await;
    }
}

#[tokio::test]
async fn a_publisher_that_is_sent_off_is_told() {
    let mut server = server(Ok(()), Some(1)).await;
    let mut client = Client::publishing(server.address).await;
    client.video(0, b"video").await;
    client.until("shutting down").await;
    client.closed().await;
    assert_eq!(end(&mut server).await.0, EndReason::SentOff);
}

/// Each stage has its own time-out. The time-outs are short here, and the test waits for the server's.
#[tokio::test]
async fn those_who_say_nothing_are_let_go() {
    let short = Duration::from_millis(200);
    let options = ServerOptions {
        handshake_timeout: short,
        publish_timeout: short,
        first_media_timeout: short,
        read_timeout: short,
        ..ServerOptions::default()
    };
    let mut server = server_with(Ok(()), None, options).await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut halfway = TcpStream::connect(server.address).await.unwrap();
    halfway.write_all(&[3; 1000]).await.unwrap();
    for mut socket in [silent, halfway] {
        let mut bytes = Vec::new();
        timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.expect("closed").ok();
    }
    Client::shaken(server.address).await.closed().await;
    Client::connected(server.address).await.closed().await;
    let mut client = Client::publishing(server.address).await;
    client.until("no video or audio that can be read").await;
    assert_eq!(end(&mut server).await.0, EndReason::SentOff);
    // Before and after the first media, nothing but readable media extends the time.
    for (first, expected) in [(None, EndReason::SentOff), (Some(b"video"), EndReason::TimedOut)] {
        let mut client = Client::publishing(server.address).await;
        if let Some(payload) = first {
            client.video(0, payload).await;
        }
        let chatting = async {
            loop {
                ping(&mut client).await;
                client.video(0, support::UNREADABLE).await;
                client.metadata().await;
                tokio::time::sleep(short / 10).await;
            }
        };
        tokio::select! {
            () = chatting => {}
            (reason, _) = end(&mut server) => assert_eq!(reason, expected),
        }
        client.until("no video or audio that can be read came").await;
    }
    // A publisher that sends nothing at all any more.
    let mut client = Client::publishing(server.address).await;
    client.video(0, b"video").await;
    client.until("the publisher or its network stands still").await;
    assert_eq!(end(&mut server).await.0, EndReason::TimedOut);
}

/// A publisher that sends faster than allowed is told the bound.
#[tokio::test]
async fn a_publisher_that_sends_too_much_is_told_how_much_it_may() {
    let mut server = server(Ok(()), None).await;
    let mut client = Client::publishing(server.address).await;
    let larger = client.serializer.set_max_chunk_size(65_536, RtmpTimestamp::new(0)).unwrap();
    client.raw(&larger.bytes).await;
    let sending = async {
        loop {
            client.video(0, &[7; 60_000]).await;
        }
    };
    let (reason, heard) = tokio::select! {
        () = sending => unreachable!("the client sends for ever"),
        ended = end(&mut server) => ended,
    };
    assert_eq!(reason, EndReason::SentOff);
    let bytes: usize = heard.video.iter().map(|message| message.payload.len()).sum();
    let most = support::MOST_BITS_PER_SECOND as usize * 10 / 8;
    assert!((most / 2..=most).contains(&bytes), "{bytes} of {most}");
    client.until("more than 100 Mbit/s over ten seconds").await;
}

async fn ping(client: &mut Client) {
    let event_type = UserControlEventType::PingRequest;
    let timestamp = Some(RtmpTimestamp::new(77));
    client
        .message(
            RtmpMessage::UserControl { event_type, stream_id: None, buffer_length: None, timestamp },
            0,
            0,
        )
        .await;
}

#[tokio::test]
async fn a_peer_that_asks_and_never_reads_is_let_go() {
    let mut server = server(Ok(()), None).await;
    let mut client = Client::publishing(server.address).await;
    let asking = async {
        loop {
            ping(&mut client).await;
        }
    };
    tokio::select! {
        () = asking => {}
        (reason, _) = end(&mut server) => assert!(matches!(reason, EndReason::Violation | EndReason::TimedOut)),
    }
    assert_healthy(&mut server).await;
}

#[tokio::test]
async fn pings_are_answered() {
    let server = server(Ok(()), None).await;
    let mut client = Client::publishing(server.address).await;
    ping(&mut client).await;
    assert_eq!(client.until("\0\x07\0\0").await, [0, 7, 0, 0, 0, 77]);
}

#[tokio::test]
async fn only_so_many_wait_at_the_door() {
    let options = ServerOptions { max_waiting: 3, ..ServerOptions::default() };
    let mut server = server_with(Ok(()), None, options).await;
    let mut publisher = Client::publishing(server.address).await;
    let mut waiting = Vec::new();
    for _ in 0..12 {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(&[3]).await.ok();
        waiting.push(socket);
    }
    // Of one source either the newcomer or the longest idle connection is closed: three are left of all of them.
    let mut closed = JoinSet::new();
    for mut socket in waiting {
        closed.spawn(async move { while matches!(socket.read(&mut [0; 4096]).await, Ok(1..)) {} });
    }
    for _ in 3..12 {
        timeout(PATIENCE, closed.join_next()).await.expect("more than three are open");
    }
    assert!(timeout(Duration::from_millis(100), closed.join_next()).await.is_err(), "three stay");
    // The admitted publisher is not disturbed, and somebody else is let in at the expense of those who wait.
    let mut other = Client::publishing_from("127.0.0.9", server.address).await;
    for publisher in [&mut publisher, &mut other] {
        publisher.video(0, b"video").await;
    }
    drop((publisher, other));
    for _ in 0..2 {
        assert_eq!(end(&mut server).await.1.video.len(), 1);
    }
}

/// Panics on a message whose payload is `trip`.
struct Clumsy;

impl Admission for Clumsy {
    type Sink = ClumsySink;

    async fn admit(&self, _: PublishRequest) -> Result<ClumsySink, Refusal> {
        Ok(ClumsySink)
    }
}

struct ClumsySink;

impl MediaSink for ClumsySink {
    fn media(&mut self, message: MediaMessage) -> Result<bool, Refusal> {
        assert_ne!(&message.payload[..], b"trip", "tripped");
        assert_eq!(message.kind, MessageKind::Video);
        Err(Refusal::Unsupported("did not trip".into()))
    }

    fn most_bits_per_second(&self) -> u64 {
        u64::MAX
    }

    fn metadata(&mut self, _: Metadata) {}

    async fn sent_off(&mut self) -> Refusal {
        std::future::pending().await
    }

    fn end(self, _: EndReason) {}
}

#[tokio::test]
async fn a_panic_costs_one_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::new(Clumsy), ServerOptions::default(), std::future::pending()));
    let mut first = Client::publishing(address).await;
    let mut second = Client::publishing(address).await;
    first.video(0, b"trip").await;
    first.closed().await;
    second.video(0, b"fine").await;
    second.until("did not trip").await;
}

#[tokio::test]
async fn shutdown_leaves_publishers_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, Arc::new(Clumsy), ServerOptions::default(), async {
        stopped.await.ok();
    }));
    let mut client = Client::publishing(address).await;
    stop.send(()).unwrap();
    let publishers = timeout(PATIENCE, serving).await.unwrap().unwrap();
    assert_eq!(publishers.len(), 1);
    assert!(TcpStream::connect(address).await.is_err());
    let finished = tokio::spawn(publishers.finished());
    client.video(0, b"fine").await;
    client.until("did not trip").await;
    drop(client);
    timeout(PATIENCE, finished).await.unwrap().unwrap();
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log has one line at the start of a publish and one at its end; no line of any level contains the key.
#[tokio::test]
async fn the_log_says_who_published_and_never_the_key() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // Connections are closed soon after a goodbye.
    let options = ServerOptions { republish_within: Duration::ZERO, ..ServerOptions::default() };
    let options = ServerOptions { publish_timeout: Duration::from_secs(2), ..options };
    let mut server = server_with(Ok(()), None, options).await;
    for (app, key) in [("live", "topsecret?a=topsecret"), ("live/topsecret", "topsecret")] {
        let mut client = Client::shaken(server.address).await;
        client.connect(app).await;
        client.command(1, "publish", vec![text(key)]).await;
        client.until("onStatus").await;
        client.video(0, b"topsecret").await;
        client.command(1, "deleteStream", vec![text("topsecret")]).await;
        client.closed().await;
    }
    assert_eq!(end(&mut server).await.0, EndReason::Unpublished);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("publish started").count(), 1, "{log}");
    assert_eq!(log.matches("publish ended").count(), 1, "{log}");
    assert!(log.contains("app=\"live\"") || log.contains("app=live"), "{log}");
    assert!(log.contains("video=1"), "{log}");
    assert!(!log.contains("topsecret"), "{log}");
}
