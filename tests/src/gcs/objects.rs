//! Buckets and objects: requests and the time go in, results come out. The protocols are in [`super::json`] and
//! [`super::grpc`].
//!
//! Times are durations since the server's start.

use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Shortest time between two writes of one name; a sooner write is refused. Google allows one write per second.
/// Requests of a client that keeps to that limit sometimes arrive slightly closer together, so 50 ms are tolerated.
pub const LEAST_DISTANCE: Duration = Duration::from_millis(950);
/// Google's generations are microseconds of the wall clock; here they are this constant plus the server's time.
const FIRST_GENERATION: i64 = 1_790_000_000_000_000;
/// Cache-Control of an object that sets none (<https://cloud.google.com/storage/docs/metadata>).
pub const DEFAULT_CACHE_CONTROL: &str = "public, max-age=3600";

/// A permission of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// storage.objects.create
    Create,
    /// storage.objects.delete, also needed for overwriting
    Delete,
    /// storage.objects.get
    Get,
    /// storage.objects.list
    List,
    /// storage.buckets.get
    GetBucket,
    /// storage.buckets.getIamPolicy
    GetPolicy,
}

impl Permission {
    /// Google's name of the permission.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "storage.objects.create",
            Self::Delete => "storage.objects.delete",
            Self::Get => "storage.objects.get",
            Self::List => "storage.objects.list",
            Self::GetBucket => "storage.buckets.get",
            Self::GetPolicy => "storage.buckets.getIamPolicy",
        }
    }
}

/// Reason for refusing a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bucket, object or upload does not exist.
    NotFound(String),
    /// A precondition does not hold.
    Precondition,
    /// The name was written less than a second ago ([`LEAST_DISTANCE`]).
    TooOften(String),
    /// The request is malformed, or its checksum does not match.
    Bad(String),
    /// The account lacks this permission.
    Forbidden(Permission),
    /// The bucket is full. Google's buckets grow without limit; the account's budget does not.
    Full,
}

/// A stored object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Object name.
    pub name: String,
    /// Content.
    pub body: Bytes,
    /// Version of the object; every write of the name gets a new generation.
    pub generation: i64,
    /// Content-Type.
    pub content_type: String,
    /// Cache-Control; empty means the default.
    pub cache_control: String,
    /// Content-Encoding.
    pub content_encoding: String,
    /// CRC32C of the content.
    pub crc32c: u32,
    /// Time of the write.
    pub written: Duration,
    /// Number of components the object was composed from.
    pub components: Option<i32>,
}

/// An object to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct New {
    /// Object name.
    pub name: String,
    /// Content.
    pub body: Bytes,
    /// Content-Type.
    pub content_type: String,
    /// Cache-Control.
    pub cache_control: String,
    /// Content-Encoding.
    pub content_encoding: String,
    /// CRC32C that the sender declares.
    pub crc32c: Option<u32>,
}

/// Precondition: the expected generation; 0 means that no object exists.
pub type IfGeneration = Option<i64>;

/// A cross-origin (CORS) rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Allowed origins; `*` allows all.
    pub origins: Vec<String>,
    /// Allowed methods.
    pub methods: Vec<String>,
    /// Response headers that scripts may read.
    pub headers: Vec<String>,
    /// How long a browser may cache the rule, in seconds.
    pub max_age_seconds: i32,
}

/// A bucket's settings; the default is that of a new bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// CORS rules; none by default.
    pub cors: Vec<Cors>,
    /// How long deleted or overwritten objects are kept and billed; 7 days by default.
    pub soft_delete: Duration,
    /// Whether old versions are kept.
    pub versioning: bool,
    /// Whether permissions exist on the bucket only, not on objects.
    pub uniform_access: bool,
    /// Whether public access is prohibited.
    pub public_access_prevented: bool,
    /// Whether objects are readable without an account.
    pub public: bool,
    /// Lifecycle rules: delete objects after this number of days.
    pub delete_after_days: Vec<i32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cors: Vec::new(),
            soft_delete: Duration::from_secs(7 * 86_400),
            versioning: false,
            uniform_access: true,
            public_access_prevented: true,
            public: false,
            delete_after_days: Vec::new(),
        }
    }
}

