//! A beat finer than the runtime's millisecond timer: a kernel timer read as a file.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use trunkline::clock;

/// Fires `rate` times a second and names the time at which each beat was due, also of beats that were missed.
pub struct Pace {
    timer: AsyncFd<OwnedFd>,
    start: Instant,
    period: Duration,
    beats: u32,
}

impl Pace {
    /// Starts now.
    pub fn start(rate: u32) -> io::Result<Self> {
        let period = Duration::from_secs(1) / rate.max(1);
        // SAFETY: a plain system call; the descriptor it returns is owned by nobody else.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and checked.
        let timer = unsafe { OwnedFd::from_raw_fd(fd) };
        // Before the timer runs, so that no beat is named by a later time than its own.
        let start = clock::now();
        set(&timer, period)?;
        // SAFETY: an OwnedFd stays open and the same until it is dropped, and only the AsyncFd holds it.
        let timer = unsafe { AsyncFd::register(timer)? };
        Ok(Self { timer, start, period, beats: 0 })
    }

    /// Waits for the next beat; returns when those that are due now were due.
    pub async fn beat(&mut self) -> io::Result<impl Iterator<Item = Instant> + use<>> {
        let due = loop {
            let mut ready = self.timer.readable().await?;
            if let Ok(expired) = ready.try_io(|timer| expirations(timer.get_ref())) {
                break expired?;
            }
        };
        let (start, period, first) = (self.start, self.period, self.beats + 1);
        self.beats += due;
        Ok((first..=self.beats).map(move |beat| start + period * beat))
    }
}

fn set(timer: &OwnedFd, period: Duration) -> io::Result<()> {
    let beat = libc::timespec { tv_sec: period.as_secs() as libc::time_t, tv_nsec: period.subsec_nanos().into() };
    let value = libc::itimerspec { it_interval: beat, it_value: beat };
    // SAFETY: both pointers are valid or null as timerfd_settime(2) allows.
    let result = unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &value, std::ptr::null_mut()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn expirations(timer: &OwnedFd) -> io::Result<u32> {
    let mut count = [0_u8; 8];
    // SAFETY: reads at most the eight bytes of `count`.
    let size = unsafe { libc::read(timer.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    if size < 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(u64::from_ne_bytes(count)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beats_are_named_by_the_time_at_which_they_were_due_without_drift() {
        let mut pace = Pace::start(10_000).expect("a timer");
        let (start, period) = (pace.start, pace.period);
        let mut dues = Vec::new();
        while dues.len() < 100 {
            dues.extend(pace.beat().await.expect("a beat"));
        }
        let expected: Vec<Instant> = (1..).map(|beat| start + period * beat).take(dues.len()).collect();
        assert_eq!(dues, expected);
        assert!(dues.iter().all(|due| *due <= clock::now()), "a beat came before it was due");
    }
}
