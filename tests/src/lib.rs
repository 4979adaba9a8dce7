//! Harness of the end-to-end tests: starts the real binary and real publishers, and judges the output with third-party
//! tools (FFmpeg, mp4-atom, hls-parser, hls.js in Chromium) and with a checker for what those tools do not see. The
//! tests are in `tests/tests`; nothing here depends on the encoder's internals.

pub mod agones_sidecar;
pub mod archived;
pub mod balancer;
pub mod bench;
pub mod boxes;
pub mod browser;
pub mod captions;
pub mod certificate;
pub mod checker;
pub mod edge_process;
pub mod encoder_process;
pub mod event_receiver;
pub mod fixtures;
pub mod flv;
pub mod footage;
pub mod gcs;
pub mod header_proxy;
pub mod http;
pub mod keeper;
pub mod load;
pub mod lobby_process;
pub mod local_address;
pub mod many_encoders;
pub mod patience;
pub mod playlist;
pub mod probe;
pub mod process;
pub mod publisher;
pub mod reference;
pub mod request_counter;
pub mod sender;
pub mod skip;
pub mod static_server;
pub mod tone;
pub mod turn;
pub mod upsets;
pub mod varnish;
pub mod verdict;
pub mod viewer;