impl Settings {
    /// Settings recommended for a bucket with live streams.
    pub fn live() -> Self {
        let cors = Cors {
            origins: vec!["*".into()],
            methods: vec!["GET".into(), "HEAD".into()],
            headers: ["Content-Length", "Content-Range", "Content-Type", "Age", "Date", "ETag"]
                .map(Into::into)
                .into(),
            max_age_seconds: 3600,
        };
        Self {
            cors: vec![cors],
            soft_delete: Duration::ZERO,
            public_access_prevented: false,
            public: true,
            ..Self::default()
        }
    }
}

/// A change of an object, for tests that examine the whole history.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Time of the change.
    pub at: Duration,
    /// Bucket name.
    pub bucket: String,
    /// Object name.
    pub name: String,
    /// The object after the change; `None` if it was deleted. The content of media files is left out.
    pub object: Option<Object>,
}

#[derive(Debug, Default)]
struct Bucket {
    settings: Settings,
    objects: BTreeMap<String, Object>,
    last_write: BTreeMap<String, Duration>,
    denied: BTreeSet<Permission>,
    full: bool,
    empty_pages: bool,
}

/// All buckets of a server.
#[derive(Debug, Default)]
pub struct Objects {
    buckets: BTreeMap<String, Bucket>,
    uploads: BTreeMap<u64, Upload>,
    next_upload: u64,
    last_generation: i64,
    journal: Vec<Entry>,
}

#[derive(Debug)]
struct Upload {
    bucket: String,
    new: New,
    if_generation: IfGeneration,
    received: BytesMut,
    finished: Option<Object>,
}

/// Progress of a resumable upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// This number of bytes was received.
    Received(u64),
    /// The upload is complete.
    Finished(Object),
}

// === impl Objects ===

impl Objects {
    /// Creates a bucket, or changes a bucket's settings.
    pub fn set_bucket(&mut self, name: &str, settings: Settings) {
        self.buckets.entry(name.to_owned()).or_default().settings = settings;
    }

    /// A bucket's settings.
    pub fn settings(&self, bucket: &str) -> Option<&Settings> {
        Some(&self.buckets.get(bucket)?.settings)
    }

    /// From now on the account lacks exactly these permissions.
    pub fn deny(&mut self, bucket: &str, denied: &[Permission]) {
        self.buckets.entry(bucket.to_owned()).or_default().denied = denied.iter().copied().collect();
    }

    /// Marks the bucket as full, or as having room again.
    pub fn set_full(&mut self, bucket: &str, full: bool) {
        self.buckets.entry(bucket.to_owned()).or_default().full = full;
    }

    /// From now on every listing begins with a page without objects, as Google's may.
    pub fn set_empty_pages(&mut self, bucket: &str, empty_pages: bool) {
        self.buckets.entry(bucket.to_owned()).or_default().empty_pages = empty_pages;
    }

    /// Whether a listing begins with a page without objects.
    pub fn has_empty_pages(&self, bucket: &str) -> bool {
        self.buckets.get(bucket).is_some_and(|bucket| bucket.empty_pages)
    }

    /// Checks that the account has a permission.
    pub fn allow(&self, bucket: &str, permission: Permission) -> Result<(), Refusal> {
        let bucket = self.bucket(bucket)?;
        if bucket.denied.contains(&permission) { Err(Refusal::Forbidden(permission)) } else { Ok(()) }
    }

    /// All changes, in order.
    pub fn journal(&self) -> &[Entry] {
        &self.journal
    }

    /// An object, without a permission check.
    pub fn peek(&self, bucket: &str, name: &str) -> Option<&Object> {
        self.buckets.get(bucket)?.objects.get(name)
    }

    /// Names of all objects in a bucket.
    pub fn names(&self, bucket: &str) -> Vec<String> {
        self.buckets.get(bucket).map(|bucket| bucket.objects.keys().cloned().collect()).unwrap_or_default()
    }

    /// Writes an object.
    pub fn insert(
        &mut self,
        bucket: &str,
        new: New,
        if_generation: IfGeneration,
        now: Duration,
    ) -> Result<Object, Refusal> {
        if let Some(said) = new.crc32c
            && said != crc32c::crc32c(&new.body)
        {
            return Err(Refusal::Bad(format!("Provided CRC32C {said} doesn't match the body's")));
        }
        self.put(bucket, new, if_generation, None, now)
    }

