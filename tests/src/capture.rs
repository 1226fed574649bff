//! What was on a wire: tcpdump writes it down, and this reads and writes its files.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::process::{Background, eventually};

/// tcpdump, running on one interface.
pub struct Capture {
    file: PathBuf,
    tcpdump: Background,
    place: String,
    _directory: tempfile::TempDir,
}

impl Capture {
    /// Starts to write down every frame that `interface` of `namespace` sends or receives and that
    /// `filter` (in tcpdump's language; empty for all) lets through. Returns once it listens.
    ///
    /// # Panics
    /// If tcpdump does not start.
    pub fn start(namespace: &Namespace, interface: &str, filter: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary files can be written");
        let file = directory.path().join("capture.pcap");
        let mut command = namespace.command("tcpdump");
        command.args(["-i", interface, "-n", "-U", "--immediate-mode", "-B16384", "-s0"]);
        command.args(["-Z", "root", "-w"]).arg(&file);
        if !filter.is_empty() {
            command.arg(filter);
        }
        let mut tcpdump = Background::start(command.stderr(Stdio::piped()));
        let said = tcpdump.child().stderr.take().expect("its standard error is a pipe");
        let mut lines = BufReader::new(said).lines().map_while(Result::ok);
        let place = format!("{interface} of {}", namespace.name());
        let listens = lines.any(|line| line.contains("listening on"));
        assert!(listens, "tcpdump did not start on {place}");
        // Read on, or tcpdump could stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { file, tcpdump, place, _directory: directory }
    }

    /// The frames so far.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        frames(&fs::read(&self.file).unwrap_or_default())
    }

    /// Waits until the frames so far satisfy `condition`, stops, and returns them all.
    ///
    /// # Panics
    /// If that takes more than 10 s.
    pub fn until(mut self, what: &str, condition: impl Fn(&[Vec<u8>]) -> bool) -> Vec<Vec<u8>> {
        let satisfied = || condition(&self.frames()).then_some(());
        let there = eventually(Duration::from_secs(10), satisfied).is_some();
        let frames = self.frames();
        assert!(there, "10 s, {} frames on {} and still not: {what}", frames.len(), self.place);
        // What belongs to the last frame, such as its acknowledgement, is still on its way.
        let mut last = frames.len();
        eventually(Duration::from_secs(1), || {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.frames().len();
            (std::mem::replace(&mut last, now) == now).then_some(())
        });
        self.tcpdump.signal(Signal::SIGINT);
        self.tcpdump.stop();
        self.frames()
    }
}

/// The frames in a capture file. A last record that is not whole yet is left out.
pub fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let Some(mut rest) = file.get(24..) else { return frames };
    // Written on this machine or by our own program, hence in its byte order.
    while let Some((header, after)) = rest.split_first_chunk::<16>() {
        let [.., a, b, c, d, _, _, _, _] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(frame) = after.get(..length) else { break };
        frames.push(frame.to_vec());
        rest = &after[length..];
    }
    frames
}

/// Reads the frames of a finished capture file.
///
/// # Panics
/// If there is no such file, it is not a capture, or its last record is not whole.
pub fn read(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let magic = file.first_chunk::<4>().map(|magic| u32::from_ne_bytes(*magic));
    assert!(
        matches!(magic, Some(0xa1b2_c3d4 | 0xa1b2_3c4d)),
        "{} is not a capture file: {magic:x?}",
        path.display()
    );
    let frames = frames(&file);
    let length = 24 + frames.iter().map(|frame| 16 + frame.len()).sum::<usize>();
    assert_eq!(file.len(), length, "{} ends in the middle of a record", path.display());
    frames
}

/// Writes `frames` to a capture file, a millisecond apart.
///
/// # Panics
/// If the file cannot be written.
pub fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_ne_bytes()); // version 2.4 is two halves of a word; 1 is Ethernet
    }
    for (number, frame) in frames.iter().enumerate() {
        let (seconds, micros) = (number / 1000, number % 1000 * 1000);
        for word in [seconds, micros, frame.len(), frame.len()] {
            bytes.extend((word as u32).to_ne_bytes());
        }
        bytes.extend(frame);
    }
    fs::File::create(path)
        .and_then(|mut file| file.write_all(&bytes))
        .unwrap_or_else(|why| panic!("{}: {why}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().expect("temporary files can be written");
        let path = directory.path().join("x.pcap");
        let written = vec![vec![1; 60], vec![2; 1514], vec![]];
        write(&path, &written);
        assert_eq!(read(&path), written);
    }

    #[test]
    fn a_record_that_is_not_whole_yet_is_left_out() {
        let directory = tempfile::tempdir().expect("temporary files can be written");
        let path = directory.path().join("x.pcap");
        write(&path, &[vec![1; 60], vec![2; 60]]);
        let file = fs::read(&path).expect("just written");
        assert_eq!(frames(&file[..file.len() - 1]), [vec![1; 60]]);
        assert_eq!(frames(&file[..10]), Vec::<Vec<u8>>::new());
    }
}
