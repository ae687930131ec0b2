//! Configuration files of peers: the files in benches/peers with `@NAME@` filled in.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Outcome;

/// Fills `values` into benches/peers/`name` and writes the result to `to`.
pub fn fill(name: &str, values: &[(&str, String)], to: &Path) -> Outcome<()> {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name);
    let mut text = fs::read_to_string(&template)?;
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    let mut words = text.split('@').skip(1);
    if let Some(name) = words.find(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    {
        return Err(format!("{}: nothing to fill in for @{name}@", template.display()).into());
    }
    Ok(fs::write(to, text)?)
}

/// A path as text.
pub fn text(path: PathBuf) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nothing_fills_in_is_an_error() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = fill("haproxy/edge.cfg", &[("BUFFER", "16384".to_owned())], &dir.path().join("edge.cfg"));
        let error = error.expect_err("names are left").to_string();
        assert!(error.contains("haproxy/edge.cfg: nothing to fill in for @ADDRESS@"), "{error}");
    }
}
