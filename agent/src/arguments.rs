//! The command line.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::decapsulate::Method;
use crate::idle::{Metric, Mix, Service};

/// What `--help` says.
const HELP: &str = "\
sluice-agent - the companion of a real server

Usage: sluice-agent COMMAND [OPTIONS]

Commands:
  run          say how idle this server is, until SIGTERM
  once         say it once on standard output (inetd, xinetd)
  fix          solve the ARP problem for virtual addresses
  unfix        undo exactly what fix, run and decapsulate did
  verify       say whether it is solved; status 0 or 1
  decapsulate  fix, and take packets out of tunnels, until SIGTERM

sluice-agent COMMAND --help says what options there are.

What it says:
  95%          how idle the server is, 0 to 100, and the connection closes. The HTTP port says the
               number alone. A load balancer that understands it gives the server a share of new
               connections to match.
  drain        after SIGTERM: no new connections, please; Sluice keeps those that there are. Said
               for --drain-time at most: until everybody who asks regularly has been told, and the
               service (--ports, --virtual) has had no connections for --settle. A second SIGTERM
               ends at once.

Files:
  /run/sluice-agent/   what was changed on this machine, to be undone

Exit status:
  0 done, 1 refused, failed or not in order, 2 wrong usage
";

/// What `COMMAND --help` says: a sentence, and the options that the command knows.
const COMMANDS: &[(&str, &str, &[&str])] = &[
    (
        "run",
        "Says how idle this server is, until SIGTERM.",
        &[METRIC_HELP, RUN_HELP, FIX_HELP, TUNNEL_HELP],
    ),
    ("once", "Says how idle this server is, once, on standard output.", &[METRIC_HELP]),
    ("fix", "Solves the ARP problem for virtual addresses.", &[FIX_HELP]),
    ("unfix", "Undoes exactly what fix, run and decapsulate did.", &[STATE_HELP]),
    ("verify", "Says whether the ARP problem is solved; status 0 or 1.", &[FIX_HELP]),
    (
        "decapsulate",
        "Solves the ARP problem and takes packets out of tunnels, until SIGTERM.",
        &[FIX_HELP, TUNNEL_HELP],
    ),
];

const METRIC_HELP: &str = "
How idle:
  --metric LIST        what counts: cpu, ram, conns; cpu unless told
  --mix LIST           their shares, such as 50,30,20; equal unless told
  --max-connections N  conns: with so many the server is not idle at all; 1000 unless told
  --ports LIST         conns, and draining: the service's ports; all unless told
";

const RUN_HELP: &str = "
To whom:
  --listen WHERE       a port, ADDRESS:PORT, or stdin for a socket that is already open
                       (systemd, inetd with wait); 3333 unless told
  --http WHERE         a port or ADDRESS:PORT that speaks HTTP besides
  --drain-time TIME    how long to ask for drain before the end, such as 30s or 5m; 30s unless
                       told, 0 for not at all
  --settle TIME        how long no connection is to be seen after everybody was told; 3s unless
                       told
  --decapsulate        take packets out of tunnels besides; this needs --virtual
";

const FIX_HELP: &str = "
The ARP problem:
  --virtual LIST       the virtual addresses; may be given several times
  --device NAME        an interface that the network is on; may be given several times; all with
                       an address unless told
  --state FOLDER       where to note what was changed; /run/sluice-agent unless told
";

const STATE_HELP: &str = "
  --state FOLDER       where was noted what was changed; /run/sluice-agent unless told
";

const TUNNEL_HELP: &str = "
Load balancers and tunnels:
  --from LIST          answer, and take packets from, these addresses alone
  --gue-port N         the port of Generic UDP Encapsulation; 6080 unless told
  --method METHOD      auto: the kernel takes IPv4 out of IPv4 if its driver (ipip) is loaded and
                       net.ipv4.conf.all.rp_filter is 0, else this program; kernel or user:
                       always so
";

/// What is said about a command, or about all.
pub fn help(command: Option<&str>) -> String {
    match COMMANDS.iter().find(|(name, ..)| Some(*name) == command) {
        Some((name, sentence, options)) => {
            let options = options.concat();
            let own = "\n  --help               this page\n";
            format!("{sentence}\n\nUsage: sluice-agent {name} [OPTIONS]\n{options}{own}")
        }
        None => HELP.into(),
    }
}

/// What is wanted.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Say how idle this server is.
    Run(Run),
    /// Say it once.
    Once(Idle),
    /// Solve the ARP problem.
    Fix(Fix),
    /// Undo that.
    Unfix(PathBuf),
    /// Is it solved?
    Verify(Fix),
    /// Take packets out of tunnels.
    Decapsulate(Fix, Tunnels),
    /// Say what can be wanted, of this command or in all.
    Help(Option<String>),
    /// Say which version this is.
    Version,
}

