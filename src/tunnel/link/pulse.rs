//! The clockwork of one link: at each tick it sends what is due and judges what was heard. Driven by the link's task, before
//! anything else that it does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::spare::{Spare, Way};
use super::{Link, LinkError, LinkState, Owner};
use crate::clock;
use crate::observe::event::{Event, What};
use crate::tunnel::control::{Control, Load};
use crate::tunnel::liveness::{Judgement, Liveness};
use crate::tunnel::load::{Loss, LossAlarm, Reporter};

/// Packets lost from the other end, thousandths, that leave it a congestion window of no more packets than may wait to be
/// acknowledged together: each of its round trips would take the longest acknowledgement delay (25 ms) more.
const LOST_FROM: u64 = 5;
/// Between heartbeats then, while exchanges ride on the link: they carry acknowledgements.
const LOSSY_TICK: Duration = Duration::from_millis(5);

/// The clockwork of one link: heartbeats, liveness, reports.
pub(super) struct Pulse {
    link: Arc<Link>,
    liveness: Liveness,
    reporter: Reporter,
    loss: Loss,
    loss_alarm: LossAlarm,
    spare: Spare,
    count: u64,
    ticked: Instant,
}

impl Pulse {
    pub(super) fn new(link: Arc<Link>) -> Self {
        let now = clock::now();
        let received = link.connection.stats().udp_rx.datagrams;
        Self {
            link,
            liveness: Liveness::new(now, received),
            reporter: Reporter::default(),
            loss: Loss::new(now),
            loss_alarm: LossAlarm::default(),
            spare: Spare::new(now),
            count: 0,
            ticked: now,
        }
    }

    pub(super) fn due(&self) -> tokio::time::Instant {
        let busy = self.link.in_flight() > 0;
        let due = self.liveness.due(self.ticked, busy);
        match busy && self.link.lost_from.load(Ordering::Relaxed) >= LOST_FROM {
            true => due.min(self.ticked + LOSSY_TICK).into(),
            false => due.into(),
        }
    }

    pub(super) fn handle_hint(&mut self) {
        let received = self.link.connection.stats().udp_rx.datagrams;
        if self.liveness.handle_hint(clock::now(), self.link.rtt(), received) {
            // Acknowledged at once by whoever is there.
            self.count += 1;
            self.link.send_quietly(&Control::Heartbeat(self.count));
        }
    }

    pub(super) fn tick(&mut self, owner: &dyn Owner) -> Result<(), LinkError> {
        let now = clock::now();
        self.ticked = now;
        let stats = self.link.connection.stats();
        self.liveness.handle_received(now, stats.udp_rx.datagrams);
        self.link.peer.sweep(now);
        let (rtt, busy) = (stats.path.rtt, self.link.in_flight() > 0);
        let judgement = self.liveness.handle_tick(now, busy, rtt, rtt / 4);
        if self.liveness.poll_heartbeat(now, busy) {
            self.count += 1;
            self.link.send_quietly(&Control::Heartbeat(self.count));
        }
        self.report(now, &stats, owner);
        self.handle_judgement(judgement, owner)
    }

    fn report(&mut self, now: Instant, stats: &quinn::ConnectionStats, owner: &dyn Owner) {
        let path = &stats.path;
        let lost_permille = self.loss.handle_sample(now, path.sent_packets, path.lost_packets);
        let lost_permille = self.spare.handle_loss(now, lost_permille);
        self.double(now, stats);
        self.link.lost.store(lost_permille, Ordering::Relaxed);
        if self.loss_alarm.handle_loss(lost_permille) {
            self.link.tell_loss("to", lost_permille);
            owner.handle_loss(&self.link);
        }
        let Some(load) = owner.load() else { return };
        if let Some(load) = self.reporter.poll_report(now, Load { lost_permille, ..load }) {
            self.link.send_quietly(&Control::Load(load));
        }
    }

    /// Has short datagrams sent twice, or not.
    fn double(&mut self, now: Instant, stats: &quinn::ConnectionStats) {
        let copies = self.link.peer.copies();
        match self.spare.poll(now, stats.udp_tx.bytes, stats.path.rtt, stats.path.cwnd) {
            Some(Way::Spare) => copies.begin(self.link.remote_address(), now),
            Some(Way::Full) => copies.pause(self.link.remote_address(), now),
            Some(Way::Sound) | None => {}
        }
    }

    fn handle_judgement(&mut self, judgement: Judgement, owner: &dyn Owner) -> Result<(), LinkError> {
        let link = &self.link;
        let why = if self.liveness.is_hinted() { "unreachable, says ICMP, and silent" } else { "silence" };
        let told = |what| link.tell(&Event { took: self.liveness.silence(self.ticked), why, ..Event::new(what) });
        match judgement {
            Judgement::Fine => return Ok(()),
            Judgement::Dead => {
                told(What::Verdict);
                return Err(LinkError::Dead);
            }
            Judgement::Suspect => {
                told(What::Suspicion);
                link.change_state(LinkState::Ready, LinkState::Suspect);
                owner.handle_suspect(link);
                if link.peer.has_other(link) {
                    link.peer.evacuate(link);
                } else {
                    link.peer.nudge();
                }
            }
            Judgement::Cleared => {
                link.tell(&Event { why: "heard again", ..Event::new(What::Recovery) });
                if link.change_state(LinkState::Suspect, LinkState::Ready) {
                    link.peer.notify();
                }
            }
        }
        owner.handle_state(link);
        Ok(())
    }
}
