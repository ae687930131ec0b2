//! The show of `edge dev --outages`: clients that ask, download and talk all the time while tunnels, gateways and PoPs die
//! around them, with one live line and the totals at the end.
//!
//! Called by the demo once the chain serves. [`errands`] are the clients, [`havoc`] is what is done to the chain,
//! [`tally`] what came of it.

mod backstage;
mod errands;
mod havoc;
mod tally;
mod visitor;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use errands::Target;
pub use havoc::Process;

use self::backstage::Reader;
use self::errands::Socket;
use self::tally::Tally;
use self::visitor::Visitor;
use super::Failure;
use super::demo::Demo;
use crate::clock;
use crate::task::{Shutdown, Tasks};

/// Between two live lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// What the clients of a show know.
pub struct Audience {
    /// The CA that they trust.
    pub ca: PathBuf,
    /// The host that they ask for.
    pub host: String,
    /// UDP addresses of the PoPs.
    pub http3: Vec<SocketAddr>,
    /// TCP addresses of the PoPs.
    pub http2: Vec<SocketAddr>,
    /// Who answers.
    pub target: Target,
}

/// Runs until `end` resolves; true if no client noticed anything but the death of its own PoP.
///
/// # Errors
/// When a client cannot be made or a process not be started again.
pub async fn show(demo: &mut Demo, audience: &Audience, end: impl Future<Output = ()>) -> Result<bool, Failure> {
    let tally = Arc::new(Tally::new(demo.edges.len()));
    let admins = demo.admins();
    let clients = Tasks::new(Shutdown::default());
    audience.start(&tally, &clients)?;
    let (begun, mut reader) = (clock::now(), Reader::default());
    let outcome = tokio::select! {
        outcome = havoc::havoc(demo, tally.clone()) => outcome,
        () = live(&tally, &mut reader, &admins) => Ok(()),
        () = end => Ok(()),
    };
    clients.shutdown().start_force();
    clients.wait().await;
    for admin in admins {
        reader.read(admin).await;
    }
    let elapsed = clock::now().saturating_duration_since(begun);
    println!("\n\n{}", tally.totals(elapsed, reader.backstage()).trim_end());
    outcome.map(|()| tally.seen().failed == 0)
}

impl Audience {
    fn start(&self, tally: &Arc<Tally>, clients: &Tasks) -> Result<(), Failure> {
        let visitor = || Visitor::new(&self.ca, &self.host, self.http3.clone(), tally.clone(), clients.clone());
        clients.spawn(errands::requests(visitor()?, tally.clone(), self.target));
        if self.target == Target::BuiltIn {
            clients.spawn(errands::downloads(visitor()?, tally.clone()));
            clients.spawn(Socket::new(&self.ca, &self.host, self.http2.clone(), tally.clone())?.run());
        }
        Ok(())
    }
}

/// Shows the live line; where nobody watches, each is a line of its own.
async fn live(tally: &Tally, reader: &mut Reader, admins: &[SocketAddr]) {
    let (terminal, begun) = (io::stdout().is_terminal(), clock::now());
    loop {
        for admin in admins {
            reader.read(*admin).await;
        }
        let line = tally.line(clock::now().saturating_duration_since(begun), reader.backstage());
        // On a terminal without its wrapping: a line that wraps could not be written over.
        let shown = if terminal { format!("\r\x1b[K\x1b[?7l{line}\x1b[?7h") } else { format!("{line}\n") };
        // A terminal that is gone ends the demo by its signal.
        let _ = io::stdout().write_all(shown.as_bytes()).and_then(|()| io::stdout().flush());
        tokio::time::sleep(LINE_INTERVAL).await;
    }
}
