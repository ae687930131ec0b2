//! Names and addresses: nodes, hosts, sockets, networks, PoPs, upstreams, log filters.
//!
//! Called by the walks. Each is a value parser as [`super::item`] describes: it records what is wrong itself. Nothing is
//! resolved here: a name that does not resolve now may do so later.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::files::resolve;
use super::item::Item;
use crate::config::{AdminListen, HostPattern, LogFormat, PopAddress, Upstream, UpstreamScheme, UpstreamTarget};
use crate::tunnel::identity::{NAME_RULE, is_name};

/// Name of a PoP, gateway or service.
pub(super) fn name(item: &Item<'_>) -> Option<String> {
    let text = item.text(NAME_RULE)?;
    match is_name(text) {
        true => Some(text.to_owned()),
        false => item.refuse(format!("`{text}` is not a name"), NAME_RULE),
    }
}

/// IP address and port to listen on.
pub(super) fn socket(item: &Item<'_>) -> Option<SocketAddr> {
    const ALLOWED: &str = "an IP address and a port, such as \"0.0.0.0:443\", \"[::]:443\", \"127.0.0.1:0\" (any port)";
    let text = item.text(ALLOWED)?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => item.refuse(format!("`{text}` is not an address to listen on"), ALLOWED),
    }
}

/// An address of this machine that packets can be sent to.
pub(super) fn address(item: &Item<'_>) -> Option<IpAddr> {
    const ALLOWED: &str = "an IP address of this machine, such as \"192.0.2.7\" or \"2001:db8::7\"";
    let text = item.text(ALLOWED)?;
    match text.parse::<IpAddr>() {
        Ok(address) if !address.is_unspecified() && !address.is_multicast() => Some(address),
        _ => item.refuse(format!("`{text}` is not an address to go to"), ALLOWED),
    }
}

/// Where the admin listener listens.
pub(super) fn admin(item: &Item<'_>) -> Option<AdminListen> {
    const ALLOWED: &str = "an IP address and a port such as \"127.0.0.1:9180\", or a unix socket: \"unix:/path\"";
    let text = item.text(ALLOWED)?;
    match text.strip_prefix("unix:") {
        Some(path) if is_socket_path(path) => Some(AdminListen::Unix(resolve(item, path))),
        Some(_) => item.refuse(format!("`{text}` is not the path of a unix socket"), SOCKET_PATH),
        None => match text.parse() {
            Ok(address) => Some(AdminListen::Tcp(address)),
            Err(_) => item.refuse(format!("`{text}` is not an address to listen on"), ALLOWED),
        },
    }
}

const SOCKET_PATH: &str = "a path of 1 to 107 bytes without NUL (the kernel's limit for unix sockets)";

fn is_socket_path(path: &str) -> bool {
    (1..=107).contains(&path.len()) && !path.contains('\0')
}

/// A network, or one address.
pub(super) fn network(item: &Item<'_>) -> Option<IpNet> {
    const ALLOWED: &str = "a network or an address, such as \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.7\"";
    let text = item.text(ALLOWED)?;
    match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
        Ok(network) => Some(network.trunc()),
        Err(_) => item.refuse(format!("`{text}` is not a network"), ALLOWED),
    }
}

/// A host that leads to a service.
pub(super) fn host_pattern(item: &Item<'_>) -> Option<HostPattern> {
    const ALLOWED: &str = "a host without port (\"www.example.com\", \"192.0.2.7\", \"[2001:db8::7]\"), all hosts below one (\"*.example.org\"), or \"*\" for the rest; other alphabets as xn--";
    let text = item.text(ALLOWED)?;
    let lower = text.to_ascii_lowercase();
    let pattern = match lower.strip_prefix("*.") {
        _ if lower == "*" => Some(HostPattern::Any),
        Some(suffix) => is_dns_name(suffix).then(|| HostPattern::Wildcard(suffix.to_owned())),
        None => host(&lower).map(HostPattern::Exact),
    };
    pattern.or_else(|| item.refuse(format!("`{text}` is not a host"), ALLOWED))
}

