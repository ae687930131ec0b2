//! Requests that go round in circles: an upstream that leads back to this edge. `CDN-Loop` (RFC 8586) counts the passes,
//! not `Via`, because servers strip or rewrite `Via` for other purposes, and RFC 8586 forbids that with this field.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Reason;

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// Passes through this PoP before a request is a loop. Not one: an upstream may rightly ask another service of the same
/// edge and pass all fields on, as a proxying nginx does; and three bound a true loop as well as one.
const OWN_PASSES_MAX: usize = 3;

/// Passes through proxies of any kind, which bounds loops over several PoPs.
const PASSES_MAX: usize = 16;

/// This PoP's name in `CDN-Loop`.
pub struct Hops {
    id: HeaderValue,
}

impl Hops {
    /// The PoP `name` as the RFC's pseudonym (a token): other characters become `-`.
    pub fn new(name: &str) -> Self {
        let token: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
        let id = HeaderValue::try_from(format!("trunkline-{token}"));
        Self { id: id.unwrap_or(HeaderValue::from_static("trunkline")) }
    }

    /// Refuses a request that has been here, or anywhere, too often.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Reason> {
        let (mut all, mut own) = (0_usize, 0_usize);
        for pass in headers.get_all(&CDN_LOOP).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
            let id = pass.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            all += usize::from(!id.is_empty());
            own += usize::from(id.eq_ignore_ascii_case(self.id.as_bytes()));
        }
        if own >= OWN_PASSES_MAX || all >= PASSES_MAX { Err(Reason::Loop) } else { Ok(()) }
    }

    /// Adds this pass.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.append(CDN_LOOP, self.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str]) -> Result<(), Reason> {
        let headers = values.iter().map(|value| (CDN_LOOP, HeaderValue::from_str(value).unwrap())).collect();
        Hops::new("pop a").check(&headers)
    }

    #[test]
    fn own_passes_are_counted_over_lines_lists_and_parameters() {
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["trunkline-pop-a", "other; a=b , Trunkline-Pop-A;x=1"]), Ok(()));
        assert_eq!(check(&["trunkline-pop-a,trunkline-pop-a", "trunkline-pop-a ; x=1"]), Err(Reason::Loop));
        assert_eq!(check(&["trunkline-pop-ab, trunkline-pop, x-trunkline-pop-a, x; trunkline-pop-a"]), Ok(()));
    }

    #[test]
    fn a_circle_of_strangers_ends_too() {
        assert_eq!(check(&["a, b, c, d, e, f, g, h", "i, j, k, l, m, n, o"]), Ok(()));
        assert_eq!(check(&["a, b, c, d, e, f, g, h", "i, j, k, l, m, n, o, p"]), Err(Reason::Loop));
        assert_eq!(check(&[", , ,,,,,,,,,,,,,,,,,,,", ""]), Ok(()), "empty members are none");
    }

    #[test]
    fn the_mark_adds_to_what_others_left() {
        let hops = Hops::new("pop-a");
        let mut headers = HeaderMap::new();
        headers.insert(CDN_LOOP, HeaderValue::from_static("other"));
        hops.mark(&mut headers);
        assert_eq!(headers.get_all(CDN_LOOP).iter().collect::<Vec<_>>(), ["other", "trunkline-pop-a"]);
    }
}
