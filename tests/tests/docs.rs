//! The pages that operators read, against the finished program: what they show is done, what they name exists, and
//! what exists is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use sluice_tests::appliance::{Appliance, program};
use sluice_tests::capture;
use sluice_tests::decode::Ends;
use sluice_tests::namespace::{Namespace, parse_mac, remove_leftovers};
use sluice_tests::process;

static OPERATING: LazyLock<String> = LazyLock::new(|| page("operating.md"));
static CONFIGURATION: LazyLock<String> = LazyLock::new(|| page("configuration.md"));
static API: LazyLock<String> = LazyLock::new(|| page("api.md"));

/// Virtual devices instead of cards, ordinary memory, and a socket that [`Appliance`] makes its own.
const HERE: &str = "[dataplane]\nmemory = \"plain\"\nflows = 10_000\n\
                    [admin]\nsocket = \"/run/sluice/admin.sock\"\n";

// --------------------------------------------------------------------------------------- the pages

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a part of the workspace")
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).expect("there is such a page")
}

/// Every page: those at the top, and all below `docs`.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    let mut folders = vec![root().join("docs")];
    let mut found = entries(root());
    while let Some(folder) = folders.pop() {
        found.extend(entries(&folder));
        folders.extend(entries(&folder).into_iter().filter(|path| path.is_dir()));
    }
    for path in found.into_iter().filter(|path| path.extension().is_some_and(|it| it == "md")) {
        let text = fs::read_to_string(&path).expect("a page can be read");
        pages.insert(path, text);
    }
    assert!(pages.contains_key(&root().join("docs/operating.md")), "{:?}", pages.keys());
    pages
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the workspace can be read");
    entries.map(|entry| entry.expect("as above").path()).collect()
}