/// A DNS name, an IPv4 address or an IPv6 address in brackets, in its one spelling.
fn host(lower: &str) -> Option<String> {
    match lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().ok().map(|address| format!("[{address}]")),
        None => (is_dns_name(lower) || lower.parse::<std::net::Ipv4Addr>().is_ok()).then(|| lower.to_owned()),
    }
}

/// Labels of letters, digits, `-` and `_` (RFC 1123 section 2.1; the underscore as in practice), 253 bytes in all. A
/// last label of digits would be an IPv4 address (URL standard).
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let digits = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(label) && !name.rsplit('.').next().is_some_and(digits)
}

/// `host:port` with a host as [`host`] has it (IPv6 without its brackets) and a port above 0.
fn host_and_port(text: &str, default: Option<u16>) -> Option<(String, u16)> {
    let after_host = text.rfind(']').map_or(0, |at| at + 1);
    let (name, port) = match text.get(after_host..)?.rfind(':') {
        Some(colon) => {
            let (name, port) = text.split_at_checked(after_host + colon)?;
            (name, u16::from_str(port.strip_prefix(':')?).ok()?)
        }
        None => (text, default?),
    };
    let host = host(&name.to_ascii_lowercase())?;
    let bare = host.trim_matches(['[', ']']).to_owned();
    (port > 0).then_some((bare, port))
}

/// Address of a PoP's tunnel listener.
pub(super) fn pop_address(item: &Item<'_>) -> Option<PopAddress> {
    const ALLOWED: &str =
        "host and port, such as \"pop-a.example.net:7844\", \"192.0.2.7:7844\", \"[2001:db8::7]:7844\"";
    let text = item.text(ALLOWED)?;
    match host_and_port(text, None) {
        Some((host, port)) => Some(PopAddress { host, port }),
        None => item.refuse(format!("`{text}` is not the address of a PoP"), ALLOWED),
    }
}

/// An upstream server.
pub(super) fn upstream(item: &Item<'_>) -> Option<Upstream> {
    const ALLOWED: &str = "http://HOST[:PORT], https://HOST[:PORT], h2c://HOST[:PORT] (HTTP/2 in the clear) or unix:/PATH (HTTP/1.1), without path or query";
    let text = item.text(ALLOWED)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return match is_socket_path(path) {
            true => Some(unix(resolve(item, path))),
            false => item.refuse(format!("`{text}` is not the path of a unix socket"), SOCKET_PATH),
        };
    }
    tcp(text).or_else(|| item.refuse(format!("`{text}` is not an upstream"), ALLOWED))
}

fn unix(path: PathBuf) -> Upstream {
    Upstream { scheme: UpstreamScheme::Http, target: UpstreamTarget::Unix(path) }
}

fn tcp(text: &str) -> Option<Upstream> {
    let (scheme, authority) = text.split_once("://")?;
    let (scheme, port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (UpstreamScheme::Http, 80),
        "https" => (UpstreamScheme::Https, 443),
        "h2c" => (UpstreamScheme::H2c, 80),
        _ => return None,
    };
    let (host, port) = host_and_port(authority.strip_suffix('/').unwrap_or(authority), Some(port))?;
    Some(Upstream { scheme, target: UpstreamTarget::Tcp { host, port } })
}

/// A name to verify in a certificate: DNS name or IP address.
pub(super) fn tls_name(item: &Item<'_>) -> Option<String> {
    const ALLOWED: &str = "a DNS name or an IP address without port";
    let text = item.text(ALLOWED)?;
    let lower = text.to_ascii_lowercase();
    match is_dns_name(&lower) || lower.parse::<IpAddr>().is_ok() {
        true => Some(lower),
        false => item.refuse(format!("`{text}` is not a name that a certificate can have"), ALLOWED),
    }
}

