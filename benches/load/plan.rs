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
    /// A full handshake and one request for each connection; `at_once` of these side by side.
    Fresh {
        /// Handshakes side by side.
        at_once: usize,
    },
    /// Connections that asked once and then are only held open.
    Idle {
        /// How many.
        connections: usize,
    },
    /// Asks until one answer is right; fails after ten seconds. Tells when a chain is ready.
    Probe,
}

/// One request and the answer that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// GET of a body of this many bytes.
    Download(u64),
    /// POST of a body of this many bytes; the upstream answers with their number.
    Upload(u64),
}

impl Ask {
    /// The path that the bench's upstream answers to.
    pub fn path(self) -> String {
        match self {
            Self::Download(bytes) => format!("/bytes/{bytes}"),
            Self::Upload(_) => "/sink".to_owned(),
        }
    }

    /// Length of the request body, bytes.
    pub fn sends(self) -> u64 {
        match self {
            Self::Download(_) => 0,
            Self::Upload(bytes) => bytes,
        }
    }

    /// Length of the right answer, bytes.
    pub fn receives(self) -> u64 {
        match self {
            Self::Download(bytes) => bytes,
            Self::Upload(bytes) => bytes.to_string().len() as u64,
        }
    }
}
