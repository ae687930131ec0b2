//! Query parameters of the built-in upstream's paths: `name=value` pairs, no decoding.

use std::str::FromStr;

/// The query of one request.
#[derive(Clone, Copy)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// The query of `uri`; empty when there is none.
    pub fn of(uri: &'a http::Uri) -> Self {
        Self(uri.query().unwrap_or(""))
    }

    /// The first value of `name`; empty when only the name is there.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.0
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v)
    }

    /// The value of `name` as a number, or `default` when it is absent or is none.
    pub fn number<N: FromStr>(self, name: &str, default: N) -> N {
        self.get(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_malformed_number_is_the_default() {
        let uri: http::Uri = "/sse?interval=20&count=x&quiet".parse().expect("uri");
        let query = Query::of(&uri);
        assert_eq!(query.number("interval", 0_u64), 20);
        assert_eq!(query.number("count", 7_u64), 7);
        assert_eq!(query.number("absent", 9_u64), 9);
        assert_eq!(query.get("quiet"), Some(""));
        assert_eq!(query.get("quie"), None);
    }
}
