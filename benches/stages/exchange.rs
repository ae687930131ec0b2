//! Stage 6: the bookkeeping of an exchange: offsets, credit, retention.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use trunkline::clock;
use trunkline::tunnel::exchange::preamble::{PREAMBLE_MAX, Preamble};
use trunkline::tunnel::exchange::receiver::Receiver;
use trunkline::tunnel::exchange::retention::Budget;
use trunkline::tunnel::exchange::sender::Sender;

use super::stopwatch::Stopwatch;

/// Size of the pieces that bodies travel in, bytes.
const PIECE: u64 = 16 << 10;
/// Pieces sent before the other end acknowledges.
const PIECES: usize = 64;
static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];

/// Measures both halves over one mebibyte.
pub fn run(stopwatch: &Stopwatch) {
    let budget = Arc::new(Budget::new(256 << 20));
    stopwatch.measure("6 exchange, send and retain 1 MiB", || send(&budget));
    stopwatch.measure("6 exchange, receive 1 MiB", receive);
    stopwatch.measure("6 exchange, resume with 512 KiB retained", || resume(&budget));
    stopwatch.measure("6 exchange, preamble there and back", preamble);
}

fn send(budget: &Arc<Budget>) -> u64 {
    let mut sender = Sender::new(4 << 20, budget.clone());
    let mut out = [const { Bytes::new() }; 32];
    for _ in 0..PIECES {
        sender.append(Bytes::from_static(&ZEROS));
        let filled = sender.poll_transmit(&mut out);
        sender.handle_transmitted(out[..filled].iter().map(|piece| piece.len() as u64).sum());
    }
    let retained = sender.retained();
    sender.handle_ack(retained, 4 << 20);
    retained
}

/// The other end has half of it; the rest goes out once more.
fn resume(budget: &Arc<Budget>) -> u64 {
    let mut sender = Sender::new(4 << 20, budget.clone());
    for _ in 0..PIECES {
        sender.append(Bytes::from_static(&ZEROS));
    }
    let total = PIECE * PIECES as u64;
    sender.handle_transmitted(total);
    let again = sender.handle_resume(total / 2, 4 << 20).expect("everything is retained");
    sender.handle_transmitted(total / 2);
    sender.handle_ack(total, 4 << 20);
    again
}

fn preamble() -> Option<Preamble> {
    let mut out = BytesMut::with_capacity(PREAMBLE_MAX);
    Preamble::Resume { counter: 1 << 20, generation: 2, received: 1 << 31, window: 4 << 20 }.encode(&mut out);
    Preamble::try_decode(&mut out.freeze()).expect("a preamble")
}

fn receive() -> usize {
    let mut receiver = Receiver::new(256 << 10, 4 << 20, Arc::new(Budget::new(256 << 20)));
    let now = clock::now();
    let mut acknowledged = 0;
    for _ in 0..PIECES {
        receiver.handle_received(PIECE).expect("within the credit");
        acknowledged += usize::from(receiver.poll_ack(now, || Duration::from_millis(10)).is_some());
    }
    acknowledged
}
