//! Captures: what passed an end, as a pcap file that any tool reads, written by the wire and read back by the judge.
//!
//! Raw IP packets (LINKTYPE_RAW), timestamps in nanoseconds.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::Duration;

/// Of a pcap file with nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Packets are IPv4 or IPv6 without anything before.
const LINKTYPE_RAW: u32 = 101;
/// Longest packet.
const LENGTH_MAX: u32 = 65_535;

/// A capture being written.
#[derive(Debug)]
pub struct Writer(BufWriter<File>);

impl Writer {
    /// Begins a capture.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        for word in [MAGIC, 0x0004_0002, 0, 0, LENGTH_MAX, LINKTYPE_RAW] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self(file))
    }

    /// Adds a packet; `at` is the time since 1970.
    pub fn write(&mut self, at: Duration, packet: &[u8]) -> io::Result<()> {
        let length = u32::try_from(packet.len()).unwrap_or(LENGTH_MAX);
        let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, at.subsec_nanos(), length, length] {
            self.0.write_all(&word.to_le_bytes())?;
        }
        self.0.write_all(packet)
    }

    /// Ends the capture.
    pub fn close(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Reads a capture that [`Writer`] wrote: times since 1970, and packets. One that was cut short ends with its last whole
/// packet.
pub fn read(path: &Path) -> io::Result<Vec<(Duration, Vec<u8>)>> {
    let mut file = BufReader::new(File::open(path)?);
    let mut header = [0; 24];
    file.read_exact(&mut header)?;
    if header[..4] != MAGIC.to_le_bytes() {
        return Err(io::Error::other(format!("{}: no pcap of this program", path.display())));
    }
    let mut packets = Vec::new();
    while let Ok([seconds, nanos, length, _]) = words(&mut file) {
        let mut packet = vec![0; length.min(LENGTH_MAX) as usize];
        if file.read_exact(&mut packet).is_err() {
            break;
        }
        packets.push((Duration::new(seconds.into(), nanos), packet));
    }
    Ok(packets)
}

fn words(file: &mut impl Read) -> io::Result<[u32; 4]> {
    let mut words = [0; 4];
    for word in &mut words {
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes)?;
        *word = u32::from_le_bytes(bytes);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_a_cut_end_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pcap");
        let mut writer = Writer::create(&path).unwrap();
        let packets = [(Duration::new(7, 123_456_789), vec![1, 2, 3]), (Duration::new(8, 0), vec![4; 1_500])];
        for (at, packet) in &packets {
            writer.write(*at, packet).unwrap();
        }
        writer.close().unwrap();
        assert_eq!(read(&path).unwrap(), packets);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(read(&path).unwrap(), packets[..1]);
    }
}
