//! The gRPC calls of google.storage.v2 that google-cloud-storage does not send over HTTP. A message goes in, a message
//! or a status comes out. Message framing is here too; HTTP/2 streams are in [`super::server`].

use super::faults::Operation;
use super::json::forbidden;
use super::objects::{self, New, Objects, Permission, Refusal};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use googleapis_tonic_google_iam_v1::google::iam::v1 as iam;
use googleapis_tonic_google_storage_v2::google::storage::v2;
use prost::Message;
use std::time::Duration;

/// google.rpc.Code
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// OK
    Ok = 0,
    /// INVALID_ARGUMENT
    InvalidArgument = 3,
    /// DEADLINE_EXCEEDED
    DeadlineExceeded = 4,
    /// NOT_FOUND
    NotFound = 5,
    /// PERMISSION_DENIED
    PermissionDenied = 7,
    /// RESOURCE_EXHAUSTED
    ResourceExhausted = 8,
    /// FAILED_PRECONDITION
    FailedPrecondition = 9,
    /// UNIMPLEMENTED
    Unimplemented = 12,
    /// INTERNAL
    Internal = 13,
    /// UNAVAILABLE
    Unavailable = 14,
    /// UNAUTHENTICATED
    Unauthenticated = 16,
}

impl Code {
    /// The gRPC code for an HTTP status.
    pub const fn of_http(status: u16) -> Self {
        match status {
            400 => Self::InvalidArgument,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::NotFound,
            408 | 504 => Self::DeadlineExceeded,
            412 => Self::FailedPrecondition,
            429 => Self::ResourceExhausted,
            503 => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}

/// A status other than OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Status code.
    pub code: Code,
    /// Status message.
    pub message: String,
}

impl From<Refusal> for Status {
    fn from(error: Refusal) -> Self {
        let (code, message) = match error {
            Refusal::NotFound(what) => (Code::NotFound, what),
            Refusal::Precondition => (Code::FailedPrecondition, "conditionNotMet".into()),
            Refusal::TooOften(name) => (Code::ResourceExhausted, format!("{name}: rateLimitExceeded")),
            Refusal::Bad(why) => (Code::InvalidArgument, why),
            Refusal::Forbidden(permission) => (Code::PermissionDenied, forbidden(permission)),
            Refusal::Full => (Code::PermissionDenied, "quotaExceeded".into()),
        };
        Self { code, message }
    }
}

/// A decoded call.
#[derive(Clone, Debug)]
pub enum Request {
    /// DeleteObject
    Delete(v2::DeleteObjectRequest),
    /// GetObject
    Get(v2::GetObjectRequest),
    /// ListObjects
    List(v2::ListObjectsRequest),
    /// ComposeObject
    Compose(Box<v2::ComposeObjectRequest>),
    /// RewriteObject
    Rewrite(Box<v2::RewriteObjectRequest>),
    /// GetBucket
    GetBucket(v2::GetBucketRequest),
    /// GetIamPolicy
    GetPolicy(iam::GetIamPolicyRequest),
}

impl Request {
    /// Decodes a call from its path and its framed message.
    pub fn of(path: &str, mut frame: Bytes) -> Result<Self, Status> {
        // The frame header is a compressed flag and a length (gRPC over HTTP/2).
        let bad = |message: String| Status { code: Code::InvalidArgument, message };
        if frame.len() < 5 || frame.get_u8() != 0 || frame.get_u32() as usize != frame.len() {
            return Err(bad("not one uncompressed message".into()));
        }
        let read = match path.trim_start_matches('/') {
            "google.storage.v2.Storage/DeleteObject" => Message::decode(frame).map(Self::Delete),
            "google.storage.v2.Storage/GetObject" => Message::decode(frame).map(Self::Get),
            "google.storage.v2.Storage/ListObjects" => Message::decode(frame).map(Self::List),
            "google.storage.v2.Storage/ComposeObject" => {
                Message::decode(frame).map(|call| Self::Compose(Box::new(call)))
            }
            "google.storage.v2.Storage/RewriteObject" => {
                Message::decode(frame).map(|call| Self::Rewrite(Box::new(call)))
            }
            "google.storage.v2.Storage/GetBucket" => Message::decode(frame).map(Self::GetBucket),
            // The client crate calls the control service.
            "google.storage.control.v2.StorageControl/GetIamPolicy"
            | "google.storage.v2.Storage/GetIamPolicy" => Message::decode(frame).map(Self::GetPolicy),
            other => return Err(Status { code: Code::Unimplemented, message: other.to_owned() }),
        };
        read.map_err(|error| bad(error.to_string()))
    }

