//! Tables and values of a configuration file, with their places.
//!
//! Called by the walks of `edge` and `origin`. A [`Section`] remembers which keys it was asked for and reports all
//! others as unknown when it is dropped, so that a walk cannot forget to. It decides nothing about values.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Sheet;
use crate::config::report::Problem;

/// One table: the top of the file, a `[table]`, or one of several `[[tables]]`. May be absent: all keys are then too.
pub(in crate::config) struct Section<'a> {
    sheet: &'a Sheet<'a>,
    /// As in the file: empty at the top, `[tunnel]`, `[[service]]`.
    title: String,
    span: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub fn top(sheet: &'a Sheet<'a>, entries: &'a DeTable<'a>) -> Self {
        Self { sheet, title: String::new(), span: 0..0, entries: Some(entries), asked: Vec::new() }
    }

    /// Whether `key` is in the file.
    pub fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// Says that these keys exist without asking for their values.
    pub fn knows(&mut self, keys: &[&'static str]) {
        self.asked.extend(keys);
    }

    /// The value of `key` as it was typed.
    fn item(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.asked.push(key);
        let value = self.entries?.get(key)?;
        Some(Item { sheet: self.sheet, key, value })
    }

    /// The value of `key`, made by `parse`; an error if absent, with `example` to show what is wanted.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&Item<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.item(key) {
            Some(item) => parse(&item),
            None => {
                self.missing(format!("missing key `{key}`{}", self.place()), format!("for example: {key} = {example}"));
                None
            }
        }
    }

    /// The value of `key`, made by `parse`; none if absent or wrong.
    pub fn optional<T>(&mut self, key: &'static str, parse: impl FnOnce(&Item<'a>) -> Option<T>) -> Option<T> {
        self.item(key).and_then(|item| parse(&item))
    }

    /// The value of `key`, made by `parse`; `default` if absent or wrong.
    pub fn or<T>(&mut self, key: &'static str, default: T, parse: impl FnOnce(&Item<'a>) -> Option<T>) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// The table `[key]`, absent or not.
    pub fn table(&mut self, key: &'static str) -> Section<'a> {
        let parent = self.title.trim_matches(['[', ']']).to_owned();
        let title = if parent.is_empty() { format!("[{key}]") } else { format!("[{parent}.{key}]") };
        let item = self.item(key);
        let entries = item.as_ref().and_then(|item| match item.value.get_ref() {
            DeValue::Table(entries) => Some(entries),
            _ => item.refuse(format!("`{key}` must be a table, not {}", item.kind()), format!("a table `{title}`")),
        });
        let span = item.map_or(self.span.clone(), |item| item.value.span());
        Section { sheet: self.sheet, title, span, entries, asked: Vec::new() }
    }

    /// The table `[key]`; an error if absent.
    pub fn required_table(&mut self, key: &'static str, example: &str) -> Section<'a> {
        if self.entries.is_some_and(|entries| !entries.contains_key(key)) {
            self.missing(format!("missing table `[{key}]`"), format!("for example: [{key}] with {example}"));
        }
        self.table(key)
    }

    /// The tables `[[key]]`, in the order of the file.
    pub fn tables(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let parent = self.title.trim_matches(['[', ']']).to_owned();
        let title = if parent.is_empty() { format!("[[{key}]]") } else { format!("[[{parent}.{key}]]") };
        let Some(item) = self.item(key) else { return Vec::new() };
        let allowed = format!("one or more tables `{title}`");
        let DeValue::Array(array) = item.value.get_ref() else {
            item.refuse::<()>(format!("`{key}` must be an array of tables, not {}", item.kind()), allowed);
            return Vec::new();
        };
        let section = |value: &'a Spanned<DeValue<'a>>| match value.get_ref() {
            DeValue::Table(entries) => Some(Section {
                sheet: self.sheet,
                title: title.clone(),
                span: value.span(),
                entries: Some(entries),
                asked: Vec::new(),
            }),
            other => {
                Item { value, ..item }.refuse(format!("`{key}` must hold tables, not {}", kind(other)), allowed.clone())
            }
        };
        array.iter().filter_map(section).collect()
    }

    /// The tables `[[key]]`; an error if there are none.
    pub fn required_tables(&mut self, key: &'static str, example: &str) -> Vec<Section<'a>> {
        if self.entries.is_some_and(|entries| !entries.contains_key(key)) {
            self.missing(format!("missing table `[[{key}]]`"), format!("for example: [[{key}]] with {example}"));
        }
        self.tables(key)
    }

    /// Records that the value of `key`, which is there, does not go with the rest.
    pub fn conflict(&self, key: &str, message: String, allowed: String) {
        let span = self.entries.and_then(|entries| entries.get(key)).map_or(self.span.clone(), Spanned::span);
        self.sheet.record(span, message, vec![format!("allowed: {allowed}")]);
    }

    fn missing(&self, message: String, note: String) {
        // What is missing from a missing table was said when the table was missed.
        if self.entries.is_some() {
            self.sheet.record_missing(self.span.clone(), message, vec![note]);
        }
    }

    fn place(&self) -> String {
        if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) }
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.sheet.asked.borrow_mut().extend(self.asked.iter().map(|key| (self.title.clone(), *key)));
        let Some(entries) = self.entries else { return };
        for key in entries.keys().filter(|key| !self.asked.contains(&key.get_ref().as_ref())) {
            self.sheet.unknown.borrow_mut().push(Unknown {
                span: key.span(),
                key: key.get_ref().to_string(),
                title: self.title.clone(),
                allowed: self.asked.clone(),
            });
        }
    }
}

