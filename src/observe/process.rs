//! What the operating system says about this process, read when `/metrics` is asked for. Registered by
//! [`super::metrics::registry`]. Off Linux the values are absent.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Kernel clock ticks a second as `/proc` counts them (USER_HZ): 100 on every architecture Linux runs Rust on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The `process_*` metrics that Prometheus client libraries agree on.
#[derive(Debug)]
pub struct Process {
    started: f64,
}

impl Process {
    /// Notes the time of start.
    pub fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: since.as_secs_f64() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let seconds = Some(&Unit::Seconds);
        gauge(&mut encoder, "process_start_time", "Start since the epoch", seconds, Some(self.started))?;
        if let Some(cpu) = cpu_seconds() {
            let counter = ConstCounter::new(cpu);
            let metric = encoder.encode_descriptor(
                "process_cpu",
                "User and system time of all threads",
                seconds,
                counter.metric_type(),
            )?;
            counter.encode(metric)?;
        }
        let bytes = Some(&Unit::Bytes);
        gauge(
            &mut encoder,
            "process_resident_memory",
            "Resident memory",
            bytes,
            status_kib("VmRSS:").map(|k| k * 1024.0),
        )?;
        gauge(&mut encoder, "process_threads", "Threads", None, status_kib("Threads:"))?;
        gauge(&mut encoder, "process_open_fds", "Open file descriptors", None, open_fds())?;
        gauge(&mut encoder, "process_max_fds", "Limit of open file descriptors", None, max_fds())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: Option<f64>,
) -> Result<(), std::fmt::Error> {
    let Some(value) = value else { return Ok(()) };
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}

/// `utime` and `stime`, fields 14 and 15 of proc(5) `/proc/[pid]/stat`; the name before them may contain anything.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// A number of `/proc/self/status`, in the unit it has there.
fn status_kib(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn open_fds() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // The directory itself is open while it is read.
    Some(f64::from(u32::try_from(count.saturating_sub(1)).ok()?))
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        assert!(status_kib("VmRSS:").is_some_and(|kib| kib > 100.0));
        assert!(status_kib("Threads:").is_some_and(|threads| threads >= 1.0));
        assert!(open_fds().is_some_and(|open| open >= 3.0));
        assert!(max_fds().is_some_and(|max| max >= 3.0));
    }

    #[test]
    fn cpu_time_only_grows() {
        let before = cpu_seconds().unwrap();
        let mut sum = 0_u64;
        while cpu_seconds().unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_seconds().unwrap() > before);
    }
}
