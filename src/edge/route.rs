//! Stage 3: from the authority of a request to the service that has it. Called by the spine; sans-IO.
//!
//! An exact host wins over a wildcard, a longer wildcard over a shorter one, `*` comes last. Case, port and one trailing
//! dot do not matter (RFC 9110 section 4.2.3, RFC 1034 section 3.1). Owns nothing but its tables; never allocates on
//! lookup.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;

use crate::config::{EdgeService, HostPattern};

/// Longest host that can match: longest DNS name in text, with room for a trailing dot.
const HOST_MAX: usize = 255;

/// What the spine needs to know of a service.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceRoute {
    /// The service's name.
    pub name: Arc<str>,
    /// Its place in the configuration.
    pub index: usize,
    /// From the request's end to the response head.
    pub response_timeout: Duration,
}

/// All routes of an edge.
#[derive(Debug, Default)]
pub struct Routes {
    exact: HashMap<Box<str>, Arc<ServiceRoute>>,
    /// By suffix, without the leading dot.
    wildcard: HashMap<Box<str>, Arc<ServiceRoute>>,
    /// IPv6 literals, whatever their spelling.
    ipv6: HashMap<Ipv6Addr, Arc<ServiceRoute>>,
    any: Option<Arc<ServiceRoute>>,
}

impl Routes {
    /// The routes of these services. Where two claim one host the first keeps it; the configuration refuses that.
    pub fn new(services: &[EdgeService]) -> Self {
        let mut routes = Self::default();
        for (index, service) in services.iter().enumerate() {
            let route = Arc::new(ServiceRoute {
                name: service.name.as_str().into(),
                index,
                response_timeout: service.response_timeout,
            });
            for pattern in &service.hosts {
                routes.add(pattern, &route);
            }
        }
        routes
    }

    fn add(&mut self, pattern: &HostPattern, route: &Arc<ServiceRoute>) {
        let key = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().into_boxed_str();
        let route = || route.clone();
        match pattern {
            HostPattern::Any => {
                self.any.get_or_insert_with(route);
            }
            HostPattern::Wildcard(suffix) => {
                self.wildcard.entry(key(suffix)).or_insert_with(route);
            }
            HostPattern::Exact(host) => {
                match ipv6(host) {
                    Some(address) => self.ipv6.entry(address).or_insert_with(route),
                    None => self.exact.entry(key(host)).or_insert_with(route),
                };
            }
        }
    }

    /// The service that has this authority.
    pub fn find(&self, authority: &Authority) -> Option<&Arc<ServiceRoute>> {
        self.find_host(authority.host())
    }

    /// The same for a host without a port; IPv6 literals in brackets.
    pub fn find_host(&self, host: &str) -> Option<&Arc<ServiceRoute>> {
        let found = if host.starts_with('[') {
            ipv6(host).and_then(|address| self.ipv6.get(&address))
        } else {
            self.find_name(host)
        };
        found.or(self.any.as_ref())
    }

    fn find_name(&self, host: &str) -> Option<&Arc<ServiceRoute>> {
        let mut buffer = [0; HOST_MAX];
        let host = normalised(host, &mut buffer)?;
        if let Some(route) = self.exact.get(host) {
            return Some(route);
        }
        if self.wildcard.is_empty() {
            return None;
        }
        // Suffixes from the longest to the shortest.
        host.match_indices('.').find_map(|(dot, _)| self.wildcard.get(host.get(dot + 1..)?))
    }
}

/// `host` in lower case without its trailing dot; none if it is no name: too long, empty, or with an empty label.
fn normalised<'a>(host: &'a str, buffer: &'a mut [u8; HOST_MAX]) -> Option<&'a str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.len() > HOST_MAX || host.split('.').any(str::is_empty) {
        return None;
    }
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(host);
    }
    let lower = buffer.get_mut(..host.len())?;
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

