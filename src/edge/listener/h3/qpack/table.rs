//! Stage 1, HTTP/3: the static table of QPACK (RFC 9204 Appendix A).

use std::ops::Range;

use http::HeaderName;

/// A pseudo-field that the table knows (RFC 9114 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudo {
    /// `:authority`
    Authority,
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:protocol` (RFC 9220); not in the table.
    Protocol,
    /// `:scheme`
    Scheme,
    /// `:status`
    Status,
}

/// The name of an entry.
#[derive(Debug)]
pub enum Name {
    /// A pseudo-field.
    Pseudo(Pseudo),
    /// A field.
    Field(HeaderName),
}

const fn field(name: &'static str) -> Name {
    Name::Field(HeaderName::from_static(name))
}

/// The table.
#[rustfmt::skip]
pub static TABLE: [(Name, &str); 99] = [
    (Name::Pseudo(Pseudo::Authority), ""),
    (Name::Pseudo(Pseudo::Path), "/"),
    (field("age"), "0"),
    (field("content-disposition"), ""),
    (field("content-length"), "0"),
    (field("cookie"), ""),
    (field("date"), ""),
    (field("etag"), ""),
    (field("if-modified-since"), ""),
    (field("if-none-match"), ""),
    (field("last-modified"), ""),
    (field("link"), ""),
    (field("location"), ""),
    (field("referer"), ""),
    (field("set-cookie"), ""),
    (Name::Pseudo(Pseudo::Method), "CONNECT"),
    (Name::Pseudo(Pseudo::Method), "DELETE"),
    (Name::Pseudo(Pseudo::Method), "GET"),
    (Name::Pseudo(Pseudo::Method), "HEAD"),
    (Name::Pseudo(Pseudo::Method), "OPTIONS"),
    (Name::Pseudo(Pseudo::Method), "POST"),
    (Name::Pseudo(Pseudo::Method), "PUT"),
    (Name::Pseudo(Pseudo::Scheme), "http"),
    (Name::Pseudo(Pseudo::Scheme), "https"),
    (Name::Pseudo(Pseudo::Status), "103"),
    (Name::Pseudo(Pseudo::Status), "200"),
    (Name::Pseudo(Pseudo::Status), "304"),
    (Name::Pseudo(Pseudo::Status), "404"),
    (Name::Pseudo(Pseudo::Status), "503"),
    (field("accept"), "*/*"),
    (field("accept"), "application/dns-message"),
    (field("accept-encoding"), "gzip, deflate, br"),
    (field("accept-ranges"), "bytes"),
    (field("access-control-allow-headers"), "cache-control"),
    (field("access-control-allow-headers"), "content-type"),
    (field("access-control-allow-origin"), "*"),
    (field("cache-control"), "max-age=0"),
    (field("cache-control"), "max-age=2592000"),
    (field("cache-control"), "max-age=604800"),
    (field("cache-control"), "no-cache"),
    (field("cache-control"), "no-store"),
    (field("cache-control"), "public, max-age=31536000"),
    (field("content-encoding"), "br"),
    (field("content-encoding"), "gzip"),
    (field("content-type"), "application/dns-message"),
    (field("content-type"), "application/javascript"),
    (field("content-type"), "application/json"),
    (field("content-type"), "application/x-www-form-urlencoded"),
    (field("content-type"), "image/gif"),
    (field("content-type"), "image/jpeg"),
    (field("content-type"), "image/png"),
    (field("content-type"), "text/css"),
    (field("content-type"), "text/html; charset=utf-8"),
    (field("content-type"), "text/plain"),
    (field("content-type"), "text/plain;charset=utf-8"),
    (field("range"), "bytes=0-"),
    (field("strict-transport-security"), "max-age=31536000"),
    (field("strict-transport-security"), "max-age=31536000; includesubdomains"),
    (field("strict-transport-security"), "max-age=31536000; includesubdomains; preload"),
    (field("vary"), "accept-encoding"),
    (field("vary"), "origin"),
    (field("x-content-type-options"), "nosniff"),
    (field("x-xss-protection"), "1; mode=block"),
    (Name::Pseudo(Pseudo::Status), "100"),
    (Name::Pseudo(Pseudo::Status), "204"),
    (Name::Pseudo(Pseudo::Status), "206"),
    (Name::Pseudo(Pseudo::Status), "302"),
    (Name::Pseudo(Pseudo::Status), "400"),
    (Name::Pseudo(Pseudo::Status), "403"),
    (Name::Pseudo(Pseudo::Status), "421"),
    (Name::Pseudo(Pseudo::Status), "425"),
    (Name::Pseudo(Pseudo::Status), "500"),
    (field("accept-language"), ""),
    (field("access-control-allow-credentials"), "FALSE"),
    (field("access-control-allow-credentials"), "TRUE"),
    (field("access-control-allow-headers"), "*"),
    (field("access-control-allow-methods"), "get"),
    (field("access-control-allow-methods"), "get, post, options"),
    (field("access-control-allow-methods"), "options"),
    (field("access-control-expose-headers"), "content-length"),
    (field("access-control-request-headers"), "content-type"),
    (field("access-control-request-method"), "get"),
    (field("access-control-request-method"), "post"),
    (field("alt-svc"), "clear"),
    (field("authorization"), ""),
    (field("content-security-policy"), "script-src 'none'; object-src 'none'; base-uri 'none'"),
    (field("early-data"), "1"),
    (field("expect-ct"), ""),
    (field("forwarded"), ""),
    (field("if-range"), ""),
    (field("origin"), ""),
    (field("purpose"), "prefetch"),
    (field("server"), ""),
    (field("timing-allow-origin"), "*"),
    (field("upgrade-insecure-requests"), "1"),
    (field("user-agent"), ""),
    (field("x-forwarded-for"), ""),
    (field("x-frame-options"), "deny"),
    (field("x-frame-options"), "sameorigin"),
];

/// The entries that have this field name; by length first, so that most names cost one comparison.
pub fn entries(name: &[u8]) -> Option<Range<usize>> {
    if name.len() <= 13 { short_names(name) } else { long_names(name) }
}

#[rustfmt::skip]
fn short_names(name: &[u8]) -> Option<Range<usize>> {
    Some(match name.len() {
        3 => match name {
            b"age" => 2..3,
            _ => return None,
        },
        4 => match name {
            b"date" => 6..7,
            b"etag" => 7..8,
            b"link" => 11..12,
            b"vary" => 59..61,
            _ => return None,
        },
        5 => match name {
            b"range" => 55..56,
            _ => return None,
        },
        6 => match name {
            b"cookie" => 5..6,
            b"accept" => 29..31,
            b"origin" => 90..91,
            b"server" => 92..93,
            _ => return None,
        },
        7 => match name {
            b"referer" => 13..14,
            b"alt-svc" => 83..84,
            b"purpose" => 91..92,
            _ => return None,
        },
        8 => match name {
            b"location" => 12..13,
            b"if-range" => 89..90,
            _ => return None,
        },
        9 => match name {
            b"expect-ct" => 87..88,
            b"forwarded" => 88..89,
            _ => return None,
        },
        10 => match name {
            b"set-cookie" => 14..15,
            b"early-data" => 86..87,
            b"user-agent" => 95..96,
            _ => return None,
        },
        12 => match name {
            b"content-type" => 44..55,
            _ => return None,
        },
        13 => match name {
            b"if-none-match" => 9..10,
            b"last-modified" => 10..11,
            b"accept-ranges" => 32..33,
            b"cache-control" => 36..42,
            b"authorization" => 84..85,
            _ => return None,
        },
        _ => return None,
    })
}

#[rustfmt::skip]
fn long_names(name: &[u8]) -> Option<Range<usize>> {
    Some(match name.len() {
        14 => match name {
            b"content-length" => 4..5,
            _ => return None,
        },
        15 => match name {
            b"accept-encoding" => 31..32,
            b"accept-language" => 72..73,
            b"x-forwarded-for" => 96..97,
            b"x-frame-options" => 97..99,
            _ => return None,
        },
        16 => match name {
            b"content-encoding" => 42..44,
            b"x-xss-protection" => 62..63,
            _ => return None,
        },
        17 => match name {
            b"if-modified-since" => 8..9,
            _ => return None,
        },
        19 => match name {
            b"content-disposition" => 3..4,
            b"timing-allow-origin" => 93..94,
            _ => return None,
        },
        22 => match name {
            b"x-content-type-options" => 61..62,
            _ => return None,
        },
        23 => match name {
            b"content-security-policy" => 85..86,
            _ => return None,
        },
        25 => match name {
            b"strict-transport-security" => 56..59,
            b"upgrade-insecure-requests" => 94..95,
            _ => return None,
        },
        27 => match name {
            b"access-control-allow-origin" => 35..36,
            _ => return None,
        },
        28 => match name {
            b"access-control-allow-headers" => 33..35,
            b"access-control-allow-methods" => 76..79,
            _ => return None,
        },
        29 => match name {
            b"access-control-expose-headers" => 79..80,
            b"access-control-request-method" => 81..83,
            _ => return None,
        },
        30 => match name {
            b"access-control-request-headers" => 80..81,
            _ => return None,
        },
        32 => match name {
            b"access-control-allow-credentials" => 73..75,
            _ => return None,
        },
        _ => return None,
    })
}

/// The entry that is exactly this `:status`.
pub fn status(code: u16) -> Option<u8> {
    Some(match code {
        100 => 63,
        103 => 24,
        200 => 25,
        204 => 64,
        206 => 65,
        302 => 66,
        304 => 26,
        400 => 67,
        403 => 68,
        404 => 27,
        421 => 69,
        425 => 70,
        500 => 71,
        503 => 28,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_its_name() {
        for (index, (name, _)) in TABLE.iter().enumerate() {
            let Name::Field(name) = name else { continue };
            let range = entries(name.as_str().as_bytes()).unwrap();
            // access-control-allow-headers has one more entry far from the others, which is not used.
            assert!(range.contains(&index) || index == 75, "{name}");
            for entry in range {
                assert!(matches!(&TABLE[entry].0, Name::Field(found) if found == name));
            }
        }
        assert_eq!(entries(b"x-trunkline"), None);
    }

    #[test]
    fn every_status_is_found_by_its_code() {
        for (index, (name, value)) in TABLE.iter().enumerate() {
            if matches!(name, Name::Pseudo(Pseudo::Status)) {
                assert_eq!(status(value.parse().unwrap()).map(usize::from), Some(index));
            }
        }
        assert_eq!(status(418), None);
    }
}
