//! The encoder's parts. The binary in `main.rs` puts them together; tests and fuzz targets reach them here.

pub mod flv;
#[doc(hidden)]
pub mod fuzzing;
pub mod ingest;
pub mod ladder;
pub mod media;
pub mod origin;
pub mod publish;
pub mod rtmp;
pub mod store;
pub mod stream;
pub mod timeline;
pub mod transcode;
pub mod worker;
