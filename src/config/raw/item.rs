//! Single values of a configuration file, with their places, and what can be asked of any of them.
//!
//! Called by the walks and the value parsers. A value parser is a function from [`Item`] to an option: it records what
//! is wrong itself and answers none then. Parsers combine: `some(once(&seen, name))`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::DeValue;

use super::Sheet;

/// One value and the key it stands at.
#[derive(Clone, Copy)]
pub(in crate::config) struct Item<'a> {
    pub sheet: &'a Sheet<'a>,
    pub key: &'static str,
    pub value: &'a Spanned<DeValue<'a>>,
    /// Whether this is one element of the array at the key.
    pub element: bool,
}

impl<'a> Item<'a> {
    /// Records that this value is wrong; `allowed` says what would be right.
    pub fn refuse<T>(&self, message: String, allowed: impl Into<String>) -> Option<T> {
        self.sheet.record(self.value.span(), message, vec![format!("allowed: {}", allowed.into())]);
        None
    }

    /// Records that this value has the wrong type.
    pub fn refuse_type<T>(&self, wanted: &str, allowed: impl Into<String>) -> Option<T> {
        let what = if self.element { "each element of " } else { "" };
        self.refuse(format!("{what}`{}` must be {wanted}, not {}", self.key, self.kind()), allowed)
    }

    /// The value as it was typed, quotes included.
    pub fn typed(&self) -> &'a str {
        self.sheet.text.get(self.value.span()).unwrap_or_default()
    }

    /// The type of the value with its article.
    pub fn kind(&self) -> &'static str {
        kind(self.value.get_ref())
    }

    /// A string; `allowed` says what it should look like.
    pub fn text(&self, allowed: &str) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => self.refuse_type("a string", allowed),
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
        _ => item.refuse_type("a boolean", "true, false"),
    }
}

/// An array, each element made by `parse`; wrong elements are reported one by one and make the whole wrong.
pub(super) fn each<'a, T>(parse: impl Fn(&Item<'a>) -> Option<T>) -> impl Fn(&Item<'a>) -> Option<Vec<T>> {
    move |item| match item.value.get_ref() {
        DeValue::Array(array) => {
            let all: Vec<Option<T>> =
                array.iter().map(|value| parse(&Item { value, element: true, ..*item })).collect();
            all.into_iter().collect()
        }
        _ => item.refuse_type("an array", format!("an array, such as [{}]", item.typed())),
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
            let line = item.sheet.lines.of_byte(first);
            return item.refuse(format!("`{typed}` is there twice, first on line {line}"), "each only once");
        }
        seen.borrow_mut().insert(value.clone(), at);
        Some(value)
    }
}
