//! What a stretch of time cost: the watched processes, the bench's other processes, and everybody else.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use trunkline::clock;

use super::account::{machine_cpu, process_cpu, process_memory, process_memory_peak};

/// The accounts at the beginning of a stretch.
pub struct Meter {
    watch: Vec<u32>,
    bystanders: Vec<u32>,
    began: Instant,
    chain: Duration,
    ours: Duration,
    machine: Duration,
    stolen: Duration,
    memory: u64,
}

/// The cost of a stretch, seconds and bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// How long it was.
    pub seconds: f64,
    /// CPU of the watched processes.
    pub chain_cpu: f64,
    /// CPU of the bench itself: load generator, upstream, and contestants whose turn it is not.
    pub bench_cpu: f64,
    /// Cores busy with what is not the bench, on average, those that the hypervisor gave away included.
    pub foreign_cores: f64,
    /// Memory of the watched processes at its beginning.
    pub memory_before: u64,
    /// Memory of the watched processes at its end.
    pub memory_after: u64,
    /// The most memory that the watched processes ever had, added up, with the files they are made of.
    pub memory_peak: u64,
}

impl Usage {
    /// Cores that the watched processes kept busy, on average.
    pub fn chain_cores(&self) -> f64 {
        self.chain_cpu / self.seconds
    }

    /// Cores that the bench kept busy: near one, the load generator is the limit and not the chain.
    pub fn bench_cores(&self) -> f64 {
        self.bench_cpu / self.seconds
    }
}

impl Meter {
    /// Begins. `bystanders` need not name the calling process.
    pub fn start(watch: &[u32], bystanders: &[u32]) -> io::Result<Self> {
        let (machine, stolen) = machine_cpu()?;
        Ok(Self {
            watch: watch.to_vec(),
            bystanders: bystanders.to_vec(),
            began: clock::now(),
            memory: memory(watch)?,
            machine,
            stolen,
            ours: cpu(bystanders)? + process_cpu(std::process::id())?,
            chain: cpu(watch)?,
        })
    }

    /// Memory of the watched processes when it began, bytes.
    pub fn memory_before(&self) -> u64 {
        self.memory
    }

    /// Ends.
    pub fn stop(self) -> io::Result<Usage> {
        let chain_now = cpu(&self.watch)?;
        let end = Self::start(&self.watch, &self.bystanders)?;
        let seconds = (end.began - self.began).as_secs_f64();
        let spent = |end: Duration, start: Duration| end.saturating_sub(start).as_secs_f64();
        let chain_cpu = spent(chain_now, self.chain);
        let busy = spent(end.machine, self.machine) + spent(end.stolen, self.stolen);
        let known = chain_cpu + spent(end.ours, self.ours);
        Ok(Usage {
            seconds,
            chain_cpu,
            bench_cpu: spent(end.ours, self.ours),
            foreign_cores: ((busy - known) / seconds).max(0.0),
            memory_before: self.memory,
            memory_after: end.memory,
            memory_peak: sum(&self.watch, process_memory_peak)?,
        })
    }
}

fn cpu(pids: &[u32]) -> io::Result<Duration> {
    pids.iter().map(|pid| process_cpu(*pid)).sum()
}

fn memory(pids: &[u32]) -> io::Result<u64> {
    sum(pids, process_memory)
}

fn sum(pids: &[u32], of: fn(u32) -> io::Result<u64>) -> io::Result<u64> {
    pids.iter().map(|pid| of(*pid)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_a_watched_process_is_the_chains_and_not_foreign() {
        let own = std::process::id();
        let meter = Meter::start(&[own], &[]).expect("accounts");
        let until = process_cpu(own).expect("a clock") + Duration::from_millis(50);
        while process_cpu(own).expect("a clock") < until {}
        let usage = meter.stop().expect("accounts");
        assert!(usage.chain_cpu >= 0.05, "{usage:?}");
        assert!(usage.seconds > 0.0 && usage.memory_after > 0, "{usage:?}");
    }
}
