//! What is measured: one line for each scenario.

use crate::load::{Ask, Protocol, Shape};
use crate::report::Figures;

/// One kind of load and the figures taken from it.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The name in results and in `BENCH_SCENARIOS`.
    pub name: &'static str,
    /// The client's protocol.
    pub protocol: Protocol,
    /// How requests follow each other.
    pub shape: Shape,
    /// The request.
    pub ask: Ask,
    /// What is read from the report.
    pub figures: Figures,
}

const SMALL: Ask = Ask::Download(100);
const MEDIUM: u64 = 1_000_000;
const LARGE: u64 = 100_000_000;
const SATURATE: Shape = Shape::Closed { connections: 8, streams: 16 };
const FEW: Shape = Shape::Closed { connections: 4, streams: 2 };
const ONE: Shape = Shape::Closed { connections: 1, streams: 1 };

impl Scenario {
    /// All scenarios in the order in which a round goes through them.
    pub fn all() -> Vec<Self> {
        let h3 = |name, shape, ask, figures| Self { name, protocol: Protocol::Http3, shape, ask, figures };
        let h2 = |name, shape, ask, figures| Self { name, protocol: Protocol::Http2, shape, ask, figures };
        vec![
            h3("h3-small", SATURATE, SMALL, Figures::Saturated),
            h3("h3-500/s", Shape::Open { connections: 8, rate: 500 }, SMALL, Figures::Paced),
            h3("h3-5000/s", Shape::Open { connections: 8, rate: 5_000 }, SMALL, Figures::Paced),
            h3("h3-down-1MB", FEW, Ask::Download(MEDIUM), Figures::Bulk),
            h3("h3-down-100MB", ONE, Ask::Download(LARGE), Figures::Bulk),
            h3("h3-up-1MB", FEW, Ask::Upload(MEDIUM), Figures::Bulk),
            h3("h3-up-100MB", ONE, Ask::Upload(LARGE), Figures::Bulk),
            h3("h3-connect", Shape::Fresh { at_once: 4 }, SMALL, Figures::Connect),
            h3("h3-idle-1000", Shape::Idle { connections: 1_000 }, SMALL, Figures::Idle),
            h2("h2-small", SATURATE, SMALL, Figures::Saturated),
            h2("h2-down-100MB", ONE, Ask::Download(LARGE), Figures::Bulk),
            h2("h2-up-100MB", ONE, Ask::Upload(LARGE), Figures::Bulk),
        ]
    }

    /// One small request, to learn whether a chain is up.
    pub fn probe() -> Self {
        Self { name: "probe", protocol: Protocol::Http3, shape: Shape::Probe, ask: SMALL, figures: Figures::Connect }
    }
}
