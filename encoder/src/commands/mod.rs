//! What each subcommand does: it puts the other modules together, and says what came of it. What a setting means is in
//! [`crate::config`].

pub mod archive;
pub mod bucket;
pub mod lobby;
pub mod serve;
pub mod transcode;
