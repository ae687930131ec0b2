//! What is measured: one line for each scenario.

use super::link::Link;
use crate::chains::Contestant;
use crate::load::{Ask, Protocol, Shape, Trouble};
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
    /// Whose the network is, if not plain loopback.
    pub link: Option<Link>,
    /// How often and for whom.
    pub part: Part,
    /// How many times as long as others it is measured.
    pub length: f64,
}

/// The part that a scenario has in a run that does not name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Every round with those that are close, the first one with all.
    Main,
    /// Every round, those that are close alone.
    Close,
    /// Every round, these alone: a share of the slowest needs many requests.
    Among(&'static [Contestant]),
    /// The first round alone, these alone.
    Once(&'static [Contestant]),
}

use Contestant::{Baseline, CaddyHttp3, HaproxyReverse, NginxHttp2, Trunkline};

/// Who matters where a measurement is long.
const FEW_RIVALS: &[Contestant] = &[Trunkline, Baseline, HaproxyReverse, NginxHttp2];
const ONE_RIVAL: &[Contestant] = &[Trunkline, Baseline, HaproxyReverse];
const OURS: &[Contestant] = &[Trunkline, Baseline];
const ON_LINKS: &[Contestant] = &[Trunkline, Baseline, HaproxyReverse, NginxHttp2, CaddyHttp3];
const OVER_TCP: &[Contestant] = &[Trunkline, Baseline, NginxHttp2];

const SMALL: Ask = Ask::Download(100);
const MEDIUM: u64 = 1_000_000;
const LARGE: u64 = 100_000_000;
const SATURATE: Shape = Shape::Closed { connections: 8, streams: 16 };
const FEW: Shape = Shape::Closed { connections: 4, streams: 2 };
const ONE: Shape = Shape::Closed { connections: 1, streams: 1 };

const fn paced(rate: u32) -> Shape {
    Shape::Open { connections: 8, rate }
}

/// A thousand requests a second from a hundred clients' worth of streams.
const fn beside(trouble: Trouble) -> Shape {
    Shape::Beside { connections: 10, rate: 1_000, trouble }
}

impl Scenario {
    /// All scenarios in the order in which a round goes through them.
    pub fn all() -> Vec<Self> {
        [
            Self::small(),
            Self::bulk(),
            Self::connections(),
            Self::http2(),
            Self::http1(),
            Self::beside(),
            Self::links(),
            Self::memory(),
        ]
        .concat()
    }

    const fn http3(name: &'static str, shape: Shape, ask: Ask, figures: Figures) -> Self {
        Self { name, protocol: Protocol::Http3, shape, ask, figures, link: None, part: Part::Close, length: 1.0 }
    }

    const fn main(self) -> Self {
        Self { part: Part::Main, ..self }
    }

    const fn once(self, among: &'static [Contestant], length: f64) -> Self {
        Self { part: Part::Once(among), length, ..self }
    }

    const fn over(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    const fn on(self, link: Link) -> Self {
        Self { link: Some(link), ..self }
    }

    /// Lines A, D, E.
    fn small() -> Vec<Self> {
        let long = |scenario| Self { length: 2.0, ..scenario };
        vec![
            Self::http3("h3-small", SATURATE, SMALL, Figures::Saturated).main(),
            long(Self::http3("h3-500/s", paced(500), SMALL, Figures::Paced).main()),
            long(Self::http3("h3-5000/s", paced(5_000), SMALL, Figures::Paced).main()),
        ]
    }

    /// Line B.
    fn bulk() -> Vec<Self> {
        vec![
            Self::http3("h3-down-1MB", FEW, Ask::Download(MEDIUM), Figures::Bulk).main(),
            Self::http3("h3-down-100MB", ONE, Ask::Download(LARGE), Figures::Bulk).main(),
            Self::http3("h3-up-1MB", FEW, Ask::Upload(MEDIUM), Figures::Bulk).main(),
            Self::http3("h3-up-100MB", ONE, Ask::Upload(LARGE), Figures::Bulk),
        ]
    }

    /// Lines F and G.
    fn connections() -> Vec<Self> {
        let fresh = |resumed| Shape::Fresh { at_once: 4, resumed };
        let idle = Shape::Idle { connections: 1_000 };
        vec![
            Self::http3("h3-connect", fresh(false), SMALL, Figures::Connect).main(),
            Self::http3("h3-connect-resumed", fresh(true), SMALL, Figures::Connect),
            Self::http3("h3-idle-1000", idle, SMALL, Figures::Idle).once(FEW_RIVALS, 2.0),
        ]
    }

    /// Line H.
    fn http2() -> Vec<Self> {
        vec![
            Self::http3("h2-small", SATURATE, SMALL, Figures::Saturated).over(Protocol::Http2).main(),
            Self::http3("h2-down-100MB", ONE, Ask::Download(LARGE), Figures::Bulk).over(Protocol::Http2).main(),
            Self::http3("h2-up-100MB", ONE, Ask::Upload(LARGE), Figures::Bulk).over(Protocol::Http2),
        ]
    }

    /// Clients that speak nothing newer.
    fn http1() -> Vec<Self> {
        vec![
            Self::http3("h1-small", SATURATE, SMALL, Figures::Saturated).over(Protocol::Http1).once(FEW_RIVALS, 1.0),
            Self::http3("h1-down-100MB", ONE, Ask::Download(LARGE), Figures::Bulk)
                .over(Protocol::Http1)
                .once(FEW_RIVALS, 1.0),
        ]
    }

    /// Line K. The last two go through a tunnel with a round trip of 20 ms, without and with loss.
    fn beside() -> Vec<Self> {
        let line = |name, trouble| Self {
            part: Part::Among(ONE_RIVAL),
            length: 3.0,
            ..Self::http3(name, beside(trouble), SMALL, Figures::Beside)
        };
        vec![
            line("h3-beside-none", Trouble::None),
            line("h3-beside-stalled", Trouble::StalledClient),
            line("h3-beside-dead", Trouble::DeadUpstream),
            line("h3-tunnel-20ms", Trouble::None).on(Link::tunnel(20, 0)),
            line("h3-tunnel-20ms-loss", Trouble::None).on(Link::tunnel(20, 5)),
        ]
    }

    /// Line I: 100 MB, or what of it arrives in the time.
    fn links() -> Vec<Self> {
        let names = [
            ("h3-link-15ms", "h2-link-15ms", Link::client(15, 0)),
            ("h3-link-15ms-loss", "h2-link-15ms-loss", Link::client(15, 5)),
            ("h3-link-50ms", "h2-link-50ms", Link::client(50, 0)),
            ("h3-link-50ms-loss", "h2-link-50ms-loss", Link::client(50, 5)),
        ];
        let line = |name, link| Self::http3(name, Shape::Once, Ask::Download(LARGE), Figures::Transfer).on(link);
        let both = names.into_iter().flat_map(|(http3, http2, link)| {
            [line(http3, link).once(ON_LINKS, 5.0), line(http2, link).over(Protocol::Http2).once(OVER_TCP, 5.0)]
        });
        both.collect()
    }

    /// Line M.
    fn memory() -> Vec<Self> {
        let unread = Shape::Unread { connections: 100, streams: 10 };
        let five = Ask::Download(5_000_000_000);
        vec![
            Self::http3("h3-unread-1000", unread, Ask::Download(LARGE), Figures::Memory).once(ONE_RIVAL, 2.0),
            Self::http3("h3-down-5GB", Shape::Once, five, Figures::Memory).once(OURS, 30.0),
        ]
    }

    /// One small request, to learn whether a chain is up.
    pub fn probe() -> Self {
        Self::http3("probe", Shape::Probe, SMALL, Figures::Connect)
    }

    /// Whether a chain must be fresh for it: memory that an earlier load left behind must not serve what is measured now.
    pub fn needs_fresh(&self) -> bool {
        matches!(self.figures, Figures::Idle | Figures::Memory)
    }

    /// Whether it makes sense for `contestant` at all: nobody in between can only be compared in latency.
    pub fn suits(&self, contestant: Contestant) -> bool {
        contestant != Contestant::Direct || self.figures == Figures::Paced
    }
}
