//! The kernel's accounts of a process and of the whole machine.

use std::fs;
use std::io;
use std::time::Duration;

/// CPU time that process `pid` has used in all its threads, ended ones included; nanosecond resolution. Work that the
/// kernel does on its behalf, softirqs inside its system calls among them, is part of it.
pub fn process_cpu(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock = 0;
    // SAFETY: `clock` outlives the call.
    let error = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    if unsafe { libc::clock_gettime(clock, &mut time) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).map_err(io::Error::other)?))
}

/// Resident memory of `pid` that belongs to it alone (not to files), bytes.
pub fn process_memory(pid: u32) -> io::Result<u64> {
    status(pid, "RssAnon:")
}

/// The most resident memory that `pid` ever had, what it shares with files among it, bytes.
pub fn process_memory_peak(pid: u32) -> io::Result<u64> {
    status(pid, "VmHWM:")
}

/// A size in /proc/PID/status, bytes.
fn status(pid: u32, name: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.trim().parse().ok());
    kibibytes.map(|kib: u64| kib * 1024).ok_or_else(|| io::Error::other(format!("no {name} in /proc/{pid}/status")))
}

/// Time all processors together were busy, and time the hypervisor gave to others. Ticks, so good to some 10 ms.
pub fn machine_cpu() -> io::Result<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let columns: Vec<u64> =
        stat.lines().next().unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal, proc(5).
    let [user, nice, system, _, _, irq, softirq, steal, ..] = columns.as_slice() else {
        return Err(io::Error::other("unknown form of /proc/stat"));
    };
    Ok((ticks(user + nice + system + irq + softirq), ticks(*steal)))
}

/// USER_HZ is 100 on every Linux that Rust's std supports.
fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 10)
}
