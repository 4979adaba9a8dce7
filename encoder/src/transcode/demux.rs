//! x
pub(super) mod aac;
pub(super) mod h264;
