//! The log of TLS secrets that a program writes for SSLKEYLOGFILE (RFC 9850): label, client random, secret.
//!
//! Called by the trace. Lines that cannot be read are passed over.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Secrets by label and client random.
#[derive(Debug, Default)]
pub struct KeyLog(HashMap<(String, Vec<u8>), Vec<u8>>);

impl KeyLog {
    /// Reads whichever of the files exist.
    pub fn read<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut log = Self::default();
        for text in files.into_iter().filter_map(|file| fs::read_to_string(file).ok()) {
            text.lines().for_each(|line| log.add(line));
        }
        log
    }

    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        if let (Some(label), Some(random), Some(secret)) =
            (words.next(), words.next().and_then(bytes), words.next().and_then(bytes))
        {
            self.0.insert((label.to_owned(), random), secret);
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A secret.
    pub fn secret(&self, label: &str, random: &[u8; 32]) -> Option<Vec<u8>> {
        self.0.get(&(label.to_owned(), random.to_vec())).cloned()
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(pair).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_by_label_and_random() {
        let mut log = KeyLog::default();
        log.add("# a comment");
        log.add(&format!("CLIENT_TRAFFIC_SECRET_0 {} 0aff", "01".repeat(32)));
        assert_eq!(log.secret("CLIENT_TRAFFIC_SECRET_0", &[1; 32]), Some(vec![10, 255]));
        assert_eq!(log.secret("SERVER_TRAFFIC_SECRET_0", &[1; 32]), None);
    }
}
