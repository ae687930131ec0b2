//! Configuration: raw (what was typed) to checked (what the rest of the program sees).
//!
//! Unknown keys are refused; every error of a file is reported at once with file, line, caret and what is allowed.
//! Paths are relative to the file. Nothing outside this module parses configuration. Every key, its default and its
//! meaning: `examples/all-keys`.

mod edge;
mod origin;
mod raw;
mod report;
mod values;

#[cfg(feature = "interop")]
pub use edge::Interop;
pub use edge::{EdgeConfig, EdgeService, EdgeTunnel, Http3, Limits, NextPop, TlsCertificate};
pub use origin::{
    OriginConfig, OriginPop, OriginService, OriginTunnel, PopAddress, Upstream, UpstreamLimits, UpstreamScheme,
    UpstreamTarget,
};
pub(crate) use raw::parse_duration;
pub use report::Errors;
pub use values::{AdminListen, Drain, HostPattern, Log, LogFormat, TunnelIdentity, TunnelLimits};
