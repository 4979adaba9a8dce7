//! Names of a stream's objects.

use hls::RungName;
use std::sync::Arc;
use store::ObjectName;

/// Makes the names of a stream's objects: all begin with `{app}/{name}`.
#[derive(Clone, Debug)]
pub(super) struct ObjectNames {
    /// With an empty prefix, names start at the store's root.
    prefix: Arc<str>,
}

impl ObjectNames {
    pub(super) fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into().into() }
    }

    /// A rendition's init segment or media segment.
    pub(super) fn media(&self, rung: &RungName, file: &str) -> ObjectName {
        self.below_prefix(&format!("{rung}/{file}"))
    }

    /// A rendition's playlist; `None` is the multivariant playlist.
    pub(super) fn playlist(&self, rung: Option<&RungName>) -> ObjectName {
        match rung {
            Some(rung) => self.media(rung, "index.m3u8"),
            None => self.below_prefix("index.m3u8"),
        }
    }

    fn below_prefix(&self, path: &str) -> ObjectName {
        ObjectName::new(if self.prefix.is_empty() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.prefix)
        })
    }
}
