//! What the load generator is told to do: one JSON object, made by `rounds`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One measurement of one chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where the edge listens, UDP and TCP.
    pub target: SocketAddr,
    /// Authority of the requests, and SNI.
    pub host: String,
    /// PEM file with the CA of the edge's certificate.
    pub ca: PathBuf,
    /// The client's HTTP version.
    pub protocol: Protocol,
    /// How requests follow each other.
    pub shape: Shape,
    /// The request.
    pub ask: Ask,
    /// Load before anything is counted, milliseconds.
    pub warm_up_ms: u64,
    /// The measurement, milliseconds.
    pub window_ms: u64,
    /// Processes whose CPU time and memory are the result: edge and origin.
    pub watch: Vec<u32>,
    /// Other processes of the bench; whatever else is busy on the machine is foreign.
    pub bystanders: Vec<u32>,
}

/// The client's side of the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// QUIC version 1.
    Http3,
    /// TLS 1.3 over TCP.
    Http2,
    /// TLS 1.3 over TCP, as many connections as there are requests at once.
    Http1,
    /// The same in plain text: at the upstream itself.
    Plain,
}

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Shape {
    /// Each of `connections * streams` asks again as soon as it is answered.
    Closed {
        /// Connections, each with a socket of its own.
        connections: usize,
        /// Requests at once on each.
        streams: usize,
    },
    /// Requests are sent by the clock, whether or not earlier ones are answered; latency counts from the scheduled time.
    Open {
        /// Connections, used in turn.
        connections: usize,
        /// Requests per second over all of them.
        rate: u32,
    },
    /// A handshake and one request for each connection; `at_once` of these side by side.
    Fresh {
        /// Handshakes side by side.
        at_once: usize,
        /// Whether all but the first of each use a ticket of an earlier one.
        resumed: bool,
    },
    /// The open loop again, while something is wrong for others.
    Beside {
        /// Connections, used in turn.
        connections: usize,
        /// Requests per second over all of them.
        rate: u32,
        /// What is wrong.
        trouble: Trouble,
    },
    /// One request on a new connection, measured from its start to its end or that of the window, without a warm-up.
    Once,
    /// Answers that are asked for and not read, under small windows: what they hold up is what memory is for.
    Unread {
        /// Connections.
        connections: usize,
        /// Answers at once on each.
        streams: usize,
    },
    /// Connections that asked once and then are only held open.
    Idle {
        /// How many.
        connections: usize,
    },
    /// Asks until one answer is right; fails after ten seconds. Tells when a chain is ready.
    Probe,
}

/// What goes wrong beside healthy requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// Nothing here; perhaps the network.
    None,
    /// A client of its own reads nothing of the large answers it asked for.
    StalledClient,
    /// A client of its own asks for what the upstream never answers.
    DeadUpstream,
}

/// One request and the answer that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// GET of a body of this many bytes.
    Download(u64),
    /// POST of a body of this many bytes; the upstream answers with their number.
    Upload(u64),
    /// GET of what never comes.
    Never,
}

impl Ask {
    /// The path that the bench's upstream answers to.
    pub fn path(self) -> String {
        match self {
            Self::Download(bytes) => format!("/bytes/{bytes}"),
            Self::Upload(_) => "/sink".to_owned(),
            Self::Never => "/never".to_owned(),
        }
    }

    /// Length of the request body, bytes.
    pub fn sends(self) -> u64 {
        match self {
            Self::Download(_) | Self::Never => 0,
            Self::Upload(bytes) => bytes,
        }
    }

    /// Length of the right answer, bytes.
    pub fn receives(self) -> u64 {
        match self {
            Self::Download(bytes) => bytes,
            Self::Upload(bytes) => bytes.to_string().len() as u64,
            Self::Never => 0,
        }
    }
}

impl Shape {
    /// Whether connections use tickets of earlier ones.
    pub fn resumes(self) -> bool {
        matches!(self, Self::Fresh { resumed: true, .. })
    }

    /// What a client takes ahead of reading: as Chromium does, or little.
    pub fn windows(self) -> Windows {
        match self {
            Self::Unread { .. } => Windows { stream: 64 << 10, connection: 2 << 20 },
            _ => Windows { stream: 6 << 20, connection: 15 << 20 },
        }
    }
}

/// Flow control windows that a client announces, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Of each stream.
    pub stream: u32,
    /// Of all streams together.
    pub connection: u32,
}
