//! How idle this server is, in percent: processors, memory, connections, or a mix of them (AG-06).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// What counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Time of the processors that nobody used.
    Cpu,
    /// Memory that is available.
    Ram,
    /// Connections that there is room for.
    Connections,
}

/// Several metrics, each with its share; the shares need not make a hundred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix(pub Vec<(Metric, u32)>);

/// A state of TCP as the kernel's tables have it (`net/tcp_states.h`).
const ESTABLISHED: &str = "01";
/// Those in which bytes may still be under way to a client: ESTABLISHED, SYN_RECV, FIN_WAIT1, CLOSE_WAIT,
/// LAST_ACK and CLOSING.
const ALIVE: &[&str] = &[ESTABLISHED, "03", "04", "08", "09", "0B"];

/// Which connections are counted, and how many there may be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// To these ports; all if there are none.
    pub ports: Vec<u16>,
    /// To these addresses; all if there are none.
    pub addresses: Vec<IpAddr>,
    /// With so many the server is not idle at all.
    pub most: u32,
}

impl Service {
    /// Whether it is known which connections are the service's.
    pub fn is_known(&self) -> bool {
        !self.ports.is_empty() || !self.addresses.is_empty()
    }

    /// How many connections there are now.
    pub fn connections(&self, proc: &Path) -> u32 {
        let count = lines(proc).filter(|line| self.counts(line, &[ESTABLISHED])).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Whether something could still be lost by an end of the service.
    pub fn has_connections(&self, proc: &Path) -> bool {
        lines(proc).any(|line| self.counts(&line, ALIVE))
    }

    /// Whether a line of the kernel's table is a connection to the service in one of these states.
    fn counts(&self, line: &str, states: &[&str]) -> bool {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (Some(local), Some(state)) = (columns.next(), columns.nth(1)) else { return false };
        if !states.contains(&state) {
            return false;
        }
        let Some((address, port)) = local.split_once(':') else { return false };
        let Ok(port) = u16::from_str_radix(port, 16) else { return false };
        let Some(address) = table_address(address) else { return false };
        (self.ports.is_empty() || self.ports.contains(&port))
            && (self.addresses.is_empty() || self.addresses.contains(&address))
    }
}

/// The kernel's tables of TCP connections.
fn lines(proc: &Path) -> impl Iterator<Item = String> {
    let files = ["tcp", "tcp6"].map(|name| File::open(proc.join("net").join(name)));
    let read = |file| BufReader::new(file).lines().map_while(Result::ok);
    files.into_iter().flatten().flat_map(read)
}

/// An address as the kernel's tables have it: words of 32 bits, each in the host's own order.
fn table_address(text: &str) -> Option<IpAddr> {
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(text)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (place, chunk) in bytes.chunks_exact_mut(4).zip(0..) {
                place.copy_from_slice(&word(text.get(chunk * 8..chunk * 8 + 8)?)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Fewer ticks than these say nothing.
const LEAST: u64 = 10;

/// Time that the processors have spent, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    idle: u64,
    all: u64,
}

impl Times {
    /// From the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; what
    /// guests used is a part of user.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Option<Vec<u64>> =
            line.split_ascii_whitespace().take(8).map(|ticks| ticks.parse().ok()).collect();
        let ticks = ticks.filter(|ticks| ticks.len() >= 4)?;
        let waiting = ticks.get(4).copied().unwrap_or_default();
        Some(Self { idle: ticks[3] + waiting, all: ticks.iter().sum() })
    }

    /// The idle share since `earlier`, if enough time has passed to speak of.
    fn share_since(self, earlier: Self) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|&all| all >= LEAST)?;
        // The kernel may take idle time back.
        Some(self.idle.saturating_sub(earlier.idle) as f64 / all as f64)
    }
}

/// The share of memory that is available.
fn available(meminfo: &str) -> Option<f64> {
    let size = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<f64>().ok()
    };
    let all = size("MemTotal:").filter(|&all| all > 0.0)?;
    Some(size("MemAvailable:")? / all)
}

/// Looks at the kernel's figures from time to time.
#[derive(Debug)]
pub struct Sampler<'p> {
    mix: Mix,
    service: Service,
    proc: &'p Path,
    before: Option<Times>,
    cpu: f64,
}

impl<'p> Sampler<'p> {
    /// With a first look, so that the second already has a time to speak of. Until then the processors count
    /// as busy as they have been since the machine's start.
    pub fn new(mix: Mix, service: Service, proc: &'p Path) -> Self {
        let mut sampler = Self { mix, service, proc, before: None, cpu: 1.0 };
        let start = Times { idle: 0, all: 0 };
        sampler.before = sampler.times();
        sampler.cpu = sampler.before.and_then(|now| now.share_since(start)).unwrap_or(1.0);
        sampler
    }

    /// How idle the server is, 0 to 100; of the processors, since the look before. What cannot be read counts
    /// as idle: this agent never talks a server down for its own faults.
    pub fn idle(&mut self) -> u8 {
        if let Some(now) = self.times() {
            let before = self.before.unwrap_or(now);
            match now.share_since(before) {
                Some(share) => {
                    self.cpu = share;
                    self.before = Some(now);
                }
                // The first look, or a processor has gone and taken its time with it.
                None if now.all <= before.all => self.before = Some(now),
                None => {}
            }
        }
        let parts: Vec<_> =
            self.mix.0.iter().map(|&(metric, share)| (self.share(metric), share)).collect();
        mixed(&parts)
    }