/// The value of a Host field.
pub(super) fn authority(item: &Item<'_>) -> Option<String> {
    const ALLOWED: &str = "HOST or HOST:PORT";
    let text = item.text(ALLOWED)?;
    match host_and_port(text, Some(1)) {
        Some(_) => Some(text.to_ascii_lowercase()),
        None => item.refuse(format!("`{text}` is not a host"), ALLOWED),
    }
}

/// A filter of `tracing`. A single word must be a level: as a target it would silence everything else.
pub(super) fn log_filter(item: &Item<'_>) -> Option<String> {
    const ALLOWED: &str = "off, error, warn, info, debug, trace, or a list such as \"info,trunkline::tunnel=debug\"";
    let text = item.text(ALLOWED)?;
    let is_level = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
    let words_are_levels = text.split(',').all(|part| part.contains(['=', '[']) || is_level(part.trim()));
    match words_are_levels && EnvFilter::builder().parse(text).is_ok() {
        true => Some(text.to_owned()),
        false => item.refuse(format!("`{text}` is not a log filter"), ALLOWED),
    }
}

/// The form of log lines.
pub(super) fn log_format(item: &Item<'_>) -> Option<LogFormat> {
    const ALLOWED: &str = "\"auto\" (text on a terminal, JSON otherwise), \"text\", \"json\"";
    match item.text(ALLOWED)? {
        "auto" => Some(LogFormat::Auto),
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        other => item.refuse(format!("`{other}` is not a log format"), ALLOWED),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Option<(String, u16)> {
        host_and_port(text, None)
    }

    #[test]
    fn host_and_port_know_brackets() {
        assert_eq!(at("Pop-A.example.net:7844"), Some(("pop-a.example.net".into(), 7844)));
        assert_eq!(at("192.0.2.7:1"), Some(("192.0.2.7".into(), 1)));
        assert_eq!(at("[2001:DB8::7]:65535"), Some(("2001:db8::7".into(), 65_535)));
        assert_eq!(host_and_port("[::1]", Some(80)), Some(("::1".into(), 80)));
        for text in
            ["", ":1", "a", "a:", "a:0", "a:65536", "a:-1", "::1:80", "[::1]80", "[::1", "a b:1", "u@a:1", "1.2.3:1"]
        {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn dns_names_are_not_addresses() {
        assert!(
            ["localhost", "a.b", "xn--bcher-kva.example", "_dmarc.x", "1.2.3.a"].iter().all(|name| is_dns_name(name))
        );
        let bad = ["", ".", "a.", ".a", "a..b", "-a", "a-", "1.2.3.4", "1.2.3", "a b", "ä.de", "a/b"];
        assert!(!bad.iter().any(|name| is_dns_name(name)));
        assert!(!is_dns_name(&"a.".repeat(127)) && is_dns_name(&format!("{}a", "a.".repeat(126))));
    }

    #[test]
    fn upstreams_have_a_scheme_and_no_path() {
        let target = |text| tcp(text).map(|upstream| (upstream.scheme, upstream.target));
        let tcp_at = |host: &str, port| UpstreamTarget::Tcp { host: host.into(), port };
        assert_eq!(target("http://127.0.0.1:3000"), Some((UpstreamScheme::Http, tcp_at("127.0.0.1", 3000))));
        assert_eq!(target("HTTPS://Example.com/"), Some((UpstreamScheme::Https, tcp_at("example.com", 443))));
        assert_eq!(target("h2c://[::1]"), Some((UpstreamScheme::H2c, tcp_at("::1", 80))));
        for text in
            ["127.0.0.1:3000", "ftp://x", "http://", "http:///", "http://x/y", "http://x?y", "http://u@x", "http:x"]
        {
            assert_eq!(target(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_none(text in "\\PC{0,30}") {
            let _ = (at(&text), tcp(&text), host(&text), is_dns_name(&text));
        }
    }
}
