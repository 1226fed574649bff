//! Bad input is refused by the option's name before anything is opened.

use proptest::prelude::*;

use super::values::duration;
use super::*;

/// What is wrong with a command line, or what it asks for.
fn asked(line: &str) -> Result<Asked, String> {
    let words = std::iter::once("pktgen").chain(line.split(' ').filter(|word| !word.is_empty()));
    let parsed = Pktgen::try_parse_from(words).map_err(|refused| refused.to_string())?;
    parsed.command.asked().map_err(|refused| format!("{refused:#}"))
}

fn refusal(line: &str) -> String {
    asked(line).map(|_| ()).expect_err(line)
}

fn profile(line: &str) -> Profile {
    let asked = asked(line).unwrap_or_else(|refused| panic!("{line}: {refused}"));
    asked.traffic.profile(None, (Mac([1; 6]), Mac([2; 6])))
}

#[test]
fn every_bad_value_is_refused_by_its_option_with_an_example() {
    for (option, value, expected) in [
        ("--rate", "fast", "such as 10k"),
        ("--sizes", "12", "64 to 9234 bytes"),
        ("--flows", "1.5", "a whole number of flows"),
        ("--choice", "zipf:9", "zipf:1.1"),
        ("--protocol", "gre", "tcp, udp or icmp"),
        ("--source", "10.0.0", "such as 198.18.0.1"),
        ("--source-ports", "9-1", "such as 80"),
        ("--destination", "nobody", "such as 198.18.0.1"),
        ("--destination-ports", "http", "such as 80"),
        ("--source-mac", "1:2", "02:00:00:00:00:01"),
        ("--destination-mac", "zz:00:00:00:00:00", "02:00:00:00:00:01"),
        ("--answer", "me", "such as 198.18.0.1"),
        ("--vlan", "4095", "1..=4094"),
        ("--line-rate", "5", "such as 10G"),
        ("--duration", "soon", "such as 10"),
        ("--drain", "-1", "such as 10"),
        ("--frames", "0", "above 0"),
        ("--memory", "tiny", "huge"),
        ("--cores", "x", "invalid digit"),
        ("--mtu", "70000", "65535"),
        ("--gue-port", "70000", "65535"),
        ("--seed", "x", "invalid digit"),
    ] {
        let refused = refusal(&format!("run --port rings {option}={value}"));
        assert!(refused.contains(option) && refused.contains(expected), "{option}: {refused}");
    }
    assert!(refusal("run --port eth1").contains("such as kernel:eth1"));
    assert!(refusal("run").contains("--port"));
    assert!(refusal("run --port rings --nonsense").contains("--nonsense"));
    assert!(
        refusal("replay nosuchfile.pcap --port rings")
            .contains("FILE: nosuchfile.pcap cannot be read")
    );
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    for (line, expected) in [
        ("run --port rings --sizes 1600", "--sizes: expected 64 to 1518 bytes"),
        ("run --port rings --ipv6 --sizes 64", "--sizes: expected 80 to 1518 bytes"),
        ("run --port rings --flows 20M", "--flows: expected 1 to 10000000"),
        (
            "run --port rings --source ::1 --destination 10.0.0.1",
            "--destination: expected an IPv6 address",
        ),
        ("run --port rings --choice new:9k", "--choice: expected new:RATE with at most half"),
        ("run --port rings --rate 2G", "--rate: expected 0.01 to 1G frames"),
        ("run --port rings --port rings", "--port: expected two different"),
        ("run --port rings --cores 0,9999", "--cores: expected cores of this machine"),
        ("rfc2544 throughput --port rings --rate max", "--rate: expected a rate to begin with"),
        ("rfc2544 latency --port rings --at 50%", "--at: expected packets a second"),
        ("run --port kernel:a --answer 10.0.0.1", "--answer: expected a second --port"),
        ("cps --port rings --choice random", "--choice: expected round-robin"),
    ] {
        assert!(refusal(line).starts_with(expected), "{line}: {}", refusal(line));
    }
}

#[test]
fn what_is_not_said_follows_from_what_is() {
    let simple = profile("run --port rings");
    assert_eq!(
        (simple.sizes, simple.source_mac, simple.destination_mac),
        (Sizes::fixed(64), Mac([1; 6]), Mac([2; 6]))
    );
    assert_eq!(profile("run --port rings --ipv6").sizes, Sizes::fixed(80));
    assert!(!profile("run --port rings --destination 2001:db8::1").addresses.is_v4());
    let benchmark = profile("rfc2544 loss --port rings --ipv6 --protocol tcp");
    assert_eq!(benchmark.sizes, Sizes::InTurn(vec![78, 128, 256, 512, 1024, 1280, 1518]));
    assert_eq!(
        profile("rfc2544 loss --port rings --mtu 600").sizes,
        Sizes::InTurn(vec![64, 128, 256, 512])
    );
    let connections = profile("cps --port rings --destination 10.0.0.1 --source 10.0.1.1");
    assert_eq!((connections.protocol, connections.flows), (Protocol::Tcp, 64_512));
}

#[test]
fn times_are_read_as_in_the_appliance() {
    let read = |text: &str| duration(text).unwrap().as_millis();
    assert_eq!(
        ["300", "10s", "500ms", "5m", "1h"].map(read),
        [300_000, 10_000, 500, 300_000, 3_600_000]
    );
    for text in ["", "s", "0", "-1s", "1e3", "10d", "2000h", "1s1"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn every_option_is_in_the_manual() {
    use clap::CommandFactory;

    let manual = include_str!("../../../docs/pktgen.md");
    fn options(command: &clap::Command, found: &mut Vec<(String, String)>) {
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let name = argument.get_long().map(|long| format!("--{long}"));
            found.push((
                command.get_name().into(),
                name.unwrap_or_else(|| argument.get_id().as_str().to_uppercase()),
            ));
        }
        command.get_subcommands().for_each(|command| options(command, found));
    }
    let mut found = vec![];
    options(&Pktgen::command(), &mut found);
    assert!(found.len() > 60, "{}", found.len());
    for (command, option) in found {
        let is_there =
            ["--help", "--version"].contains(&&*option) || manual.contains(&format!("| `{option}"));
        assert!(is_there, "docs/pktgen.md has no line for {option} of {command}");
    }
}

proptest! {
    #[test]
    fn no_command_line_upsets_the_parser(words in prop::collection::vec("(--rate|--sizes|--flows|--choice|--port|--vlan|--duration|rings|run|cps|[ -~]{0,10})", 0..8)) {
        let line = std::iter::once("pktgen".to_owned()).chain(words);
        if let Ok(parsed) = Pktgen::try_parse_from(line) {
            let _ = parsed.command.asked();
        }
    }
}
