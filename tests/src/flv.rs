//! Changes to single pictures of FLV files, for publishers whose media is broken in a chosen way.

use std::path::{Path, PathBuf};

/// Bytes of an FLV file's header and of the first back pointer.
const FILE_HEADER: usize = 13;
/// Bytes of a tag's header; the tag's body and a size of four bytes follow.
const TAG_HEADER: usize = 11;
/// Bytes of an AVC video tag before its first NAL unit's length.
const AVC_HEADER: usize = 5;

/// A copy of an FLV file, in `folder`, in which `edit` has changed the keyframe number `which`: its NAL units, each
/// behind its length in four bytes.
///
/// # Panics
/// When a file cannot be read or written, or has no such keyframe.
#[track_caller]
pub fn edit_keyframe(clip: &Path, which: usize, folder: &Path, edit: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let flv = std::fs::read(clip).expect("a readable clip");
    let mut out = flv[..FILE_HEADER].to_vec();
    let (mut at, mut keyframes, mut edit) = (FILE_HEADER, 0, Some(edit));
    while at + TAG_HEADER < flv.len() {
        let size = usize::from(flv[at + 1]) << 16 | usize::from(flv[at + 2]) << 8 | usize::from(flv[at + 3]);
        let mut tag = flv[at..at + TAG_HEADER + size].to_vec();
        if tag[0] == 9 && tag[TAG_HEADER] == 0x17 && tag[TAG_HEADER + 1] == 1 {
            if keyframes == which
                && let Some(edit) = edit.take()
            {
                let mut units = tag.split_off(TAG_HEADER + AVC_HEADER);
                edit(&mut units);
                tag.append(&mut units);
                let size = u32::try_from(tag.len() - TAG_HEADER).expect("a small tag").to_be_bytes();
                tag[1..4].copy_from_slice(&size[1..]);
            }
            keyframes += 1;
        }
        out.extend_from_slice(&tag);
        out.extend_from_slice(&u32::try_from(tag.len()).expect("a small tag").to_be_bytes());
        at += TAG_HEADER + size + 4;
    }
    assert!(keyframes > which, "{keyframes} keyframes");
    let file = folder.join("edited.flv");
    std::fs::write(&file, out).expect("a writable folder");
    file
}
