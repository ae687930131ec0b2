//! The ready line: one JSON object on stdout that says which addresses the process bound. Printed once by each binary
//! when everything is bound, for scripts and tests that start it with port 0.

use std::io::Write;
use std::thread;

use serde::{Serialize, Serializer};

/// What the line says. An absent listener is `null`, one address a string, several an array of strings.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    ready: bool,
    /// UDP addresses of HTTP/3.
    #[serde(serialize_with = "one_or_many")]
    pub http3: Vec<String>,
    /// TCP addresses of HTTP/2 and HTTP/1.1.
    #[serde(serialize_with = "one_or_many")]
    pub http2: Vec<String>,
    /// UDP address that origins dial.
    #[serde(serialize_with = "one_or_many")]
    pub tunnel: Vec<String>,
    /// Admin address; `unix:/path` for a unix socket.
    #[serde(serialize_with = "one_or_many")]
    pub admin: Vec<String>,
    /// This process.
    pub pid: u32,
}

impl Default for Ready {
    fn default() -> Self {
        Self {
            ready: true,
            http3: Vec::new(),
            http2: Vec::new(),
            tunnel: Vec::new(),
            admin: Vec::new(),
            pid: std::process::id(),
        }
    }
}

fn one_or_many<S: Serializer>(addresses: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    match addresses {
        [] => serializer.serialize_none(),
        [one] => serializer.serialize_str(one),
        many => many.serialize(serializer),
    }
}

impl Ready {
    /// The line, with its newline.
    pub fn line(&self) -> String {
        // Strings, a number and a bool always serialise.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Prints the line without waiting for it: a stdout that nobody reads, or that is closed, must not keep a process
    /// from its work. So a thread of its own writes it, and errors are only logged.
    pub fn announce(&self) {
        let line = self.line();
        let write = move || {
            let mut stdout = std::io::stdout().lock();
            if let Err(error) = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
                tracing::warn!(%error, "nobody reads the ready line");
            }
        };
        if let Err(error) = thread::Builder::new().name("ready".into()).spawn(write) {
            tracing::warn!(%error, "no ready line");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_one_and_many_addresses_are_told_apart() {
        let ready = Ready {
            http3: vec!["[::1]:443".into(), "127.0.0.1:443".into()],
            admin: vec!["unix:/run/edge.sock".into()],
            pid: 7,
            ..Ready::default()
        };
        assert_eq!(
            ready.line(),
            "{\"ready\":true,\"http3\":[\"[::1]:443\",\"127.0.0.1:443\"],\"http2\":null,\"tunnel\":null,\
             \"admin\":\"unix:/run/edge.sock\",\"pid\":7}\n"
        );
    }
}