/// The address of an IPv6 literal, with or without brackets.
fn ipv6(host: &str) -> Option<Ipv6Addr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service(name: &str, hosts: &[HostPattern]) -> EdgeService {
        EdgeService { name: name.into(), hosts: hosts.to_vec(), response_timeout: Duration::from_secs(60) }
    }

    fn pattern(text: &str) -> HostPattern {
        match text.strip_prefix("*.") {
            _ if text == "*" => HostPattern::Any,
            Some(suffix) => HostPattern::Wildcard(suffix.into()),
            None => HostPattern::Exact(text.into()),
        }
    }

    fn routes(patterns: &[&str]) -> Routes {
        let services: Vec<_> = patterns.iter().map(|text| service(text, &[pattern(text)])).collect();
        Routes::new(&services)
    }

    fn found<'a>(routes: &'a Routes, authority: &str) -> Option<&'a str> {
        routes.find(&authority.parse().unwrap()).map(|route| &*route.name)
    }

    #[test]
    fn the_most_specific_pattern_wins_wherever_it_stands() {
        let routes = routes(&["*", "*.example.com", "*.b.example.com", "a.b.example.com"]);
        for (authority, expected) in [
            ("a.b.example.com", "a.b.example.com"),
            ("c.b.example.com", "*.b.example.com"),
            ("d.c.b.example.com", "*.b.example.com"),
            ("b.example.com", "*.example.com"),
            ("example.com", "*"),
            ("badexample.com", "*"),
            ("[::1]", "*"),
        ] {
            assert_eq!(found(&routes, authority), Some(expected), "{authority}");
        }
    }

    #[test]
    fn case_port_and_one_trailing_dot_do_not_matter() {
        let routes = routes(&["www.example.com", "*.example.org"]);
        for authority in ["WWW.Example.COM", "www.example.com:8443", "www.example.com.", "www.example.com.:443"] {
            assert_eq!(found(&routes, authority), Some("www.example.com"), "{authority}");
        }
        assert_eq!(found(&routes, "A.EXAMPLE.org.:1"), Some("*.example.org"));
    }

    #[test]
    fn names_that_are_none_match_no_wildcard() {
        let routes = routes(&["*.example.com", "example.com"]);
        for host in ["", ".", ".example.com", "a..example.com", "example.com..", "[::1", "[example.com]"] {
            assert_eq!(routes.find_host(host), None, "{host}");
        }
        assert_eq!(routes.find_host(&format!("{}.example.com", "a".repeat(250))), None);
    }

    #[test]
    fn an_ipv6_literal_matches_in_any_spelling() {
        for spelling in ["[2001:db8::1]", "2001:db8::1"] {
            let routes = routes(&[spelling]);
            assert_eq!(found(&routes, "[2001:DB8:0:0::1]:443"), Some(spelling));
            assert_eq!(found(&routes, "[2001:db8::2]"), None);
        }
    }

    #[test]
    fn an_ipv4_literal_is_a_name_of_its_own() {
        let routes = routes(&["192.0.2.1"]);
        assert_eq!(found(&routes, "192.0.2.1:80"), Some("192.0.2.1"));
        assert_eq!(found(&routes, "192.0.2.2"), None);
    }

    #[test]
    fn of_two_services_with_one_host_the_first_keeps_it() {
        let twice = [service("first", &[pattern("a.b")]), service("second", &[pattern("a.b"), pattern("c.d")])];
        let routes = Routes::new(&twice);
        assert_eq!(found(&routes, "a.b"), Some("first"));
        let second = routes.find_host("c.d").unwrap();
        assert_eq!((&*second.name, second.index), ("second", 1));
    }

    /// The same by looking at every pattern.
    fn naive<'a>(patterns: &'a [String], host: &str) -> Option<&'a str> {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let name = !host.split('.').any(str::is_empty);
        let rank = |text: &str| match text.strip_prefix('*') {
            Some("") => Some(0),
            Some(suffix) => (name && host.ends_with(suffix)).then_some(suffix.len()),
            None => (name && host == text).then_some(usize::MAX),
        };
        let best = patterns.iter().rev().filter_map(|text| Some((rank(text)?, text)));
        best.max_by_key(|(rank, _)| *rank).map(|(_, text)| text.as_str())
    }

    fn host() -> impl Strategy<Value = String> {
        proptest::collection::vec("[ab]{1,2}", 1..5).prop_map(|labels| labels.join("."))
    }

    fn any_pattern() -> impl Strategy<Value = String> {
        prop_oneof![6 => host(), 4 => host().prop_map(|host| format!("*.{host}")), 1 => Just("*".to_owned())]
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_trying_every_pattern(
            patterns in proptest::collection::vec(any_pattern(), 0..12),
            host in host(),
            upper: u32,
            dot: bool,
        ) {
            let texts: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let spelt: String = host
                .char_indices()
                .map(|(at, c)| if upper >> (at % 32) & 1 == 1 { c.to_ascii_uppercase() } else { c })
                .chain(dot.then_some('.'))
                .collect();
            let routes = routes(&texts);
            let found = routes.find_host(&spelt).map(|route| &*route.name);
            prop_assert_eq!(found, naive(&patterns, &spelt));
        }

        #[test]
        fn any_text_is_looked_up_without_a_panic(host: String) {
            let routes = routes(&["*.example.com", "a.b", "[::1]"]);
            prop_assert!(routes.find_host(&host).is_none_or(|route| route.index < 3));
        }
    }
}