/// How idleness is measured.
#[derive(Debug, PartialEq)]
pub struct Idle {
    /// What counts.
    pub mix: Mix,
    /// Which connections are the service's.
    pub service: Service,
}

/// What the ARP problem is solved for.
#[derive(Debug, PartialEq)]
pub struct Fix {
    /// The virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// The interfaces that were named.
    pub devices: Vec<String>,
    /// Where changes are noted.
    pub state: PathBuf,
}

/// How packets are taken out of tunnels.
#[derive(Debug, PartialEq)]
pub struct Tunnels {
    /// Who may send.
    pub from: Vec<IpAddr>,
    /// The port of Generic UDP Encapsulation.
    pub gue_port: u16,
    /// Who does it.
    pub method: Method,
}

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// On a port of our own.
    At(SocketAddr),
    /// On the socket that standard input is.
    Stdin,
}

/// An agent that goes on.
#[derive(Debug, PartialEq)]
pub struct Run {
    /// How idleness is measured.
    pub idle: Idle,
    /// Where the number is said.
    pub listen: Listen,
    /// Where it is said by HTTP.
    pub http: Option<SocketAddr>,
    /// How long drain is asked for at most.
    pub drain: Duration,
    /// How long no connection is to be seen before the end.
    pub settle: Duration,
    /// What the ARP problem is solved for; nothing if it has no addresses.
    pub fix: Fix,
    /// Whether packets are taken out of tunnels, and how; who may send may also ask.
    pub tunnels: Tunnels,
    /// Whether they are.
    pub decapsulate: bool,
}

/// All options, as far as they were given.
#[derive(Default)]
struct Given(Vec<(String, String)>);

const METRICS: &[&str] = &["metric", "mix", "max-connections", "ports"];
const FIXING: &[&str] = &["virtual", "device", "state"];
const TUNNELS: &[&str] = &["from", "gue-port", "method"];
const RUNNING: &[&str] = &["listen", "http", "drain-time", "settle", "decapsulate"];
/// Those without a value.
const FLAGS: &[&str] = &["decapsulate"];

/// What the words of the command line ask for.
///
/// # Errors
/// A sentence that says what is wrong with them.
pub fn parse(words: &[String]) -> Result<Command, String> {
    let (command, words) = words.split_first().ok_or("which command?")?;
    if words.iter().any(|word| word == "--help" || word == "-h") {
        return Ok(Command::Help(Some(command.clone())));
    }
    let with = |known: &[&[&str]]| Given::read(words, &known.concat());
    match command.as_str() {
        "run" => with(&[METRICS, FIXING, TUNNELS, RUNNING])?.run().map(Command::Run),
        "once" => with(&[METRICS])?.idle().map(Command::Once),
        "fix" => with(&[FIXING])?.fix(true).map(Command::Fix),
        "unfix" => with(&[&["state"]])?.fix(false).map(|it| Command::Unfix(it.state)),
        "verify" => with(&[FIXING])?.fix(true).map(Command::Verify),
        "decapsulate" => {
            let given = with(&[FIXING, TUNNELS])?;
            Ok(Command::Decapsulate(given.fix(true)?, given.tunnels()?))
        }
        "help" | "--help" | "-h" => Ok(Command::Help(None)),
        "version" | "--version" | "-V" => Ok(Command::Version),
        other => Err(format!("there is no command called {other}")),
    }
}