    /// Reads an object: the current one, or a certain generation.
    pub fn get(&self, bucket: &str, name: &str, if_generation: IfGeneration) -> Result<&Object, Refusal> {
        self.allow(bucket, Permission::Get)?;
        let object = self.object(bucket, name)?;
        match if_generation {
            Some(generation) if generation != object.generation => Err(Refusal::Precondition),
            _ => Ok(object),
        }
    }

    /// Removes an object.
    pub fn delete(
        &mut self,
        bucket: &str,
        name: &str,
        if_generation: IfGeneration,
        now: Duration,
    ) -> Result<(), Refusal> {
        self.allow(bucket, Permission::Delete)?;
        let found = self.object(bucket, name)?.generation;
        if if_generation.is_some_and(|wanted| wanted != found) {
            return Err(Refusal::Precondition);
        }
        self.buckets.entry(bucket.to_owned()).or_default().objects.remove(name);
        self.journal.push(Entry { at: now, bucket: bucket.to_owned(), name: name.to_owned(), object: None });
        Ok(())
    }

    /// Lists objects whose names begin with `prefix`, from `start` on, in byte order: at most `limit`, and the start of
    /// the next page.
    pub fn list(
        &self,
        bucket: &str,
        prefix: &str,
        start: &str,
        limit: usize,
    ) -> Result<(Vec<&Object>, Option<String>), Refusal> {
        self.allow(bucket, Permission::List)?;
        let objects = &self.bucket(bucket)?.objects;
        let from = if start > prefix { start } else { prefix };
        let mut matching = objects.range(from.to_owned()..).map(|(_, object)| object);
        let page: Vec<_> =
            matching.by_ref().take_while(|object| object.name.starts_with(prefix)).take(limit).collect();
        let next = page.last().and_then(|last| {
            let behind = objects.range(format!("{}\0", last.name)..).next()?.0;
            (page.len() == limit && behind.starts_with(prefix)).then(|| behind.clone())
        });
        Ok((page, next))
    }

    /// Composes one object from 1 to 32 objects.
    pub fn compose(
        &mut self,
        bucket: &str,
        target: New,
        sources: &[String],
        if_generation: IfGeneration,
        now: Duration,
    ) -> Result<Object, Refusal> {
        if !(1..=32).contains(&sources.len()) {
            return Err(Refusal::Bad("The number of source components provided must be 1 to 32".into()));
        }
        let mut body = BytesMut::new();
        let mut components = 0;
        for source in sources {
            let source = self.get(bucket, source, None)?;
            components += source.components.unwrap_or(1);
            body.extend_from_slice(&source.body);
        }
        self.put(bucket, New { body: body.freeze(), ..target }, if_generation, Some(components), now)
    }

    /// Copies an object.
    pub fn rewrite(
        &mut self,
        bucket: &str,
        source: &str,
        target: &str,
        if_generation: IfGeneration,
        now: Duration,
    ) -> Result<Object, Refusal> {
        let Object { body, content_type, cache_control, content_encoding, components, .. } =
            self.get(bucket, source, None)?.clone();
        let name = target.to_owned();
        let new = New { name, body, content_type, cache_control, content_encoding, crc32c: None };
        self.put(bucket, new, if_generation, components, now)
    }

    /// Begins a resumable upload and returns its ID.
    pub fn begin(&mut self, bucket: &str, new: New, if_generation: IfGeneration) -> Result<u64, Refusal> {
        self.may_write(bucket, &new.name, if_generation)?;
        self.next_upload += 1;
        let bucket = bucket.to_owned();
        let upload = Upload { bucket, new, if_generation, received: BytesMut::new(), finished: None };
        self.uploads.insert(self.next_upload, upload);
        Ok(self.next_upload)
    }

