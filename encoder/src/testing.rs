//! What tests of other crates, examples and fuzz targets need of the encoder's modules, under the modules' names.

/// Archives.
pub mod archive {
    pub use crate::archive::driver::{ArchiveManager, RecordingHandle};
    pub use crate::archive::names::ArchivePlace;
    pub use crate::archive::recorder::ArchiveSettings;
    pub use crate::archive::seal::{Sealed, seal};
}

/// The way out of a stream, without sockets.
pub mod delivery {
    pub use crate::delivery::driver::Delivery;
    pub use crate::delivery::outputs::{OutputOptions, Outputs, StorePlaylists};
    pub use crate::delivery::takeover::{FreshReason, StreamStart};
    pub use crate::delivery::{DeliveryCounters, DeliveryEvent, DeliverySettings, Gap, Spool};
}

/// What another service is told.
pub mod events {
    pub use crate::events::Events;
}

/// The targets of the fuzzers.
pub mod fuzzing {
    pub use crate::fuzzing::{
        TARGETS, amf_guard, audience, chunk_reader, codec_facts, corpus, flv, flv_file, packager,
        proxy_header, stored_playlists, stored_records, timeline, tokens, worker_protocol,
    };
}

/// FateListeners for publishers.
pub mod ingest {
    pub use crate::ingest::server::{ServerOptions, serve};
    pub use crate::ingest::tls::{Chain, Identity, Key, Listener};
    pub use crate::ingest::{Admission, MediaSink};
}

/// The report on what a publisher sends.
pub mod inspect {
    pub use crate::inspect::report::{
        Advice, AudioReport, GopReport, PublishReport, Spread, TimingReport, UnreadableMedia, VideoReport,
    };
}

/// The origin's objects.
pub mod origin {
    pub use crate::origin::cache::{ObjectCache, StreamPath};
}

/// The document `/status`.
pub mod status {
    pub use crate::status::{EncoderStatus, StreamStatus};
    pub use crate::stream::latency::Origin;
}

/// One stream as a state machine, and workers seen from outside.
pub mod stream {
    pub use crate::stream::Now;
    pub use crate::stream::core::{Effect, StreamCore, StreamSettings};
    pub use crate::stream::latency::video_settings;
    pub use crate::stream::worker::child::{
        ProcessEnding, Worker, WorkerEvent, WorkerExit, WorkerFault, WorkerOptions,
    };
}
