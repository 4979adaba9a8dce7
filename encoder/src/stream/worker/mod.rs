//! Workers seen from outside: starting the child process, feeding it, and noticing that it died or hung. What happens
//! inside is in the crate `transcode`; when a worker is started or replaced is decided in [`super::core`].

pub(crate) mod budget;
pub(crate) mod child;
mod stderr;

pub(crate) use child::{Worker, WorkerEvent, WorkerFault, WorkerOptions};
