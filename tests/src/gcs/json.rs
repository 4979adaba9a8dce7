//! HTTP: uploads and downloads of the JSON API as google-cloud-storage sends them, and public URLs. Requests go in,
//! responses come out.
//!
//! Paths: `/upload/storage/v1/b/BUCKET/o`, `/storage/v1/b/BUCKET/o/OBJECT`, `/BUCKET/OBJECT` (public).

use super::faults::Operation;
use super::multipart;
use super::objects::{
    DEFAULT_CACHE_CONTROL, IfGeneration, New, Object, Objects, Permission, Progress, Refusal,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::http::response::Builder;
use hyper::{Method, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

const UPLOAD: &str = "/upload/storage/v1/b/";
const API: &str = "/storage/v1/b/";

/// Target of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An upload to this bucket, or a piece of a resumable one.
    Upload(String),
    /// An object (bucket, name) in the API.
    Object(String, String),
    /// An object (bucket, name) under its public URL.
    Public(String, String),
}

/// The decoded query parameters of a request.
pub(super) fn query(request: &Request<Bytes>) -> BTreeMap<String, String> {
    let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn text<'a>(request: &'a Request<Bytes>, name: &str) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl Target {
    /// Parses a request's path; `None` for an unknown path.
    pub fn of(request: &Request<Bytes>) -> Option<Self> {
        let path = request.uri().path();
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        if let Some(rest) = path.strip_prefix(UPLOAD) {
            return Some(Self::Upload(decode(rest.strip_suffix("/o")?)));
        }
        if let Some(rest) = path.strip_prefix(API) {
            let (bucket, object) = rest.split_once("/o/")?;
            return Some(Self::Object(decode(bucket), decode(object)));
        }
        let (bucket, object) = path.strip_prefix('/')?.split_once('/')?;
        Some(Self::Public(decode(bucket), decode(object)))
    }

    /// The requested operation, and the object it concerns.
    pub fn call(&self, request: &Request<Bytes>) -> (Operation, String) {
        match self {
            Self::Upload(_) => (Operation::Insert, query(request).remove("name").unwrap_or_default()),
            Self::Object(_, object) => {
                let operation = match request.method() {
                    &Method::DELETE => Operation::Delete,
                    _ if query(request).get("alt").is_some_and(|alt| alt == "media") => Operation::Read,
                    _ => Operation::Get,
                };
                (operation, object.clone())
            }
            Self::Public(_, object) => (Operation::Public, object.clone()),
        }
    }
}

/// Carries out a request. `base` is this server's URL, used in the addresses of resumable uploads.
pub fn handle(objects: &mut Objects, request: &Request<Bytes>, base: &str, now: Duration) -> Response<Bytes> {
    let Some(target) = Target::of(request) else {
        return refusal(&Refusal::NotFound(format!("nothing at {}", request.uri().path())));
    };
    let result = match &target {
        Target::Upload(bucket) => upload(objects, bucket, request, base, now),
        Target::Object(bucket, object) => api(objects, bucket, object, request, now),
        Target::Public(bucket, object) => Ok(public(objects, bucket, object, request)),
    };
    result.unwrap_or_else(|error| refusal(&error))
}

fn if_generation(query: &BTreeMap<String, String>) -> Result<IfGeneration, Refusal> {
    let number = |text: &String| text.parse().map_err(|_| Refusal::Bad("ifGenerationMatch".into()));
    query.get("ifGenerationMatch").map(number).transpose()
}

fn upload(
    objects: &mut Objects,
    bucket: &str,
    request: &Request<Bytes>,
    base: &str,
    now: Duration,
) -> Result<Response<Bytes>, Refusal> {
    let query = query(request);
    if let Some(id) = query.get("upload_id") {
        let id = id.parse().map_err(|_| Refusal::NotFound("upload".into()))?;
        return resume(objects, bucket, id, request, now);
    }
    let if_generation = if_generation(&query)?;
    let name = query.get("name").cloned();
    match query.get("uploadType").map(String::as_str) {
        Some("multipart") => {
            let parts = multipart::parts(text(request, "content-type"), request.body())
                .filter(|parts| (2..=3).contains(&parts.len()))
                .ok_or_else(|| Refusal::Bad("not multipart/related with 2 or 3 parts".into()))?;
            let mut new = metadata(&parts[0].1, name)?;
            new.body = parts[1].1.clone();
            if new.content_type.is_empty() {
                new.content_type = parts[1].0.clone().unwrap_or_default();
            }
            if let Some((_, checksums)) = parts.get(2) {
                new.crc32c = checksum(&parse(checksums)?)?.or(new.crc32c);
            }
            Ok(resource(bucket, &objects.insert(bucket, new, if_generation, now)?))
        }
        Some("resumable") => {
            let id = objects.begin(bucket, metadata(request.body(), name)?, if_generation)?;
            let location = format!("{base}{UPLOAD}{bucket}/o?uploadType=resumable&upload_id={id}");
            Ok(finish(Response::builder().header(header::LOCATION, location), Bytes::new()))
        }
        other => Err(Refusal::Bad(format!("uploadType {other:?}"))),
    }
}

fn resume(
    objects: &mut Objects,
    bucket: &str,
    id: u64,
    request: &Request<Bytes>,
    now: Duration,
) -> Result<Response<Bytes>, Refusal> {
    let bad = || Refusal::Bad(format!("Content-Range: {}", text(request, "content-range")));
    let range = text(request, "content-range").strip_prefix("bytes ").ok_or_else(bad)?;
    let (span, total) = range.split_once('/').ok_or_else(bad)?;
    let total = if total == "*" { None } else { Some(total.parse().map_err(|_| bad())?) };
    let progress = match span.split_once('-') {
        // `bytes */*` queries the progress; `bytes */0` uploads an empty object.
        None if total.is_some() => objects.resume(id, 0, request.body(), total, now)?,
        None => objects.progress(id)?,
        Some((from, _)) => {
            objects.resume(id, from.parse().map_err(|_| bad())?, request.body(), total, now)?
        }
    };
    Ok(match progress {
        Progress::Finished(object) => resource(bucket, &object),
        Progress::Received(bytes) => {
            let mut answer = Response::builder().status(StatusCode::PERMANENT_REDIRECT);
            if bytes > 0 {
                answer = answer.header(header::RANGE, format!("bytes=0-{}", bytes - 1));
            }
            finish(answer, Bytes::new())
        }
    })
}

fn api(
    objects: &mut Objects,
    bucket: &str,
    object: &str,
    request: &Request<Bytes>,
    now: Duration,
) -> Result<Response<Bytes>, Refusal> {
    let query = query(request);
    let if_generation = if_generation(&query)?;
    match *request.method() {
        Method::DELETE => {
            objects.delete(bucket, object, if_generation, now)?;
            Ok(finish(Response::builder().status(StatusCode::NO_CONTENT), Bytes::new()))
        }
        Method::GET => {
            let found = objects.get(bucket, object, if_generation)?;
            if query.get("generation").is_some_and(|wanted| *wanted != found.generation.to_string()) {
                return Err(Refusal::NotFound(format!("{object} of another generation")));
            }
            if query.get("alt").is_some_and(|alt| alt == "media") {
                Ok(media(found, request, Response::builder()))
            } else {
                Ok(resource(bucket, found))
            }
        }
        _ => Err(Refusal::Bad(format!("{} is not spoken here", request.method()))),
    }
}

/// GET and HEAD of a public object, with the bucket's cross-origin rules.
fn public(objects: &Objects, bucket: &str, object: &str, request: &Request<Bytes>) -> Response<Bytes> {
    let mut answer = Response::builder();
    let settings = objects.settings(bucket);
    let (origin, method) = (text(request, "origin"), request.method());
    let asked = text(request, "access-control-request-method");
    let wanted = if method == Method::OPTIONS { asked } else { method.as_str() };
    let rule = settings.into_iter().flat_map(|settings| &settings.cors).find(|cors| {
        cors.origins.iter().any(|allowed| allowed == "*" || allowed == origin)
            && cors.methods.iter().any(|allowed| allowed == wanted)
    });
    if let Some(cors) = rule.filter(|_| !origin.is_empty()) {
        let all = cors.origins.iter().any(|origin| origin == "*");
        answer = answer
            .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, if all { "*" } else { origin })
            .header(header::ACCESS_CONTROL_EXPOSE_HEADERS, cors.headers.join(", "));
        if method == Method::OPTIONS {
            answer = answer
                .header(header::ACCESS_CONTROL_ALLOW_METHODS, cors.methods.join(", "))
                .header(header::ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.join(", "))
                .header(header::ACCESS_CONTROL_MAX_AGE, cors.max_age_seconds);
        }
    }
    let error = |answer: Builder, status, text: &str| {
        // Errors must not be cached.
        finish(
            answer.status(status).header(header::CACHE_CONTROL, "private, max-age=0"),
            text.to_owned().into(),
        )
    };
    match settings {
        _ if method == Method::OPTIONS => finish(answer, Bytes::new()),
        None => error(answer, StatusCode::NOT_FOUND, "NoSuchBucket"),
        Some(settings) if !settings.public => error(answer, StatusCode::FORBIDDEN, "AccessDenied"),
        Some(_) if method != Method::GET && method != Method::HEAD => {
            error(answer, StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed")
        }
        Some(_) => match objects.peek(bucket, object) {
            None => error(answer, StatusCode::NOT_FOUND, "NoSuchKey"),
            Some(found) => media(found, request, answer),
        },
    }
}

/// An object's bytes, or a range of them.
fn media(object: &Object, request: &Request<Bytes>, mut answer: Builder) -> Response<Bytes> {
    let all = object.body.len();
    let cache_control =
        if object.cache_control.is_empty() { DEFAULT_CACHE_CONTROL } else { &object.cache_control };
    let encoding = if object.content_encoding.is_empty() { "identity" } else { &object.content_encoding };
    answer = answer
        .header(header::CONTENT_TYPE, &object.content_type)
        .header(header::CACHE_CONTROL, cache_control)
        .header(header::ETAG, format!("\"{:x}\"", object.generation))
        .header(header::ACCEPT_RANGES, "bytes")
        .header("x-goog-generation", object.generation)
        .header("x-goog-metageneration", 1)
        .header("x-goog-stored-content-length", all)
        .header("x-goog-stored-content-encoding", encoding)
        .header("x-goog-storage-class", "STANDARD")
        .header("x-goog-hash", format!("crc32c={}", encode(object.crc32c)));
    if !object.content_encoding.is_empty() {
        answer = answer.header(header::CONTENT_ENCODING, &object.content_encoding);
    }
    let body = match range(text(request, "range"), all) {
        Asked::All => object.body.clone(),
        Asked::Part(part) => {
            let shown = format!("bytes {}-{}/{all}", part.start, part.end - 1);
            answer = answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, shown);
            object.body.slice(part)
        }
        Asked::Nothing => {
            let shown = format!("bytes */{all}");
            answer = answer.status(StatusCode::RANGE_NOT_SATISFIABLE).header(header::CONTENT_RANGE, shown);
            Bytes::new()
        }
    };
    if request.method() == Method::HEAD {
        return finish(answer.header(header::CONTENT_LENGTH, body.len()), Bytes::new());
    }
    finish(answer, body)
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Part(Range<usize>),
    Nothing,
}

