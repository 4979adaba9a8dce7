//! What remains of a broadcast: playlists over all of it (EVENT while it goes on, VOD when it is over) and one MP4 per
//! rung that was asked for, both from the segments that are stored anyway. Nothing is uploaded twice, and no media passes
//! through this process: recordings are composed by the store behind an index that is made here.
//!
//! What belongs here: which objects an archive is made of, when they are written, how it is finished. What does not:
//! segments and when they are uploaded ([`crate::publish`]), sample tables (`hls::recording`), the store's protocol.
//!
//! - [`names`]: where the objects are. [`page`]: the index as it is stored. [`contents`]: what follows from it.
//! - [`recorder`]: sans-IO, while a broadcast goes on; [`driver`] runs it, live never waits for it.
//! - [`load`], [`seal`], [`compose`]: afterwards. They know nothing but the store, so anybody can finish an archive:
//!   the encoder whose broadcast ended, the next one that takes the stream, `encoder archive seal`.
//!
//! **Going on in another process** ([`resume`], [`Keeper::go_on`]): [`load::load`] gives the pages and, behind them, what
//! is stored in no page; [`Recorder::resume`] takes both. The page that comes next has a number that nobody else has: an
//! encoder that was thought dead finds it taken and stops. The stream does not wait: what it tells meanwhile is kept.

pub mod command;
pub mod compose;
pub mod contents;
pub mod driver;
mod each;
pub mod load;
pub mod names;
pub mod page;
pub mod recorder;
pub mod resume;
pub mod seal;
#[cfg(test)]
pub(crate) mod testing;

pub use driver::{Archive, Keeper, Observed, Recording};
pub use each::Failure;
pub use names::Place;
pub use recorder::{Recorder, Settings};

/// This process as the owner of archives: the machine's name (a pod's, in a container) and the process.
pub fn owner() -> String {
    format!("{}/{}", host(), std::process::id())
}

/// Whether an owner is a process of this machine that is gone. In a container the one before had this one's number.
pub fn is_dead(owner: &str) -> bool {
    let Some((machine, process)) = owner.rsplit_once('/') else { return false };
    let Ok(process) = process.parse::<u32>() else { return false };
    let gone = process == std::process::id() || !std::path::Path::new(&format!("/proc/{process}")).exists();
    !machine.is_empty() && machine == host() && gone
}

fn host() -> String {
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
