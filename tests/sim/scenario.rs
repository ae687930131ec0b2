//! A scenario: what is there, what is asked, what goes wrong and when. Made from a seed, written and read as TOML.

use serde::{Deserialize, Serialize};

/// Everything that determines a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Of everything random that is not written down here.
    pub seed: u64,
    pub pops: usize,
    pub gateways: usize,
    /// Links that each gateway holds to each PoP.
    pub links: usize,
    /// Budget for unacknowledged bytes of each process.
    pub retention_max: u64,
    /// Largest window of an exchange.
    pub window_max: u64,
    /// One for each pair of PoP and gateway, the gateways of the first PoP first; the same both ways.
    pub paths: Vec<Path>,
    #[serde(default)]
    pub faults: Vec<Fault>,
    #[serde(default)]
    pub requests: Vec<Request>,
}

/// How datagrams fare in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Path {
    pub delay_ms: u64,
    /// Up to this much is added to each datagram alone: they overtake each other.
    #[serde(default)]
    pub jitter_ms: u64,
    /// Share that is lost, 0 to 1.
    #[serde(default)]
    pub loss: f64,
    /// Share that comes twice.
    #[serde(default)]
    pub duplicate: f64,
    #[serde(skip)]
    pub blocked: bool,
}

/// Something that goes wrong at `at_ms` and is over `for_ms` later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    pub at_ms: u64,
    pub for_ms: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// Nothing passes in the direction or directions.
    Block {
        pop: usize,
        gateway: usize,
        towards: Towards,
    },
    /// This share is lost in the direction or directions.
    Loss {
        pop: usize,
        gateway: usize,
        towards: Towards,
        share: f64,
    },
    /// The source port that a link has now passes nothing ever again.
    BlackPort {
        pop: usize,
        gateway: usize,
        link: usize,
    },
    /// The process dies and a new one starts after `for_ms`.
    CrashPop {
        pop: usize,
    },
    CrashGateway {
        gateway: usize,
    },
    /// The process stands still (SIGSTOP) for `for_ms`.
    StopPop {
        pop: usize,
    },
    StopGateway {
        gateway: usize,
    },
    /// The connection of a link ends at once; `for_ms` has no meaning.
    Cut {
        pop: usize,
        gateway: usize,
        link: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Towards {
    Both,
    Pop,
    Gateway,
}

/// One exchange.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub at_ms: u64,
    /// The PoP that the client called.
    pub pop: usize,
    pub mode: Mode,
    pub request_len: u64,
    /// Of the response; with `echo` it is the request's.
    pub response_len: u64,
    /// Bytes given to the tunnel at once, at both ends.
    pub piece: u64,
    /// Pause of the client before each piece it sends.
    pub client_pace_ms: u64,
    /// Pause of the client after each piece it receives.
    pub reader_pace_ms: u64,
    /// Pause of the handler before each piece it sends.
    pub handler_pace_ms: u64,
    /// The client goes away after so many bytes of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_after: Option<u64>,
}

/// What the handler does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Sends each piece back.
    Echo,
    /// Reads everything, then answers.
    Store,
    /// Answers while it reads.
    Duplex,
    /// Answers after the first piece and gives up the rest of the request.
    Early,
    /// Refuses the first attempt before anything started.
    Reject,
    /// Gives up in the middle of the response.
    Break,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut dice = Dice(fastrand::Rng::with_seed(seed ^ 0x7472_756e_6b6c_696e));
        let (pops, gateways, links) = (dice.between(1, 3), dice.between(1, 2), dice.between(1, 3));
        let mut scenario = Self {
            seed,
            pops: pops as usize,
            gateways: gateways as usize,
            links: links as usize,
            retention_max: if dice.one_in(8) { dice.between(8 << 10, 512 << 10) } else { 64 << 20 },
            window_max: dice.pick(&[64 << 10, 256 << 10, 1 << 20, 4 << 20]),
            paths: Vec::new(),
            faults: Vec::new(),
            requests: Vec::new(),
        };
        scenario.paths = (0..pops * gateways).map(|_| dice.path()).collect();
        let mut fault_count = dice.between(0, 6);
        if dice.one_in(10) {
            // Many at once.
            fault_count += 8;
        }
        scenario.faults = (0..fault_count).map(|_| dice.fault(&scenario)).collect();
        scenario.faults.sort_by_key(|fault| fault.at_ms);
        scenario.requests = (0..dice.between(4, 24)).map(|_| dice.request(pops)).collect();
        scenario
    }

    /// How a pair is connected when nothing is wrong.
    pub fn path(&self, pop: usize, gateway: usize) -> Path {
        self.paths.get(pop * self.gateways + gateway).cloned().unwrap_or_default()
    }
}

