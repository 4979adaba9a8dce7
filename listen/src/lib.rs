//! What a listener decides about a connection before its protocol begins. Sans-IO: bytes, time and random numbers in,
//! decisions out.
//!
//! What belongs here: the PROXY protocol's header ([`proxy`]), which connection is refused or evicted when there are too
//! many ([`fairness`]), and how often something may happen ([`bucket`]). What does not: sockets, clocks, logging,
//! metrics, and the protocols themselves.
#![forbid(unsafe_code)]

pub mod bucket;
pub mod fairness;
pub mod proxy;
