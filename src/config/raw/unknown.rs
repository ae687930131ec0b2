//! Keys that nobody knows, and what was probably meant.
//!
//! Called by [`super::section`], which finds them, and at the end of a walk, when all known keys are known.

use std::ops::Range;

use crate::config::report::Problem;

/// A key that its table does not have.
pub(super) struct Unknown {
    pub span: Range<usize>,
    pub key: String,
    /// Of the table, as [`super::section::Section`] has it.
    pub title: String,
    /// The keys that the table has.
    pub allowed: Vec<&'static str>,
}

impl Unknown {
    /// The error, with the nearest known key, or the table that does have this one.
    pub fn problem(self, asked: &[(String, &'static str)]) -> Problem {
        let place =
            if self.title.is_empty() { "at the top of the file".to_owned() } else { format!("in {}", self.title) };
        let mut message = format!("unknown key `{}` {place}", self.key);
        let mut notes = Vec::new();
        if let Some(near) = nearest(&self.key, &self.allowed) {
            message.push_str(&format!("; did you mean `{near}`?"));
        } else if let Some((title, key)) = asked.iter().find(|(title, key)| *key == self.key && *title != self.title) {
            notes.push(if title.is_empty() {
                format!("`{key}` belongs to the top of the file, before the first [table]")
            } else {
                format!("`{key}` belongs to {title}")
            });
        }
        let mut allowed = self.allowed;
        allowed.sort_unstable();
        notes.push(format!("allowed: {}", allowed.join(", ")));
        Problem { span: Some(self.span), message, notes, missing: false }
    }
}

/// The most similar of `known`, if it is similar enough to be a slip.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    const LENGTH_MAX: usize = 40;
    if key.len() > LENGTH_MAX {
        return None;
    }
    let plain = key.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| (distance(&plain, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().min(plain.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance: insertions, deletions and replacements that make `a` of `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        let mut next = vec![left];
        for (y, above) in b.chars().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(x != y)).min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_the_key_that_was_meant() {
        let known = ["listen", "links", "name", "admin"];
        assert_eq!(nearest("lissten", &known), Some("listen"));
        assert_eq!(nearest("Listen", &known), Some("listen"));
        assert_eq!(nearest("link", &known), Some("links"));
        assert_eq!(nearest("certificate", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest(&"listen".repeat(1_000), &known), None);
    }

    #[test]
    fn the_distance_is_symmetric_and_zero_only_for_equals() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("sitting", "kitten"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
