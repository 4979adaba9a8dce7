//! tmp
use crate::media::Media;
use crate::rtmp::{MediaMessage, Metadata};
pub struct Ingest;
pub enum IngestError { Unsupported(String) }
impl Ingest {
  pub fn new() -> Self { Self }
  pub fn resuming(_: hls::MediaTime) -> Self { Self }
  pub fn push(&mut self, _: MediaMessage) -> Result<Vec<Media>, IngestError> { Ok(vec![]) }
  pub fn metadata(&mut self, _: &Metadata) {}
  pub fn repairs(&self) -> u32 { 0 }
}