impl Given {
    fn read(words: &[String], known: &[&str]) -> Result<Self, String> {
        let mut given = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let name =
                word.strip_prefix("--").ok_or(format!("expected an option, found {word}"))?;
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            if !known.contains(&name) {
                return Err(format!("there is no option --{name} here"));
            }
            let value = match (value, FLAGS.contains(&name)) {
                (None, true) => String::new(),
                (Some(_), true) => return Err(format!("--{name} takes no value")),
                (Some(value), false) => value,
                (None, false) => {
                    words.next().cloned().ok_or(format!("--{name} expects a value"))?
                }
            };
            given.0.push((name.to_owned(), value));
        }
        Ok(given)
    }

    /// The value given last.
    fn last(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// What `read` makes of each item of all lists of that name.
    fn list<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, String> {
        let values = self.0.iter().filter(|(it, _)| it == name);
        let items = values.flat_map(|(_, value)| value.split(',')).map(str::trim);
        items.map(|item| read(item).ok_or_else(|| refusal(name, expected, item))).collect()
    }

    fn one<T>(
        &self,
        name: &str,
        default: T,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, String> {
        match self.last(name) {
            Some(value) => read(value).ok_or_else(|| refusal(name, expected, value)),
            None => Ok(default),
        }
    }

    fn idle(&self) -> Result<Idle, String> {
        let metric = |word: &str| match word {
            "cpu" => Some(Metric::Cpu),
            "ram" => Some(Metric::Ram),
            "conns" => Some(Metric::Connections),
            _ => None,
        };
        let mut metrics = self.list("metric", "cpu, ram or conns", metric)?;
        if metrics.is_empty() {
            metrics.push(Metric::Cpu);
        }
        let mut shares =
            self.list("mix", "shares of at most 100, such as 50,30,20", |it| number(it, 0, 100))?;
        if shares.is_empty() {
            shares = vec![1; metrics.len()];
        }
        if shares.len() != metrics.len() || shares.iter().sum::<u32>() == 0 {
            return Err(refusal(
                "mix",
                "a share for each metric, and not all of them 0",
                self.last("mix").unwrap_or_default(),
            ));
        }
        let most = self.one("max-connections", 1000, "a number from 1 to 1000000000", |it| {
            number(it, 1, 1_000_000_000)
        })?;
        let ports = self.list("ports", "ports, such as 80,443", port)?;
        let service = Service { ports, addresses: Vec::new(), most };
        Ok(Idle { mix: Mix(metrics.into_iter().zip(shares).collect()), service })
    }

    fn fix(&self, needed: bool) -> Result<Fix, String> {
        let expected = "addresses, such as 10.0.0.100 or 2001:db8::100";
        let addresses = self.list("virtual", expected, address)?;
        if needed && addresses.is_empty() {
            return Err(format!("expected --virtual with {expected}"));
        }
        let device = |name: &str| {
            let plain = !name.is_empty() && name.len() < 16 && name != "." && name != "..";
            let is_part = |letter: char| letter != '/' && !letter.is_whitespace();
            (plain && name.chars().all(is_part)).then(|| name.to_owned())
        };
        Ok(Fix {
            addresses,
            devices: self.list("device", "interfaces, such as eth0", device)?,
            state: self.last("state").unwrap_or("/run/sluice-agent").into(),
        })
    }

    fn tunnels(&self) -> Result<Tunnels, String> {
        let method = |word: &str| match word {
            "auto" => Some(Method::Auto),
            "kernel" => Some(Method::Kernel),
            "user" => Some(Method::User),
            _ => None,
        };
        Ok(Tunnels {
            from: self.list("from", "addresses, such as 10.0.0.2", |text| {
                text.parse().ok().map(|it: IpAddr| it.to_canonical())
            })?,
            gue_port: self.one("gue-port", 6080, "a port", port)?,
            method: self.one("method", Method::Auto, "auto, kernel or user", method)?,
        })
    }

    fn run(&self) -> Result<Run, String> {
        let expected = "a port or an address with one, such as 3333 or 10.0.0.11:3333";
        let listen = |text: &str| match text {
            "stdin" => Some(Listen::Stdin),
            text => place(text).map(Listen::At),
        };
        let usual = Listen::At(any(3333));
        let duration = |name: &str, usual: u64| {
            let expected = "a time of at most 24h, such as 30s or 5m";
            self.one(name, Duration::from_secs(usual), expected, time)
        };
        let fix = self.fix(self.last("decapsulate").is_some())?;
        let mut idle = self.idle()?;
        idle.service.addresses.clone_from(&fix.addresses);
        Ok(Run {
            idle,
            listen: self.one("listen", usual, &format!("{expected}, or stdin"), listen)?,
            http: self.one("http", None, expected, |text| place(text).map(Some))?,
            drain: duration("drain-time", 30)?,
            settle: duration("settle", 3)?,
            fix,
            tunnels: self.tunnels()?,
            decapsulate: self.last("decapsulate").is_some(),
        })
    }
}

fn refusal(name: &str, expected: &str, found: &str) -> String {
    format!("--{name}: expected {expected}, found {found:?}")
}

fn number(text: &str, least: u32, most: u32) -> Option<u32> {
    // `parse` alone would accept a plus sign.
    let plain = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|it| plain && (least..=most).contains(it))
}

fn port(text: &str) -> Option<u16> {
    number(text, 1, u16::MAX.into()).map(|port| port as u16)
}

/// An address that a server can have besides its own.
fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let wrong = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    (!wrong).then_some(address)
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn place(text: &str) -> Option<SocketAddr> {
    port(text).map(any).or_else(|| text.parse().ok())
}