/// A block between fences.
struct Block {
    /// Line of its opening fence, from 1.
    line: usize,
    /// What stands behind the opening fence: a language, and how it is meant.
    info: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (line, text) in (1..).zip(page.lines()) {
        match (text.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                open = Some(Block { line, info: info.trim().into(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{text}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// A page without its blocks.
fn prose(page: &str) -> String {
    let mut inside = false;
    let mut kept = |line: &&str| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    };
    page.lines().filter(|line| kept(line)).map(|line| format!("{line}\n")).collect()
}

/// What stands between backquotes in the prose of a page.
fn code_spans(page: &str) -> Vec<String> {
    prose(page).split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// The rows of tables below the heading that ends in `heading`, up to the next heading; cells without backquotes.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let is_heading = |line: &str| line.starts_with('#');
    let prose = prose(page);
    let below = prose
        .lines()
        .skip_while(|line| !(is_heading(line) && line.trim_start_matches('#').trim() == heading))
        .skip(1)
        .take_while(|line| !is_heading(line));
    let row = |line: &str| -> Vec<String> {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().replace('`', "")).collect()
    };
    let rows: Vec<_> = below.filter(|line| line.starts_with('|')).map(row).skip(2).collect();
    assert!(!rows.is_empty(), "no table below {heading}");
    rows
}

// ------------------------------------------------------------------------------------ the appliance

/// An appliance on a machine of its own, with a configuration as a page shows it.
struct Bench {
    appliance: Appliance,
    namespace: Namespace,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_leftovers();
        }
        let name = format!("{}.docs{number}", std::process::id());
        let namespace = Namespace::new(&name, "appliance");
        let directory = tempfile::tempdir().expect("temporary files can be written");
        let appliance = Appliance::new(&namespace, &directory.path().join("appliance"));
        Self { appliance, namespace, directory }
    }

    /// Runs the configuration that its page begins with, on devices on which nobody speaks.
    fn running() -> Self {
        let mut bench = Self::new();
        let blocks = blocks(&CONFIGURATION);
        let first = blocks.iter().find(|block| block.info == "toml").expect("there is an example");
        let configuration = first
            .text
            .replace("0000:03:00.0", "vdev:net_ring0")
            .replace("0000:03:00.1", "vdev:net_ring1");
        bench.appliance.configure(&format!("{HERE}{configuration}"));
        bench.appliance.start();
        bench
    }

    /// Runs lines of shell in the bench's folder, with files where this appliance has them; every `curl` must
    /// be answered with `status`, or with success.
    fn shell(&self, lines: &str, status: Option<&str>) -> Output {
        let text = |path: PathBuf| path.to_str().expect("paths of ours are text").to_owned();
        let [file, state, socket] =
            [self.appliance.file(), self.appliance.state(), self.appliance.socket()].map(text);
        let lines = lines
            .replace("/etc/sluice/lb.toml", &file)
            .replace("/var/lib/sluice", &state)
            .replace("/run/sluice/admin.sock", &socket);
        let curl = match status {
            None => "command curl --fail-with-body \"$@\"".into(),
            Some(status) => {
                format!(
                    r#"test "$(command curl -o /dev/stderr -w '%{{http_code}}' "$@")" = {status}"#
                )
            }
        };
        let folder = program().parent().expect("a program is in a folder").to_owned();
        let script = format!(
            "set -euo pipefail
             cd {folder}
             PATH={programs}:$PATH
             curl() {{ {curl}; }}
             sluice() {{
                 case \"$*\" in
                 *' --url '*) command sluice \"$@\" ;;
                 *) command sluice \"$1\" --socket {socket} \"${{@:2}}\" ;;
                 esac
             }}
             {lines}",
            folder = self.directory.path().display(),
            programs = folder.display(),
        );
        process::output(self.namespace.command("bash").args(["-c", &script]))
    }
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

fn sluice(arguments: &[&str]) -> Output {
    process::output(Command::new(program()).args(arguments))
}

// ---------------------------------------------------------------------------------------- the tests

#[test]
fn configurations_on_the_pages_are_accepted_and_those_marked_refused_are_refused_line_by_line() {
    let directory = tempfile::tempdir().expect("temporary files can be written");
    let file = directory.path().join("example.toml");
    let mut accepted = 0;
    for (page, text) in pages() {
        for block in blocks(&text).into_iter().filter(|block| block.info.starts_with("toml")) {
            let place = format!("{}:{}", page.display(), block.line);
            fs::write(&file, &block.text).expect("temporary files can be written");
            let output = sluice(&["check", file.to_str().expect("a plain path")]);
            match &*block.info {
                "toml" => {
                    assert!(output.status.success(), "{place}: {}", said(&output));
                    accepted += 1;
                }
                "toml refused" => {
                    assert_eq!(output.status.code(), Some(1), "{place}");
                    let mistakes = String::from_utf8_lossy(&output.stdout).into_owned();
                    let wrong = block.text.lines().filter(|line| line.contains('#')).count();
                    assert_eq!(mistakes.lines().count(), wrong, "{place}: {mistakes}");
                    let by_name =
                        |line: &str| line.contains("not there yet") || line.contains(" yet)");
                    assert!(mistakes.lines().all(by_name), "{place}: {mistakes}");
                }
                other => panic!("{place}: nobody knows what {other} means"),
            }
        }
    }
    assert!(accepted >= 2);
}

#[test]
fn the_commands_on_the_page_of_the_api_do_what_it_says() {
    let mut bench = Bench::running();
    let mut all = String::new();
    let commands = blocks(&API);
    let commands: Vec<_> = commands.iter().filter(|it| it.info.starts_with("sh")).collect();
    assert!(commands.len() > 5);
    for block in commands {
        let marks = block.info.split_once(' ').map(|(_, marks)| marks);
        let status = marks.map(|marks| marks.strip_prefix("status=").expect("status=CODE"));
        let output = bench.shell(&block.text, status);
        all += &said(&output);
        assert!(bench.appliance.runs(), "line {}: {}", block.line, bench.appliance.log());
        let told = said(&output);
        assert!(output.status.success(), "line {}: {}: {told}", block.line, output.status);
    }
    for answer in code_spans(&API).iter().filter(|span| span.starts_with("{\"")) {
        assert!(all.contains(answer.as_str()), "nothing answered {answer}");
    }
    bench.appliance.stop();
}

#[test]
fn the_capture_on_the_operating_page_is_replayed() {
    let bench = Bench::new();
    let all = blocks(&OPERATING);
    let commands = all.iter().position(|block| block.info == "sh replay").expect("it is shown");
    let configuration = all[commands - 1].text.replace(
        "listen = []",
        &format!("listen = []\nsocket = \"{}\"", bench.appliance.socket().display()),
    );
    let folder = bench.directory.path();
    fs::write(folder.join("replay.toml"), configuration).expect("temporary files can be written");
    let connection = |port| Ends {
        macs: ["02:00:00:00:00:10", "02:70:63:61:70:00"].map(parse_mac),
        source: std::net::SocketAddrV4::new([10, 1, 0, 10].into(), port),
        destination: std::net::SocketAddrV4::new([10, 1, 0, 100].into(), 80),
    };
    let frames: Vec<_> = (40_000..40_010).map(|port| connection(port).tcp("S", b"")).collect();
    capture::write(&folder.join("in.pcap"), &frames);
    let output = bench.shell(&all[commands].text, None);
    assert!(output.status.success(), "{}", said(&output));
    let sent = capture::read(&folder.join("out.pcap"));
    assert_eq!(sent.len(), frames.len());
    for (number, frame) in sent.iter().enumerate() {
        let server = ["02:00:00:00:00:21", "02:00:00:00:00:22"][number % 2];
        assert_eq!(frame[..6], parse_mac(server), "frame {number}");
    }
}

#[test]
fn every_drop_reason_metric_and_setting_is_on_its_page_and_no_other() {
    let bench = Bench::running();

    let counters = bench.appliance.get("/counters");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let counted: BTreeMap<String, String> = counters["workers"][0]["drops"]
        .as_array()
        .expect("a worker has drops")
        .iter()
        .map(|drop| (text(&drop["reason"]), text(&drop["explanation"])))
        .collect();
    let shown: BTreeMap<String, String> = rows(&OPERATING, "Drop reasons")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(shown, counted);

    let metrics = bench.appliance.request("GET", "/metrics", None).expect("it answers").text();
    let counted: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let letter = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let page = prose(&OPERATING);
    let shown: BTreeSet<&str> = page
        .match_indices("sluice_")
        .map(|(at, _)| {
            let name = &page[at..];
            name.split(|it| !letter(it)).next().unwrap_or(name)
        })
        .collect();
    assert_eq!(shown, counted);

    let description = bench.appliance.request("GET", "/api/openapi.json", None);
    let description = description.expect("it answers").json();
    for (schema, heading) in [
        ("Node", "`[node]`"),
        ("Dataplane", "`[dataplane]`"),
        ("Admin", "`[admin]`"),
        ("Interface", "`[[interface]]`"),
        ("Route", "`[[route]]`"),
        ("Neighbour", "`[[neighbour]]`"),
        ("Nat", "`[[nat]]`"),
        ("Service", "`[[service]]`"),
        ("Persistence", "`persistence`"),
        ("Timeouts", "`timeouts`"),
        ("Limits", "`limits`"),
        ("Agent", "`agent`"),
        ("Check", "`check`"),
        ("Server", "`[[service.server]]`"),
        ("Alerts", "`[alerts]`"),
        ("Mail", "`[alerts.mail]`"),
        ("Webhook", "`[[alerts.webhook]]`"),
        ("Trigger", "`[[trigger]]`"),
        ("On", "`on`"),
        ("Action", "`do`"),
    ] {
        let known = &description["components"]["schemas"][schema]["properties"];
        let known: BTreeSet<&str> =
            known.as_object().expect(schema).keys().map(String::as_str).collect();
        let rows = rows(&CONFIGURATION, heading);
        let shown: BTreeSet<&str> = rows.iter().flat_map(|row| row[0].split(", ")).collect();
        assert_eq!(shown, known, "{heading}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut followed = 0;
    for (page, text) in &pages {
        let prose = prose(text);
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let place = format!("{}: {target}", page.display());
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let folder = page.parent().expect("a page is in a folder");
            let path = if file.is_empty() { page.clone() } else { folder.join(file) };
            let path = path.canonicalize().unwrap_or_else(|why| panic!("{place}: {why}"));
            if !heading.is_empty() {
                let there = pages.get(&path).unwrap_or_else(|| panic!("{place}: no page"));
                assert!(anchors(there).contains(heading), "{place}: {:?}", anchors(there));
            }
            followed += 1;
        }
    }
    assert!(followed > 20);
}

/// What a page's headings are called in links: letters, digits, hyphens; blanks become hyphens.
fn anchors(page: &str) -> BTreeSet<String> {
    let anchor = |line: &str| -> String {
        let kept = |letter: &char| letter.is_alphanumeric() || "-_ ".contains(*letter);
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        heading.chars().filter(kept).map(|it| if it == ' ' { '-' } else { it }).collect()
    };
    prose(page).lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

/// A command of a program, as its `--help` describes it.
struct Help {
    options: BTreeSet<String>,
    commands: BTreeMap<String, Help>,
}

impl Help {
    /// `name` is that of a program that is built together with the appliance.
    fn of(name: &str, path: &[&str]) -> Self {
        let program = program().with_file_name(name);
        let output = process::output(Command::new(program).args(path).arg("--help"));
        assert!(output.status.success(), "{path:?}: {}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let options = text.lines().flat_map(str::split_whitespace).filter_map(option).collect();
        let commands = text
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| line.starts_with("  "))
            .filter_map(|line| line.split_whitespace().next().filter(|_| !line.starts_with("   ")))
            .filter(|name| *name != "help")
            .map(|command| (command.to_owned(), Self::of(name, &[path, &[command]].concat())))
            .collect();
        Self { options, commands }
    }

    fn has_anywhere(&self, option: &str) -> bool {
        self.options.contains(option) || self.commands.values().any(|it| it.has_anywhere(option))
    }
}

/// `--json` of `--json`, `--json,` or `--json=x`.
fn option(word: &str) -> Option<String> {
    let name = word.trim_start_matches(['[', '(']).strip_prefix("--")?;
    let letters = name.split(|it: char| !it.is_ascii_lowercase() && it != '-').next()?;
    (!letters.is_empty()).then(|| format!("--{letters}"))
}

#[test]
fn every_command_has_help_and_the_pages_name_no_command_or_option_that_it_lacks() {
    let programs = ["sluice", "pktgen", "sluice-agent"].map(|name| (name, Help::of(name, &[])));
    let help = |name: &str| programs.iter().find(|it| it.0 == name).map(|it| &it.1);
    let mut judged = 0;
    for (page, text) in pages() {
        // On a program's own page an option that stands alone is that program's.
        let own = page.file_stem().and_then(|name| match name.to_str()? {
            "agent" => help("sluice-agent"),
            name => help(name),
        });
        let mut lines: Vec<String> = code_spans(&text);
        for block in blocks(&text) {
            if block.info.starts_with("sh") || block.info == "console" {
                lines.extend(block.text.replace("\\\n", " ").lines().map(str::to_owned));
            }
        }
        for line in &lines {
            let place = format!("{}: {line}", page.display());
            if let Some(option) = option(line) {
                let program = own.or_else(|| help("sluice")).expect("it is there");
                assert!(program.has_anywhere(&option), "{place}");
            }
            let words: Vec<_> = line
                .split_whitespace()
                .take_while(|word| *word != "#" || line.starts_with('#'))
                .collect();
            let start = words.iter().position(|word| help(word).is_some());
            let Some(start) =
                start.filter(|start| words[..*start].iter().all(|it| may_precede(it)))
            else {
                continue;
            };
            judged += 1;
            let mut command = help(words[start]).expect("it has been looked for");
            for (number, word) in words[start + 1..].iter().enumerate() {
                if let Some(option) = option(word) {
                    assert!(command.options.contains(&option), "{place}: {option}");
                } else if let Some(next) = command.commands.get(*word) {
                    command = next;
                } else {
                    assert!(number > 0 || word.starts_with('-'), "{place}: {word}");
                }
            }
        }
    }
    assert!(judged > 20, "{judged}");
}

/// What may stand before a program of ours on a command line: a prompt, and a program that starts another.
fn may_precede(word: &str) -> bool {
    ["$", "#", "timeout", "--preserve-status"].contains(&word) || word.parse::<u32>().is_ok()
}