struct Dice(fastrand::Rng);

impl Dice {
    fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0.u64(least..=most)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.0.u64(0..count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.0.usize(0..from.len())]
    }

    fn path(&mut self) -> Path {
        Path {
            delay_ms: self.pick(&[0, 1, 1, 2, 5, 10, 20, 40]),
            jitter_ms: self.pick(&[0, 0, 0, 1, 3, 10]),
            loss: self.pick(&[0.0, 0.0, 0.0, 0.001, 0.01, 0.05]),
            duplicate: self.pick(&[0.0, 0.0, 0.0, 0.01, 0.1]),
            blocked: false,
        }
    }

    fn fault(&mut self, scenario: &Scenario) -> Fault {
        let pop = self.0.usize(0..scenario.pops);
        let gateway = self.0.usize(0..scenario.gateways);
        let link = self.0.usize(0..scenario.links);
        let towards = self.pick(&[Towards::Both, Towards::Both, Towards::Pop, Towards::Gateway]);
        let what = match self.between(0, 11) {
            0..=2 => What::Block { pop, gateway, towards },
            3 => What::Loss { pop, gateway, towards, share: self.pick(&[0.05, 0.2, 0.5]) },
            4..=5 => What::BlackPort { pop, gateway, link },
            6 => What::CrashPop { pop },
            7 => What::CrashGateway { gateway },
            8 => What::StopPop { pop },
            9 => What::StopGateway { gateway },
            _ => What::Cut { pop, gateway, link },
        };
        let for_ms = self.pick(&[20, 100, 200, 300, 500, 800, 1_200, 2_000, 3_500, 5_000]);
        Fault { at_ms: self.between(50, 4_000), for_ms, what }
    }

    fn request(&mut self, pops: u64) -> Request {
        let mode = self.pick(&[Mode::Echo, Mode::Echo, Mode::Store, Mode::Store, Mode::Duplex, Mode::Duplex]);
        let mode = match self.between(0, 9) {
            0 => Mode::Early,
            1 => Mode::pick_odd(self.one_in(2)),
            _ => mode,
        };
        let piece = self.pick(&[100, 1_500, 2_048, 8_000, 16_384, 60_000]);
        let response_len = self.length(piece);
        Request {
            at_ms: self.between(0, 4_000),
            pop: self.0.usize(0..pops as usize),
            mode,
            request_len: self.length(piece),
            response_len,
            piece,
            client_pace_ms: self.pick(&[0, 0, 0, 2, 20, 100]),
            reader_pace_ms: self.pick(&[0, 0, 0, 0, 3, 20]),
            handler_pace_ms: self.pick(&[0, 0, 0, 2, 20, 100]),
            cancel_after: self.one_in(12).then(|| self.between(0, response_len)),
        }
    }

    /// At most 60 pieces, so that a paced exchange ends in seconds.
    fn length(&mut self, piece: u64) -> u64 {
        let most = self.pick(&[0, 1, 3, 10, 30, 60]);
        self.between(0, most * piece).min(1 << 20)
    }
}

impl Mode {
    fn pick_odd(first: bool) -> Self {
        if first { Self::Reject } else { Self::Break }
    }
}
