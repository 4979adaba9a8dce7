//! Translates errors of google-cloud-storage into the store's terms.

use crate::StoreError;
use google_cloud_gax::error::rpc::Code;
use google_cloud_storage::Error;

/// What an error means, independent of the protocol (HTTP or gRPC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorKind {
    /// The same call may succeed later.
    Passing,
    /// The bucket or the object does not exist.
    Missing,
    /// The request was invalid, or was damaged in transit (a checksum does not match).
    BadRequest,
    /// A precondition failed.
    Precondition,
    /// The account lacks the permission.
    Forbidden,
    /// The caller is not authenticated.
    Unauthenticated,
    /// Any other permanent error.
    Lasting,
}

/// Classifies an error of either protocol: HTTP (uploads, reads) or gRPC (everything else).
pub(super) fn kind(error: &Error) -> ErrorKind {
    if let Some(status) = error.http_status_code() {
        return match status {
            401 => ErrorKind::Unauthenticated,
            403 => ErrorKind::Forbidden,
            404 => ErrorKind::Missing,
            412 => ErrorKind::Precondition,
            408 | 429 | 500..=599 => ErrorKind::Passing,
            400 => ErrorKind::BadRequest,
            _ => ErrorKind::Lasting,
        };
    }
    match error.status().map(|status| status.code) {
        Some(Code::NotFound) => ErrorKind::Missing,
        Some(Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists) => ErrorKind::Precondition,
        Some(Code::PermissionDenied) => ErrorKind::Forbidden,
        Some(Code::Unauthenticated) => ErrorKind::Unauthenticated,
        Some(Code::InvalidArgument | Code::OutOfRange) => ErrorKind::BadRequest,
        Some(Code::Unimplemented) => ErrorKind::Lasting,
        Some(_) => ErrorKind::Passing,
        // A name that cannot be sent or an answer that cannot be parsed fails again next time. Any other error
        // without a status is a fault of the network.
        None if error.is_binding() || error.is_serialization() => ErrorKind::Lasting,
        None => ErrorKind::Passing,
    }
}

/// Maps errors of calls on one object. Callers that distinguish a missing object do so before calling this.
pub(super) fn store_error(error: &Error) -> StoreError {
    match kind(error) {
        // An expired token is replaced in the background, so an unauthenticated call may succeed later. Opening the
        // bucket has proved that the requests are valid, so a bad request was damaged in transit.
        ErrorKind::Passing | ErrorKind::Unauthenticated | ErrorKind::BadRequest => {
            StoreError::Unavailable(text(error))
        }
        ErrorKind::Precondition => StoreError::Changed,
        ErrorKind::Missing | ErrorKind::Forbidden | ErrorKind::Lasting => StoreError::Refused(text(error)),
    }
}

/// One line: the server's message, or the whole error chain when there was no answer.
pub(super) fn text(error: &Error) -> String {
    if let Some(status) = error.status() {
        let code = error.http_status_code().map_or_else(|| status.code.to_string(), |code| code.to_string());
        return format!("{code} {}", status.message.trim());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use google_cloud_gax::error::rpc::Status;

    fn http(status: u16) -> Error {
        Error::http(status, Default::default(), Bytes::from_static(b"no JSON"))
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [400, 401, 408, 429, 500, 502, 503, 504] {
            assert!(store_error(&http(status)).is_retryable(), "{status}");
        }
        for status in [403, 404, 405, 411, 413] {
            assert!(!store_error(&http(status)).is_retryable(), "{status}");
        }
        assert_eq!(store_error(&http(412)), StoreError::Changed);
        for code in [Code::Unavailable, Code::ResourceExhausted, Code::Internal, Code::DeadlineExceeded] {
            let error = Error::service(Status::default().set_code(code));
            assert!(store_error(&error).is_retryable(), "{code:?}");
        }
        let error = Error::service(Status::default().set_code(Code::PermissionDenied).set_message("no way"));
        assert!(matches!(store_error(&error), StoreError::Refused(text) if text.contains("no way")));
    }
}
