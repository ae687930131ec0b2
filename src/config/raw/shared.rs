//! The tables that both files have: `[log]`, `[drain]`, `[tunnel.limits]`, and the tunnel's identity.
//!
//! Called by the walks of `edge` and `origin`.

use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

use super::files::{certificates, pair};
use super::item::flag;
use super::names::{log_filter, log_format};
use super::numbers::{LONGEST, SHORTEST, duration, number, size};
use super::section::Section;
use crate::config::{Drain, Log, TunnelIdentity, TunnelLimits};
use crate::tunnel::identity::{Identity, identity};

/// `workers`: threads that carry requests.
pub(super) fn workers(top: &mut Section<'_>) -> usize {
    let cores = available_parallelism().map_or(1, NonZero::get);
    // Workers are steered by one byte of the connection id.
    top.or("workers", cores.min(256), number(1..=256))
}

/// `[log]`
pub(super) fn log(mut section: Section<'_>) -> Log {
    let default = Log::default();
    Log {
        level: section.or("level", default.level, log_filter),
        format: section.or("format", default.format, log_format),
        access: section.or("access", default.access, flag),
    }
}

/// `[drain]`
pub(super) fn drain(mut section: Section<'_>) -> Drain {
    Drain { timeout: section.or("timeout", Drain::default().timeout, duration(Duration::ZERO..=LONGEST)) }
}

/// `[tunnel.limits]`
pub(super) fn tunnel_limits(mut section: Section<'_>) -> TunnelLimits {
    let default = TunnelLimits::default();
    TunnelLimits {
        exchanges_max: section.or("exchanges_max", default.exchanges_max, number(1..=1_000_000)),
        exchange_window_max: section.or("exchange_window_max", default.exchange_window_max, size(64 << 10..=1 << 30)),
        retention_max: section.or("retention_max", default.retention_max, size(1 << 20..=1 << 40)),
        idle_timeout: section.or("idle_timeout", default.idle_timeout, duration(SHORTEST * 1_000..=LONGEST)),
    }
}

/// `cert`, `key` and `ca` of `[tunnel]`. The certificate must be that of `wanted`, a PoP or gateway of this name: the
/// other end would refuse it anyway, and say so only once there is a tunnel to dial.
pub(super) fn tunnel_identity(
    section: &mut Section<'_>,
    file: &str,
    wanted: Option<&Identity>,
) -> Option<TunnelIdentity> {
    let pair = pair(section, &format!("{file}.pem"), &format!("{file}.key"));
    let ca = section.required("ca", "\"tunnel-ca.pem\"", certificates);
    let (pair, ca) = (pair?, ca?);
    let wanted = wanted?;
    let (message, or) = match identity(&pair.leaf) {
        Ok(found) if same_node(&found, wanted) => return Some(TunnelIdentity { cert: pair.cert, key: pair.key, ca }),
        Ok(found) if same_kind(&found, wanted) => {
            (format!("this is the certificate of {found}"), format!(", or `name = \"{}\"`", found.name()))
        }
        Ok(found) => (format!("this is the certificate of {found}"), String::new()),
        Err(error) => (format!("whose certificate is this? {error}"), String::new()),
    };
    section.conflict("cert", message, format!("the certificate of {wanted}{or}"));
    None
}

fn same_kind(a: &Identity, b: &Identity) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

fn same_node(a: &Identity, b: &Identity) -> bool {
    same_kind(a, b) && a.name() == b.name()
}
