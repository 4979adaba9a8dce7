//! Archives: what a finished broadcast leaves. An archive has playlists over the whole broadcast (EVENT while it runs,
//! VOD afterwards) and one MP4 for each requested rung, both made from the segments that are stored anyway. Nothing is
//! uploaded twice, and no media passes through this process: the store composes recordings from an index made here,
//! followed by the stored segments.
//!
//! What belongs here: which objects an archive is made of, when they are written, how it is finished. What does not:
//! segments and when they are uploaded ([`crate::delivery`]), sample tables (`hls::recording`), the store's protocol.
//!
//! - [`names`]: the objects' names. [`page`]: the index as it is stored. [`contents`]: playlists and recordings
//!   derived from the index.
//! - [`recorder`]: sans-IO, used while a broadcast runs; [`driver`] runs it, and live never waits for it.
//! - [`load`], [`seal`], [`compose`]: used afterwards. They need only the store, so any process can finish an archive:
//!   the encoder whose broadcast ended, the next encoder that takes the stream, `encoder archive seal`.
//!
//! - [`announce`]: what the receiver of events learns of a complete archive.
//!
//! **Continuing in another process** ([`resume`], [`ArchiveManager::go_on`]): [`load::load`] returns the pages and the
//! later stored segments that no page names; [`Recorder::resume`] takes both. The next page's number is unique: an
//! encoder that was wrongly believed dead finds that number taken and stops. The stream does not wait: its events are
//! buffered meanwhile.

pub(crate) mod announce;
pub(crate) mod compose;
pub(crate) mod contents;
pub(crate) mod driver;
mod each;
pub(crate) mod load;
pub(crate) mod names;
pub(crate) mod page;
pub(crate) mod recorder;
pub(crate) mod resume;
pub(crate) mod seal;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use driver::{Archive, ArchiveManager, RecordingHandle};
pub(crate) use load::newest;
pub(crate) use recorder::ArchiveSettings;

/// This process's name as the owner of archives: host name (a pod's, in a container) and process ID.
pub(crate) fn owner() -> String {
    format!("{}/{}", host(), std::process::id())
}

/// Whether an owner was a process of this machine that is gone. A restarted container gets the same process ID, so
/// this process's own ID counts as gone.
pub(crate) fn is_dead(owner: &str) -> bool {
    let Some((machine, process)) = owner.rsplit_once('/') else { return false };
    let Ok(process) = process.parse::<u32>() else { return false };
    let gone = process == std::process::id() || !std::path::Path::new(&format!("/proc/{process}")).exists();
    !machine.is_empty() && machine == host() && gone
}

/// The host name of this machine: a pod's, in a container.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_processes_of_this_machine_are_dead() {
        let me = owner();
        assert!(is_dead(&me), "whoever asks has just begun");
        let (machine, _) = me.rsplit_once('/').unwrap();
        assert!(!is_dead(&format!("{machine}/1")), "somebody is always 1");
        assert!(is_dead(&format!("{machine}/4294967295")));
        for other in ["elsewhere/4294967295", "", "/1", "x", "/4294967295"] {
            assert!(!is_dead(other), "{other}");
        }
    }
}
