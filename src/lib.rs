//! Trunkline: a self-hosted edge in two paired binaries, `edge` (at a Point of Presence) and `origin` (beside the
//! user's HTTP servers), joined by QUIC tunnels that the origin dials.
//!
//! The way of a request, and the stage numbers used in log fields, ARCHITECTURE.md and bench names:
//!
//! 1. [`edge::listener`] turns bytes of HTTP/3, HTTP/2 or HTTP/1.1 into a request head and body.
//! 2. [`edge::filter`] refuses early what must not go further.
//! 3. [`edge::route`] finds the service that the authority names.
//! 4. (cache: absent until its issue comes)
//! 5. [`edge::dispatch`] chooses the tunnel.
//! 6. [`tunnel`] carries the exchange to the origin, byte-exact.
//! 7. [`origin::gateway`] turns the exchange into an upstream request.
//! 8. [`origin::upstream`] sends it on a pooled connection and the response goes back the same way.

pub mod admin;
pub mod ca;
pub mod clock;
pub mod config;
pub mod dev;
pub mod edge;
pub mod exit;
pub mod fault;
pub mod fields;
pub mod observe;
pub mod origin;
pub mod quic;
pub mod signal;
pub mod task;
pub mod tls;
pub mod tunnel;