    fn share(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Cpu => self.cpu,
            Metric::Ram => {
                let text = std::fs::read_to_string(self.proc.join("meminfo"));
                text.ok().and_then(|text| available(&text)).unwrap_or(1.0)
            }
            Metric::Connections => {
                let count = self.service.connections(self.proc);
                1.0 - f64::from(count) / f64::from(self.service.most.max(1))
            }
        }
    }

    fn times(&self) -> Option<Times> {
        let stat = std::fs::read_to_string(self.proc.join("stat")).ok()?;
        Times::parse(&stat)
    }
}

/// The mean of shares by their weights, in percent.
fn mixed(parts: &[(f64, u32)]) -> u8 {
    let all: f64 = parts.iter().map(|&(_, weight)| f64::from(weight)).sum();
    let sum: f64 =
        parts.iter().map(|&(idle, weight)| idle.clamp(0.0, 1.0) * f64::from(weight)).sum();
    match all > 0.0 {
        true => (100.0 * sum / all).round().clamp(0.0, 100.0) as u8,
        false => 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_as_idle_as_they_have_been_since_the_look_before() {
        let before = Times::parse("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3 4\n").unwrap();
        assert_eq!(before, Times { idle: 800, all: 1000 });
        let now = Times::parse("cpu  190 0 100 705 105 0 0 0 140 0\n").unwrap();
        assert_eq!(now.share_since(before), Some(0.1));
        assert_eq!(now.share_since(now), None, "no time has passed");
        assert_eq!(before.share_since(now), None, "time does not go back");
        for wrong in ["", "cpu", "cpu  1 2 3", "cpu  a b c d", "intr 1 2 3 4"] {
            assert_eq!(Times::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn memory_is_as_idle_as_it_is_available() {
        assert_eq!(
            available("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"),
            Some(0.25)
        );
        assert_eq!(available("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        assert_eq!(available("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn connections_of_the_service_are_counted_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("net")).unwrap();
        let header = "  sl  local_address rem_address   st\n";
        // 10.0.0.100:80 established, 10.0.0.11:80 established, 10.0.0.11:22 established, *:80 listening.
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let line = |number: u8, address: [u8; 4], port: u16, state: &str| {
            format!("  {number}: {}:{port:04X} {}:9C40 {state} 0:0\n", word(address), word([9; 4]))
        };
        let table = [
            line(0, [10, 0, 0, 100], 80, "01"),
            line(1, [10, 0, 0, 11], 80, "01"),
            line(2, [10, 0, 0, 11], 22, "01"),
            line(3, [0; 4], 80, "0A"),
        ];
        std::fs::write(folder.path().join("net/tcp"), header.to_owned() + &table.concat()).unwrap();
        let mapped = word([0, 0, 0xff, 0xff]);
        let six = format!(
            "  0: {0}{0}{mapped}{1}:0050 {0}{0}{mapped}{1}:9C40 01 0:0\n  garbage\n  1: zz:0050 x 01\n",
            word([0; 4]),
            word([10, 0, 0, 100])
        );
        std::fs::write(folder.path().join("net/tcp6"), header.to_owned() + &six).unwrap();
        let count = |ports: &[u16], addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            Service { ports: ports.to_vec(), addresses, most: 10 }.connections(folder.path())
        };
        assert_eq!(count(&[], &[]), 4);
        assert_eq!(count(&[80], &[]), 3);
        assert_eq!(count(&[80], &["10.0.0.100"]), 2);
        assert_eq!(count(&[443], &[]), 0);
        let service = Service { ports: vec![80], addresses: Vec::new(), most: 10 };
        let mix = Mix(vec![(Metric::Connections, 1)]);
        assert_eq!(Sampler::new(mix, service, folder.path()).idle(), 70);
    }

    #[test]
    fn a_mix_is_the_mean_by_shares() {
        assert_eq!(mixed(&[(0.5, 50), (1.0, 30), (0.0, 20)]), 55);
        assert_eq!(mixed(&[(0.92, 1)]), 92);
        assert_eq!(mixed(&[(-3.0, 1)]), 0, "more connections than there may be");
        assert_eq!(mixed(&[(2.0, 1)]), 100);
        assert_eq!(mixed(&[]), 100);
    }

    #[test]
    fn what_cannot_be_read_counts_as_idle() {
        let mix = Mix(vec![(Metric::Cpu, 1), (Metric::Ram, 1), (Metric::Connections, 1)]);
        let service = Service { most: 10, ..Service::default() };
        assert_eq!(Sampler::new(mix, service, Path::new("/nowhere")).idle(), 100);
    }

    #[test]
    fn this_machine_has_figures() {
        let proc = Path::new("/proc");
        let stat = std::fs::read_to_string("/proc/stat").unwrap();
        assert!(Times::parse(&stat).is_some_and(|times| times.all > 0));
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        assert!(available(&meminfo).is_some_and(|share| share > 0.0 && share < 1.0));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = Service { ports: vec![port], ..Service::default() };
        // The kernel may list a connection twice, or not at all, while others come and go.
        let is_seen = |expected| (0..100).any(|_| service.connections(proc) == expected);
        assert!(is_seen(0));
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(is_seen(1));
    }
}
