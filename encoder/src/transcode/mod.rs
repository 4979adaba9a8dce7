//! Placeholder.

mod av;
mod contribution;
pub mod demux;
pub mod pattern;

/// libav writes to standard error by itself; what matters of it comes back as errors.
fn quiet() {
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Fatal);
}