/// `30`, `30s`, `5m` or `1h`.
fn time(text: &str) -> Option<Duration> {
    let (digits, unit) = match text.char_indices().last()? {
        (at, 's') => (&text[..at], 1),
        (at, 'm') => (&text[..at], 60),
        (at, 'h') => (&text[..at], 3600),
        _ => (text, 1),
    };
    let seconds = u64::from(number(digits, 0, 86_400)?) * unit;
    (seconds <= 86_400).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let words: Vec<_> = line.split_ascii_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    fn run(line: &str) -> Run {
        match parsed(line) {
            Ok(Command::Run(run)) => run,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn without_options_it_listens_on_the_port_of_feedback_agents() {
        let usual = run("run");
        assert_eq!(usual.listen, Listen::At("[::]:3333".parse().unwrap()));
        assert_eq!(usual.idle.mix, Mix(vec![(Metric::Cpu, 1)]));
        assert_eq!(usual.http, None);
        assert_eq!((usual.drain, usual.settle), (Duration::from_secs(30), Duration::from_secs(3)));
        assert!(usual.fix.addresses.is_empty() && !usual.decapsulate);
    }

    #[test]
    fn options_are_read_in_both_spellings() {
        let given =
            run("run --listen 10.0.0.11:3334 --metric cpu,ram,conns --mix=50,30,20 --http 8888 \
             --virtual 10.0.0.100 --virtual 2001:db8::100 --ports 80,443 --drain-time 5m \
             --settle 10 --from 10.0.0.2 --decapsulate");
        assert_eq!(given.listen, Listen::At("10.0.0.11:3334".parse().unwrap()));
        assert_eq!(
            given.idle.mix,
            Mix(vec![(Metric::Cpu, 50), (Metric::Ram, 30), (Metric::Connections, 20)])
        );
        assert_eq!(given.idle.service.ports, [80, 443]);
        assert_eq!(given.idle.service.addresses, given.fix.addresses);
        assert_eq!(given.fix.addresses.len(), 2);
        assert_eq!(
            (given.drain, given.settle),
            (Duration::from_secs(300), Duration::from_secs(10))
        );
        assert_eq!(given.tunnels.from, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert!(given.decapsulate);
        assert_eq!(run("run --listen stdin").listen, Listen::Stdin);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_was_expected() {
        for (line, told) in [
            ("", "which command?"),
            ("start", "there is no command called start"),
            ("run 3333", "expected an option, found 3333"),
            ("run --port 3333", "there is no option --port here"),
            ("once --listen 3333", "there is no option --listen here"),
            ("run --listen", "--listen expects a value"),
            ("run --decapsulate=yes", "--decapsulate takes no value"),
            ("run --ports 0", "--ports: expected ports, such as 80,443, found \"0\""),
            ("run --metric disk", "--metric: expected cpu, ram or conns, found \"disk\""),
            (
                "run --metric cpu,ram --mix 50",
                "--mix: expected a share for each metric, and not all of them 0, found \"50\"",
            ),
            (
                "run --drain-time 25h",
                "--drain-time: expected a time of at most 24h, such as 30s or 5m, found \"25h\"",
            ),
            ("fix", "expected --virtual with addresses, such as 10.0.0.100 or 2001:db8::100"),
            (
                "fix --virtual 127.0.0.1",
                "--virtual: expected addresses, such as 10.0.0.100 or 2001:db8::100, \
                 found \"127.0.0.1\"",
            ),
            (
                "fix --virtual 10.0.0.100 --device ../all",
                "--device: expected interfaces, such as eth0, found \"../all\"",
            ),
            (
                "decapsulate --virtual 10.0.0.100 --method socat",
                "--method: expected auto, kernel or user, found \"socat\"",
            ),
        ] {
            assert_eq!(parsed(line), Err(told.into()), "{line}");
        }
    }

    #[test]
    fn the_help_of_a_command_names_the_options_that_it_takes_and_no_others() {
        let all = [METRICS, FIXING, TUNNELS, RUNNING].concat();
        assert_eq!(COMMANDS.len(), 6);
        for (name, ..) in COMMANDS {
            assert!(HELP.contains(&format!("\n  {name} ")), "{name}");
            let text = help(Some(name));
            assert!(text.lines().all(|line| line.len() <= 100));
            for option in &all {
                let refused = parsed(&format!("{name} --{option}"));
                let unknown = refused == Err(format!("there is no option --{option} here"));
                assert_ne!(text.contains(&format!("  --{option} ")), unknown, "{name} --{option}");
            }
        }
        assert!(HELP.lines().all(|line| line.len() <= 100));
        assert_eq!(parsed("run --help"), Ok(Command::Help(Some("run".into()))));
    }

    #[test]
    fn times_are_read_in_every_unit() {
        for (text, seconds) in [("30", 30), ("30s", 30), ("5m", 300), ("1h", 3600), ("0", 0)] {
            assert_eq!(time(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "s", "-1", "+1", "1d", "1.5h", "25h", "99999999999h", "é"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