    /// The requested operation, and the object it concerns.
    pub fn call(&self) -> (Operation, String) {
        match self {
            Self::Delete(request) => (Operation::Delete, request.object.clone()),
            Self::Get(request) => (Operation::Get, request.object.clone()),
            Self::List(request) => (Operation::List, request.prefix.clone()),
            Self::Compose(request) => (
                Operation::Compose,
                request.destination.as_ref().map(|to| to.name.clone()).unwrap_or_default(),
            ),
            Self::Rewrite(request) => (Operation::Compose, request.destination_name.clone()),
            Self::GetBucket(_) | Self::GetPolicy(_) => (Operation::Bucket, String::new()),
        }
    }

    /// Carries out the call; returns the encoded response message.
    pub fn handle(self, objects: &mut Objects, now: Duration) -> Result<Bytes, Status> {
        Ok(match self {
            Self::Delete(request) => {
                objects.delete(
                    bucket(&request.bucket)?,
                    &request.object,
                    request.if_generation_match,
                    now,
                )?;
                Bytes::new()
            }
            Self::Get(request) => {
                let name = bucket(&request.bucket)?;
                message(&object(name, objects.get(name, &request.object, request.if_generation_match)?))
            }
            Self::List(request) => message(&list(objects, &request)?),
            Self::Compose(request) => {
                let to = request.destination.ok_or_else(|| Refusal::Bad("no destination".into()))?;
                let name = bucket(&to.bucket)?.to_owned();
                let new = New {
                    name: to.name,
                    content_type: to.content_type,
                    cache_control: to.cache_control,
                    content_encoding: to.content_encoding,
                    ..New::default()
                };
                let sources: Vec<_> = request.source_objects.into_iter().map(|source| source.name).collect();
                message(&object(
                    &name,
                    &objects.compose(&name, new, &sources, request.if_generation_match, now)?,
                ))
            }
            Self::Rewrite(request) => {
                let name = bucket(&request.source_bucket)?.to_owned();
                if request.destination_bucket != request.source_bucket {
                    return Err(Refusal::Bad("copies go within one bucket here".into()).into());
                }
                let (source, target) = (&request.source_object, &request.destination_name);
                let copied = objects.rewrite(&name, source, target, request.if_generation_match, now)?;
                message(&v2::RewriteResponse {
                    total_bytes_rewritten: copied.body.len() as i64,
                    object_size: copied.body.len() as i64,
                    done: true,
                    rewrite_token: String::new(),
                    resource: Some(object(&name, &copied)),
                })
            }
            Self::GetBucket(request) => {
                let name = bucket(&request.name)?;
                objects.allow(name, Permission::GetBucket)?;
                let settings = objects.settings(name).ok_or_else(|| Refusal::NotFound(name.to_owned()))?;
                message(&settings_message(name, settings))
            }
            Self::GetPolicy(request) => {
                let name = bucket(&request.resource)?;
                objects.allow(name, Permission::GetPolicy)?;
                let public = objects.settings(name).is_some_and(|settings| settings.public);
                let all = iam::Binding {
                    role: "roles/storage.objectViewer".into(),
                    members: vec!["allUsers".into()],
                    condition: None,
                };
                let bindings = if public { vec![all] } else { Vec::new() };
                message(&iam::Policy { version: 1, bindings, ..iam::Policy::default() })
            }
        })
    }
}

/// Adds the gRPC frame header to a message.
pub fn frame(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.extend_from_slice(message);
    framed.freeze()
}

fn message(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn bucket(resource: &str) -> Result<&str, Refusal> {
    resource
        .strip_prefix("projects/_/buckets/")
        .ok_or_else(|| Refusal::Bad(format!("{resource} is not projects/_/buckets/NAME")))
}

fn list(objects: &Objects, request: &v2::ListObjectsRequest) -> Result<v2::ListObjectsResponse, Refusal> {
    let name = bucket(&request.parent)?;
    let limit = if request.page_size > 0 { request.page_size.min(1000) } else { 1000 } as usize;
    let start =
        if request.page_token.is_empty() { &request.lexicographic_start } else { &request.page_token };
    let (mut page, mut next) = objects.list(name, &request.prefix, start, limit)?;
    if request.page_token.is_empty() && objects.has_empty_pages(name) {
        next = page.first().map(|first| first.name.clone());
        page.clear();
    }
    Ok(v2::ListObjectsResponse {
        objects: page.into_iter().map(|found| object(name, found)).collect(),
        prefixes: Vec::new(),
        next_page_token: next.unwrap_or_default(),
    })
}

fn object(bucket: &str, object: &objects::Object) -> v2::Object {
    v2::Object {
        name: object.name.clone(),
        bucket: format!("projects/_/buckets/{bucket}"),
        generation: object.generation,
        metageneration: 1,
        storage_class: "STANDARD".into(),
        size: object.body.len() as i64,
        content_type: object.content_type.clone(),
        cache_control: object.cache_control.clone(),
        content_encoding: object.content_encoding.clone(),
        component_count: object.components.unwrap_or_default(),
        checksums: Some(v2::ObjectChecksums {
            crc32c: Some(object.crc32c),
            ..v2::ObjectChecksums::default()
        }),
        ..v2::Object::default()
    }
}

fn settings_message(name: &str, settings: &objects::Settings) -> v2::Bucket {
    use v2::bucket::iam_config::UniformBucketLevelAccess;
    use v2::bucket::lifecycle::{Rule, rule};
    let seconds = |span: Duration| prost_types::Duration { seconds: span.as_secs() as i64, nanos: 0 };
    v2::Bucket {
        name: format!("projects/_/buckets/{name}"),
        bucket_id: name.to_owned(),
        storage_class: "STANDARD".into(),
        location: "EUROPE-WEST4".into(),
        cors: settings
            .cors
            .iter()
            .map(|cors| v2::bucket::Cors {
                origin: cors.origins.clone(),
                method: cors.methods.clone(),
                response_header: cors.headers.clone(),
                max_age_seconds: cors.max_age_seconds,
            })
            .collect(),
        versioning: Some(v2::bucket::Versioning { enabled: settings.versioning }),
        soft_delete_policy: Some(v2::bucket::SoftDeletePolicy {
            retention_duration: Some(seconds(settings.soft_delete)),
            effective_time: None,
        }),
        lifecycle: Some(v2::bucket::Lifecycle {
            rule: settings
                .delete_after_days
                .iter()
                .map(|days| Rule {
                    action: Some(rule::Action { r#type: "Delete".into(), ..rule::Action::default() }),
                    condition: Some(rule::Condition { age_days: Some(*days), ..rule::Condition::default() }),
                })
                .collect(),
        }),
        iam_config: Some(v2::bucket::IamConfig {
            uniform_bucket_level_access: Some(UniformBucketLevelAccess {
                enabled: settings.uniform_access,
                lock_time: None,
            }),
            public_access_prevention: if settings.public_access_prevented { "enforced" } else { "inherited" }
                .into(),
        }),
        ..v2::Bucket::default()
    }
}
