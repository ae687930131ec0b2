//! Header blocks: fields as pairs of name and value, names by a static table or as literals. No dynamic state, so that
//! a resume or a replay is a copy of bytes.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::wire::{WireError, get_bytes, get_varint, put_bytes, put_varint};

/// Names by number, from 1; 0 announces a literal. Part of the protocol: entries are only ever appended.
static NAMES: [HeaderName; 64] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::ACCEPT_RANGES,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    header::ACCESS_CONTROL_REQUEST_HEADERS,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::AGE,
    header::ALLOW,
    header::ALT_SVC,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_SECURITY_POLICY,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::ETAG,
    header::EXPECT,
    header::EXPIRES,
    header::FORWARDED,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::ORIGIN,
    header::PRAGMA,
    header::RANGE,
    header::REFERER,
    header::REFERRER_POLICY,
    header::RETRY_AFTER,
    header::SERVER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::TE,
    header::TRAILER,
    header::UPGRADE_INSECURE_REQUESTS,
    header::USER_AGENT,
    header::VARY,
    header::VIA,
    header::WWW_AUTHENTICATE,
    header::X_CONTENT_TYPE_OPTIONS,
    header::X_FRAME_OPTIONS,
    header::X_XSS_PROTECTION,
    HeaderName::from_static("priority"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("server-timing"),
];

static NUMBERS: LazyLock<HashMap<&'static HeaderName, u64>> = LazyLock::new(|| NAMES.iter().zip(1..).collect());

/// Most fields that a decoded block may hold: a bound against the other end of the tunnel, above any listener's limit.
pub const BLOCK_FIELDS_MAX: usize = 1_024;

/// Appends all fields, in the map's order.
pub fn encode(headers: &HeaderMap, out: &mut BytesMut) {
    for (name, value) in headers {
        match NUMBERS.get(name) {
            Some(number) => put_varint(out, *number),
            None => {
                put_varint(out, 0);
                put_bytes(out, name.as_str().as_bytes());
            }
        }
        put_bytes(out, value.as_bytes());
    }
}

/// Reads fields to the end of `block`. Values share its memory.
pub fn decode(mut block: Bytes) -> Result<HeaderMap, WireError> {
    let mut headers = HeaderMap::with_capacity(16);
    while !block.is_empty() {
        if headers.len() == BLOCK_FIELDS_MAX {
            return Err(WireError::Range("fields"));
        }
        let name = decode_name(&mut block)?;
        let value = HeaderValue::from_maybe_shared(get_bytes(&mut block)?).map_err(|_| WireError::Range("value"))?;
        headers.try_append(name, value).map_err(|_| WireError::Range("fields"))?;
    }
    Ok(headers)
}

fn decode_name(block: &mut Bytes) -> Result<HeaderName, WireError> {
    match get_varint(block)? {
        0 => HeaderName::from_lowercase(&get_bytes(block)?).map_err(|_| WireError::Range("name")),
        number => usize::try_from(number - 1)
            .ok()
            .and_then(|index| NAMES.get(index))
            .cloned()
            .ok_or(WireError::Range("name number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_block_reads_back_as_written(fields in proptest::collection::vec(
            (prop_oneof!["[a-z][a-z0-9-]{0,20}", Just("cookie".to_owned()), Just("via".to_owned())], "[ -~]{0,40}"), 0..20)
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let mut out = BytesMut::new();
            encode(&headers, &mut out);
            prop_assert_eq!(decode(out.freeze()).unwrap(), headers);
        }

        #[test]
        fn any_bytes_give_fields_or_an_error(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(Bytes::from(input));
        }
    }

    #[test]
    fn the_static_table_has_no_name_twice() {
        assert_eq!(NUMBERS.len(), NAMES.len());
    }
}
