//! Stage 8: from hyper's errors to a [`Fault`], by type and never by text.

use std::error::Error;
use std::io;

use super::outgoing::Progress;
use crate::fault::{Fault, Kind, Retry, Side, Stage};

const fn upstream(kind: Kind, retry: Retry) -> Fault {
    Fault::new(Stage::Upstream, Side::Upstream, kind).with_retry(retry)
}

/// Why no response head came. A body that the client broke off is the client's fault.
pub(super) fn before_head(error: &hyper::Error, progress: &Progress) -> Fault {
    if let Some(fault) = progress.fault() {
        return fault;
    }
    if let Some(error) = source::<h2::Error>(error) {
        return before_h2_head(error);
    }
    if error.is_parse_too_large() {
        return upstream(Kind::ResponseHeaderSectionSize, Retry::Never);
    }
    if error.is_parse() {
        return upstream(Kind::ProtocolError, Retry::Never);
    }
    if error.is_timeout() {
        return upstream(Kind::ConnectionReadTimeout, Retry::Idempotent);
    }
    // The kernel gave up: keep-alive probes or sent bytes unanswered.
    if source::<io::Error>(error).is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
        return upstream(Kind::ConnectionWriteTimeout, Retry::Idempotent);
    }
    upstream(Kind::ConnectionTerminated, Retry::Idempotent)
}

fn before_h2_head(error: &h2::Error) -> Fault {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // RFC 9113 section 8.7: a refused stream, or one above GOAWAY's last stream, was not processed. h2 gives GOAWAY as
    // the error of a stream only when the stream is above it.
    if error.is_remote() && (refused || error.is_go_away()) {
        return upstream(Kind::ConnectionTerminated, Retry::Anywhere);
    }
    // Also a field section above our limit, which h2 does not tell apart.
    if error.is_library() {
        return upstream(Kind::ProtocolError, Retry::Never);
    }
    upstream(Kind::ConnectionTerminated, Retry::Idempotent)
}

/// Why a response body cannot be completed: the head went on, so nothing can be sent again.
pub(super) fn in_body(progress: &Progress) -> Fault {
    progress.fault().unwrap_or(upstream(Kind::ResponseIncomplete, Retry::Never))
}

fn source<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}
