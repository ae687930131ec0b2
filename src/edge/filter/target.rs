//! Methods and targets that this edge carries. A plain function over the head.

use http::Method;

use super::Reason;
use crate::tunnel::message::RequestHead;

/// Checks that the method is one to carry and that the target fits it.
///
/// - CONNECT without `:protocol` asks for a TCP tunnel, which a gateway to configured services never gives: 405, since
///   the method is known but no resource here has it.
/// - TRACE would echo what trusted hops added (addresses, ids) to whoever asks (RFC 9110 section 9.3.8): 405.
/// - `*` is a target of OPTIONS only (RFC 9110 section 7.1).
/// - `:protocol` belongs to CONNECT (RFC 8441 section 4); WebSocket is the one that upstreams are spoken to with.
pub fn check(head: &RequestHead) -> Result<(), Reason> {
    match (&head.method, head.protocol.as_deref()) {
        (&Method::CONNECT, Some(_)) if head.path.path() == "*" => Err(Reason::Target),
        (&Method::CONNECT, Some(protocol)) if protocol.eq_ignore_ascii_case(b"websocket") => Ok(()),
        (&Method::CONNECT, Some(_)) => Err(Reason::Upgrade),
        (_, Some(_)) => Err(Reason::Target),
        (&Method::CONNECT | &Method::TRACE, None) => Err(Reason::Method),
        (&Method::OPTIONS, None) => Ok(()),
        (_, None) if head.path.path() == "*" => Err(Reason::Target),
        (_, None) => Ok(()),
    }
}
