//! What a link of this machine really is: rate and jitter, as a program at its ends sees them.
//!
//! Called by `interop-runner link`. On a loaded machine the figures say how far results can be trusted.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use trunkline::clock;

use super::Network;
use super::faults::Plan;
use super::hub::{Direction, Hub, ipv4, ipv6};
use super::shaping::Shape;
use crate::Outcome;

const PORT: u16 = 9_000;
/// UDP payload of each packet; with its headers an IPv4 packet has 1,428 bytes.
const PAYLOAD: usize = 1_400;
const HEADERS: usize = 28;
const RATE: u64 = 10_000_000;
const DELAY: Duration = Duration::from_millis(15);
/// Nothing came for so long: it is over.
const SILENCE: Duration = Duration::from_millis(500);

/// When each packet was sent and came.
type Times = Vec<(Duration, Duration)>;

/// Measures both and says so in lines.
pub fn measure(folder: &Path) -> Outcome<Vec<String>> {
    let shape = Shape { rate: Some(RATE), delay: DELAY, queue: 25 };
    let network = Network::start(
        &["client", "server"],
        Hub::new(2, 1, |_, _| Direction { shape, plan: Plan::default() }),
        folder,
    )?;
    let mut lines = Vec::new();
    for (name, from, to) in [("IPv4", ipv4(0).into(), ipv4(1).into()), ("IPv6", ipv6(0).into(), ipv6(1).into())] {
        let (from, to) = (SocketAddr::new(from, 0), SocketAddr::new(to, PORT));
        let receiver = network.end(1)?.inside(|| UdpSocket::bind(to))??;
        let sender = network
            .end(0)?
            .inside(|| UdpSocket::bind(from).and_then(|socket| socket.connect(to).map(|()| socket)))??;
        // A tenth more than the link takes, for three seconds; then one packet every ten milliseconds.
        let full = exchange(&sender, &receiver, 2_900, Duration::from_micros(1_030))?;
        let spaced = exchange(&sender, &receiver, 200, Duration::from_millis(10))?;
        lines.push(format!("{name}: {:.2} of {} Mbit/s; {}", rate(&full), RATE / 1_000_000, delays(&spaced)));
    }
    Ok(lines)
}

fn exchange(sender: &UdpSocket, receiver: &UdpSocket, count: u32, pace: Duration) -> Outcome<Times> {
    receiver.set_read_timeout(Some(SILENCE))?;
    let start = clock::now();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(receiver, start));
        for number in 0..count {
            thread::sleep((start + number * pace).saturating_duration_since(clock::now()));
            let mut packet = [0; PAYLOAD];
            let sent = u64::try_from((clock::now() - start).as_nanos())?;
            if let Some(place) = packet.get_mut(..8) {
                place.copy_from_slice(&sent.to_be_bytes());
            }
            sender.send(&packet)?;
        }
        receiving.join().map_err(|_| "the receiver died".into())
    })
}

fn receive(receiver: &UdpSocket, start: Instant) -> Times {
    let mut times = Vec::new();
    let mut packet = [0; PAYLOAD];
    while receiver.recv(&mut packet).is_ok() {
        let sent = packet.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        times.push((Duration::from_nanos(sent), clock::now() - start));
    }
    times
}

/// Mbit/s of IP packets.
fn rate(times: &Times) -> f64 {
    let (Some((_, first)), Some((_, last))) = (times.first(), times.last()) else { return 0.0 };
    let bits = 8 * (PAYLOAD + HEADERS) * times.len().saturating_sub(1);
    bits as f64 / 1e6 / (*last - *first).as_secs_f64()
}

fn delays(times: &Times) -> String {
    let mut delays: Vec<_> = times.iter().map(|(sent, came)| came.saturating_sub(*sent)).collect();
    delays.sort_unstable();
    let at = |percent: usize| {
        let delay = delays.get((delays.len() * percent / 100).min(delays.len().saturating_sub(1)));
        delay.map_or(0.0, |delay| delay.as_secs_f64() * 1_000.0)
    };
    format!(
        "delay of {} packets: least {:.2}, median {:.2}, p99 {:.2}, most {:.2} ms; jitter {:.3} ms",
        delays.len(),
        at(0),
        at(50),
        at(99),
        at(100),
        jitter(times).as_secs_f64() * 1_000.0,
    )
}

/// How much the delay of a packet differs from that of the one before it, in the mean.
fn jitter(times: &Times) -> Duration {
    let delays: Vec<_> = times.iter().map(|(sent, came)| came.saturating_sub(*sent)).collect();
    let differences: Duration = delays.windows(2).map(|pair| pair[0].abs_diff(pair[1])).sum();
    differences / u32::try_from(delays.len().saturating_sub(1)).unwrap_or(u32::MAX).max(1)
}
