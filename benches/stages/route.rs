//! Stage 3: from an authority to a service, among a thousand.

use std::time::Duration;

use http::uri::Authority;
use trunkline::config::{EdgeService, HostPattern};
use trunkline::edge::route::Routes;

use super::stopwatch::Stopwatch;

/// Measures an exact host, one below a wildcard, and one that nobody serves.
pub fn run(stopwatch: &Stopwatch) {
    let routes = Routes::new(&(0..1_000).map(service).collect::<Vec<_>>());
    let find = |authority: &'static str| {
        let authority = Authority::from_static(authority);
        move |routes: &Routes| routes.find(&authority).is_some()
    };
    let exact = find("www.s500.example:443");
    let wildcard = find("a.b.c.s500.test");
    let unknown = find("www.nowhere.example");
    stopwatch.measure("3 route, exact host of 1,000", || exact(&routes));
    stopwatch.measure("3 route, wildcard of 1,000", || wildcard(&routes));
    stopwatch.measure("3 route, unknown host", || unknown(&routes));
}

fn service(index: usize) -> EdgeService {
    EdgeService {
        name: format!("s{index}"),
        hosts: vec![
            HostPattern::Exact(format!("www.s{index}.example")),
            HostPattern::Wildcard(format!("s{index}.test")),
        ],
        response_timeout: Duration::from_secs(60),
    }
}
