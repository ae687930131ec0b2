//! Which numbers a scenario yields.

use crate::load::Report;

/// Bytes.
const MIB: f64 = 1_048_576.0;

/// The kinds of scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figures {
    /// Small requests as fast as they go.
    Saturated,
    /// Small requests at a fixed rate.
    Paced,
    /// Large bodies.
    Bulk,
    /// Handshakes.
    Connect,
    /// Held connections.
    Idle,
    /// One large body on a link with delay and loss.
    Transfer,
    /// Small requests beside trouble.
    Beside,
    /// Memory while much is held up.
    Memory,
}

/// One number.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What it is, with its unit: the first one of a scenario is the one that counts.
    pub unit: &'static str,
    /// Its value; not a number if nothing succeeded.
    pub value: f64,
}

impl Figure {
    /// The value with three significant digits.
    pub fn shown(&self) -> String {
        super::print::number(self.value)
    }
}

impl Figures {
    /// How many of the numbers, from the first, belong in a short table.
    pub fn headlines(self) -> usize {
        match self {
            Self::Paced | Self::Idle => 3,
            _ => 1,
        }
    }

    /// Takes the numbers from `report`. Processor time is that of edge and origin together.
    pub fn read(self, report: &Report) -> Vec<Figure> {
        let figure = |unit, value| Figure { unit, value };
        let (usage, latency) = (report.usage, report.latency);
        let requests = report.requests as f64;
        // Nobody in between uses no CPU that could be compared.
        let cpu = if usage.chain_cpu > 0.0 { usage.chain_cpu } else { f64::NAN };
        let each = |unit| figure(unit, cpu * 1e6 / requests);
        // Of nothing there is no latency, nor memory of what did not happen.
        let some = |value: f64| if report.requests > 0 || report.bytes > 0 { value } else { f64::NAN };
        let p50 = figure("us p50", some(latency.p50_us));
        let p99 = figure("us p99", some(latency.p99_us));
        match self {
            Self::Saturated => {
                vec![each("CPU us/request"), figure("requests/s", requests / usage.seconds), p50, p99]
            }
            Self::Paced => vec![each("CPU us/request"), p50, p99],
            Self::Bulk => {
                let gigabytes = report.bytes as f64 / 1e9;
                vec![figure("CPU s/GB", usage.chain_cpu / gigabytes), figure("MB/s", gigabytes * 1e3 / usage.seconds)]
            }
            Self::Transfer => {
                let megabits = report.bytes as f64 * 8e-6;
                vec![
                    figure("Mbit/s", megabits / usage.seconds),
                    figure("CPU s/GB", usage.chain_cpu / report.bytes as f64 * 1e9),
                ]
            }
            Self::Beside => vec![p99, p50, each("CPU us/request")],
            Self::Memory => vec![
                figure("MiB at most", some(usage.memory_peak as f64 / MIB)),
                figure("MiB more", some(usage.memory_after.saturating_sub(usage.memory_before) as f64 / MIB)),
                figure("answers begun", requests),
                figure("GB moved", report.bytes as f64 / 1e9),
            ],
            Self::Connect => vec![each("CPU us/connection"), figure("connections/s", requests / usage.seconds), p50],
            Self::Idle => {
                let grown = usage.memory_after.saturating_sub(usage.memory_before) as f64;
                vec![
                    figure("KiB/connection", grown / 1024.0 / requests),
                    figure("CPU us/s each", usage.chain_cpu * 1e6 / usage.seconds / requests),
                ]
            }
        }
    }
}