/// Parses a single range. Several ranges, or an unreadable one, select the whole object (RFC 9110 14.2).
fn range(text: &str, all: usize) -> Asked {
    let parsed = (|| {
        let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
        Some(match (from.parse::<usize>(), to.parse::<usize>()) {
            (Ok(from), Ok(to)) => from..to.saturating_add(1).min(all),
            (Ok(from), Err(_)) if to.is_empty() => from..all,
            (Err(_), Ok(last)) if from.is_empty() => all.saturating_sub(last)..all,
            _ => return None,
        })
    })();
    match parsed {
        None => Asked::All,
        Some(part) if part.start < part.end => Asked::Part(part),
        Some(_) => Asked::Nothing,
    }
}

fn parse(body: &Bytes) -> Result<Value, Refusal> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|error| Refusal::Bad(format!("not JSON: {error}")))
}

fn metadata(body: &Bytes, name: Option<String>) -> Result<New, Refusal> {
    let value = parse(body)?;
    let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    Ok(New {
        name: name.unwrap_or_else(|| field("name")),
        body: Bytes::new(),
        content_type: field("contentType"),
        cache_control: field("cacheControl"),
        content_encoding: field("contentEncoding"),
        crc32c: checksum(&value)?,
    })
}

fn checksum(value: &Value) -> Result<Option<u32>, Refusal> {
    let Some(text) = value["crc32c"].as_str() else { return Ok(None) };
    let bytes = BASE64_STANDARD.decode(text).ok().and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    bytes.map(|bytes| Some(u32::from_be_bytes(bytes))).ok_or_else(|| Refusal::Bad("crc32c".into()))
}

