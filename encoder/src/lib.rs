//! tmp
pub mod ladder;
pub mod media;
pub mod rtmp;
pub mod stream;
pub mod worker;