    /// Adds a piece to a resumable upload at an offset; `total` once it is known. The length of every piece but the
    /// last must be a multiple of 256 KiB.
    pub fn resume(
        &mut self,
        id: u64,
        offset: u64,
        piece: &[u8],
        total: Option<u64>,
        now: Duration,
    ) -> Result<Progress, Refusal> {
        let upload = self.uploads.get_mut(&id).ok_or_else(|| Refusal::NotFound(format!("upload {id}")))?;
        if let Some(object) = &upload.finished {
            return Ok(Progress::Finished(object.clone()));
        }
        let received = upload.received.len() as u64;
        if offset > received {
            return Err(Refusal::Bad(format!("offset {offset}, but {received} bytes were received")));
        }
        let new = (received - offset) as usize;
        upload.received.extend_from_slice(piece.get(new..).unwrap_or_default());
        let received = upload.received.len() as u64;
        if total != Some(received) {
            // A piece that breaks off counts up to the last multiple of 256 KiB.
            upload.received.truncate((received - received % (256 << 10)) as usize);
            return Ok(Progress::Received(upload.received.len() as u64));
        }
        let new = New { body: upload.received.clone().freeze(), ..upload.new.clone() };
        let (bucket, if_generation) = (upload.bucket.clone(), upload.if_generation);
        let object = self.insert(&bucket, new, if_generation, now)?;
        if let Some(upload) = self.uploads.get_mut(&id) {
            upload.finished = Some(object.clone());
        }
        Ok(Progress::Finished(object))
    }

    /// Progress of a resumable upload.
    pub fn progress(&self, id: u64) -> Result<Progress, Refusal> {
        let upload = self.uploads.get(&id).ok_or_else(|| Refusal::NotFound(format!("upload {id}")))?;
        Ok(upload
            .finished
            .clone()
            .map_or(Progress::Received(upload.received.len() as u64), Progress::Finished))
    }

    fn bucket(&self, name: &str) -> Result<&Bucket, Refusal> {
        self.buckets.get(name).ok_or_else(|| Refusal::NotFound("The specified bucket does not exist.".into()))
    }

    fn object(&self, bucket: &str, name: &str) -> Result<&Object, Refusal> {
        let missing = || Refusal::NotFound(format!("No such object: {bucket}/{name}"));
        self.bucket(bucket)?.objects.get(name).ok_or_else(missing)
    }

    fn may_write(&self, bucket: &str, name: &str, if_generation: IfGeneration) -> Result<(), Refusal> {
        self.allow(bucket, Permission::Create)?;
        if name.is_empty() || name.len() > 1024 || name.contains(['\r', '\n']) {
            return Err(Refusal::Bad(format!("Invalid object name: {name:?}")));
        }
        let found = self.bucket(bucket)?.objects.get(name).map(|object| object.generation);
        if found.is_some() && if_generation != Some(0) {
            self.allow(bucket, Permission::Delete)?;
        }
        match if_generation {
            Some(wanted) if wanted != found.unwrap_or(0) => Err(Refusal::Precondition),
            _ => Ok(()),
        }
    }

    fn put(
        &mut self,
        bucket: &str,
        new: New,
        if_generation: IfGeneration,
        components: Option<i32>,
        now: Duration,
    ) -> Result<Object, Refusal> {
        self.may_write(bucket, &new.name, if_generation)?;
        let generation = (FIRST_GENERATION + now.as_micros() as i64).max(self.last_generation + 1);
        let kept = self.buckets.entry(bucket.to_owned()).or_default();
        if kept.full {
            return Err(Refusal::Full);
        }
        if kept.last_write.get(&new.name).is_some_and(|last| now - *last < LEAST_DISTANCE) {
            return Err(Refusal::TooOften(new.name));
        }
        self.last_generation = generation;
        kept.last_write.insert(new.name.clone(), now);
        let New { name, body, content_type, cache_control, content_encoding, .. } = new;
        let crc32c = crc32c::crc32c(&body);
        let object = Object {
            name,
            body,
            generation,
            content_type,
            cache_control,
            content_encoding,
            crc32c,
            written: now,
            components,
        };
        kept.objects.insert(object.name.clone(), object.clone());
        let mut noted = object.clone();
        if !noted.name.ends_with(".m3u8") {
            noted.body = Bytes::new();
        }
        let (bucket, name) = (bucket.to_owned(), object.name.clone());
        self.journal.push(Entry { at: now, bucket, name, object: Some(noted) });
        Ok(object)
    }
}