/// A key that its table does not have.
pub(super) struct Unknown {
    span: Range<usize>,
    key: String,
    title: String,
    allowed: Vec<&'static str>,
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

/// One value and the key it stands at.
#[derive(Clone, Copy)]
pub(in crate::config) struct Item<'a> {
    pub sheet: &'a Sheet<'a>,
    pub key: &'static str,
    pub value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Item<'a> {
    /// Records that this value is wrong; `allowed` says what would be right.
    pub fn refuse<T>(&self, message: String, allowed: impl Into<String>) -> Option<T> {
        self.sheet.record(self.value.span(), message, vec![format!("allowed: {}", allowed.into())]);
        None
    }

    /// The type of the value with its article.
    pub fn kind(&self) -> &'static str {
        kind(self.value.get_ref())
    }

    /// A string; `allowed` says what it should look like.
    pub fn text(&self, allowed: &str) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => self.refuse(format!("`{}` must be a string, not {}", self.key, self.kind()), allowed),
        }
    }
}

/// A TOML type with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// `true` or `false`.
pub(super) fn flag(item: &Item<'_>) -> Option<bool> {
    match item.value.get_ref() {
        DeValue::Boolean(flag) => Some(*flag),
        _ => item.refuse(format!("`{}` must be a boolean, not {}", item.key, item.kind()), "true, false"),
    }
}

/// An array, each element made by `parse`; wrong elements are reported one by one and make the whole wrong.
pub(super) fn each<'a, T>(parse: impl Fn(&Item<'a>) -> Option<T>) -> impl Fn(&Item<'a>) -> Option<Vec<T>> {
    move |item| match item.value.get_ref() {
        DeValue::Array(array) => {
            let all: Vec<Option<T>> = array.iter().map(|value| parse(&Item { value, ..*item })).collect();
            all.into_iter().collect()
        }
        _ => item.refuse(format!("`{}` must be an array, not {}", item.key, item.kind()), "an array: [\"…\", \"…\"]"),
    }
}

/// As [`each`], with at least one element.
pub(super) fn some<'a, T>(parse: impl Fn(&Item<'a>) -> Option<T>) -> impl Fn(&Item<'a>) -> Option<Vec<T>> {
    let parse = each(parse);
    move |item| match item.value.get_ref() {
        DeValue::Array(array) if array.is_empty() => {
            item.refuse(format!("`{}` is empty", item.key), "one or more elements")
        }
        _ => parse(item),
    }
}

/// The values seen so far, with the byte at which each was.
pub(super) type Seen<T> = RefCell<BTreeMap<T, usize>>;

/// `parse`, refusing values that `seen` has already.
pub(super) fn once<'a, T: Ord + Clone>(
    seen: &Seen<T>,
    parse: impl Fn(&Item<'a>) -> Option<T>,
) -> impl Fn(&Item<'a>) -> Option<T> {
    move |item| {
        let value = parse(item)?;
        let at = item.value.span().start;
        if let Some(first) = seen.borrow().get(&value).copied() {
            let typed = item.value.get_ref().as_str().unwrap_or_default();
            let line = item.sheet.line(first);
            return item.refuse(format!("`{typed}` is there twice, first on line {line}"), "each only once");
        }
        seen.borrow_mut().insert(value.clone(), at);
        Some(value)
    }
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