fn encode(crc32c: u32) -> String {
    BASE64_STANDARD.encode(crc32c.to_be_bytes())
}

fn resource(bucket: &str, object: &Object) -> Response<Bytes> {
    let mut value = json!({
        "kind": "storage#object",
        "name": object.name,
        "bucket": bucket,
        // The API writes 64-bit numbers as strings.
        "generation": object.generation.to_string(),
        "metageneration": "1",
        "size": object.body.len().to_string(),
        "contentType": object.content_type,
        "cacheControl": object.cache_control,
        "crc32c": encode(object.crc32c),
        "storageClass": "STANDARD",
    });
    if let Some(components) = object.components {
        value["componentCount"] = components.into();
    }
    answer_json(StatusCode::OK, &value)
}

/// HTTP status, Google's reason string and message for a refusal.
fn code(error: &Refusal) -> (u16, &'static str, String) {
    match error {
        Refusal::NotFound(what) => (404, "notFound", what.clone()),
        Refusal::Precondition => {
            (412, "conditionNotMet", "At least one of the pre-conditions did not hold.".into())
        }
        Refusal::TooOften(name) => (
            429,
            "rateLimitExceeded",
            format!("The object {name} exceeded the rate limit for object mutation operations"),
        ),
        Refusal::Bad(why) => (400, "invalid", why.clone()),
        Refusal::Forbidden(permission) => (403, "forbidden", forbidden(*permission)),
        Refusal::Full => (403, "quotaExceeded", "The account's quota is exceeded.".into()),
    }
}

pub(super) fn forbidden(permission: Permission) -> String {
    let name = permission.name();
    format!(
        "encoder@project.iam.gserviceaccount.com does not have {name} access to the Google Cloud Storage object. \
         Permission '{name}' denied on resource (or it may not exist)."
    )
}

fn refusal(error: &Refusal) -> Response<Bytes> {
    let (status, reason, message) = code(error);
    status_answer(status, reason, &message)
}

/// An error response in the format of the API.
pub fn status_answer(status: u16, reason: &str, message: &str) -> Response<Bytes> {
    let errors = json!([{ "message": message, "domain": "global", "reason": reason }]);
    let body = json!({ "error": { "code": status, "message": message, "errors": errors } });
    answer_json(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &body)
}

fn answer_json(status: StatusCode, body: &Value) -> Response<Bytes> {
    let builder =
        Response::builder().status(status).header(header::CONTENT_TYPE, "application/json; charset=UTF-8");
    finish(builder, body.to_string().into())
}

fn finish(builder: Builder, body: Bytes) -> Response<Bytes> {
    builder.body(body).unwrap_or_else(|error| {
        // The object's Content-Type is not a valid header value.
        let mut answer = Response::new(Bytes::from(error.to_string()));
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
}
