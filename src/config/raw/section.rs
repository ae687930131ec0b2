//! Tables and values of a configuration file, with their places.
//!
//! Called by the walks of `edge` and `origin`. A [`Section`] remembers which keys it was asked for and reports all
//! others as unknown when it is dropped, so that a walk cannot forget to. It decides nothing about values.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Sheet;
use super::item::Item;
use super::unknown::Unknown;

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

    /// A table that is the value of a key, or one of several.
    pub fn inline(item: &Item<'a>) -> Option<Self> {
        let DeValue::Table(entries) = item.value.get_ref() else { return None };
        let title = format!("a table of `{}`", item.key);
        Some(Self { sheet: item.sheet, title, span: item.value.span(), entries: Some(entries), asked: Vec::new() })
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
        Some(Item { sheet: self.sheet, key, value, element: false })
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
        let title = format!("[{}]", self.path(key));
        let item = self.item(key);
        let entries = item.as_ref().and_then(|item| match item.value.get_ref() {
            DeValue::Table(entries) => Some(entries),
            _ => item.refuse_type("a table", format!("a table `{title}`")),
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
        let title = format!("[[{}]]", self.path(key));
        let Some(item) = self.item(key) else { return Vec::new() };
        let allowed = format!("one or more tables `{title}`");
        let DeValue::Array(array) = item.value.get_ref() else {
            item.refuse_type::<()>("an array of tables", allowed);
            return Vec::new();
        };
        if array.is_empty() {
            item.refuse::<()>(format!("`{key}` is empty"), allowed.as_str());
        }
        let section = |value: &'a Spanned<DeValue<'a>>| match value.get_ref() {
            DeValue::Table(entries) => Some(Section {
                sheet: self.sheet,
                title: title.clone(),
                span: value.span(),
                entries: Some(entries),
                asked: Vec::new(),
            }),
            _ => Item { value, element: true, ..item }.refuse_type("a table", allowed.clone()),
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

    /// `key` with the tables around it, as it would stand in a table's title.
    fn path(&self, key: &str) -> String {
        let parent = self.title.trim_matches(['[', ']']);
        if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
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
