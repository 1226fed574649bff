//! Three kinds of load balancing, shown on real HTTP traffic: builds the laboratory, starts Sluice
//! with interfaces alone, publishes three services over HTTPS as an operator would, sends requests
//! from two clients, and prints who was answered by whom. Run by `./dev demo`.

use std::net::{IpAddr, Ipv4Addr};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use sluice_tests::client::Answer;
use sluice_tests::lab::{DIRECT, Lab, TRANSLATED, TUNNELLED};
use sluice_tests::namespace::{remove_laboratory, remove_leftovers};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, direct, nat, tunnel};

/// The laboratory's name, which `--down` finds again.
const NAME: &str = "demo";

const USAGE: &str = "usage: demo [--keep | --down | --leftovers]
  --keep        leave the laboratory up and print how to reach it
  --down        take a kept laboratory down
  --leftovers   remove what killed runs have left";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let keep = match arguments[..] {
        [] => false,
        ["--keep"] => true,
        ["--down"] => return take_down(),
        ["--leftovers"] => {
            for laboratory in remove_leftovers() {
                println!("removed what a killed run left: {laboratory}");
            }
            return ExitCode::SUCCESS;
        }
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("network namespaces are root's: use sudo");
        return ExitCode::FAILURE;
    }
    // What goes wrong is told in one sentence, and everything is taken down on the way out.
    panic::set_hook(Box::new(|why| {
        let text = why.payload_as_str().unwrap_or("for a reason that has no words");
        eprintln!("\nthe demonstration failed: {text}");
    }));
    match panic::catch_unwind(AssertUnwindSafe(|| demonstrate(keep))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn take_down() -> ExitCode {
    match remove_laboratory(NAME) {
        true => println!("the laboratory is taken down"),
        false => println!("there was no laboratory"),
    }
    ExitCode::SUCCESS
}

fn demonstrate(keep: bool) {
    if remove_laboratory(NAME) {
        println!("An earlier laboratory was still up; it is taken down.");
    }
    println!("Making a laboratory: 2 clients, a router, 9 servers with nginx, an appliance ...");
    let lab = Lab::named(NAME);
    println!("Starting Sluice on it, with interfaces and no services ...");
    let rig = Rig::boot_in(lab);

    println!("Publishing three services over HTTPS, with the token of the first start ...");
    let services = publish(&rig);

    println!("Sending 9 requests to each of them ...\n");
    println!(
        "{:<10} {:<4} {:<15} {:<10} {:<7} {:<12} the server was asked at",
        "service", "mode", "address", "client", "server", "server saw"
    );
    services.iter().for_each(|published| show(&rig, published));

    println!("\nWhat the appliance counted:\n");
    let books = rig.books();
    for service in rig.appliance.get("/status")["services"].as_array().expect("three services") {
        for server in service["servers"].as_array().expect("three servers") {
            let name = |of: &serde_json::Value| of["name"].as_str().unwrap_or_default().to_owned();
            let totals = &server["totals"];
            println!(
                "{:<10} {:<5} {:>3} connections {:>4} packets to it {:>4} back through us",
                name(service),
                name(server),
                totals["connections"],
                totals["packets"],
                totals["reply_packets"]
            );
            assert_eq!(totals["connections"], 3, "{}: three connections", name(server));
        }
    }
    println!("\nThe books balance: {books}.");
    finish(rig, keep);
}

struct Published<'a> {
    name: &'static str,
    mode: &'static str,
    address: Ipv4Addr,
    servers: &'a [Server; 3],
    service: Service,
}

fn publish(rig: &Rig) -> [Published<'_>; 3] {
    let services = [
        Published {
            name: "by-return",
            mode: "dr",
            address: DIRECT,
            servers: rig.direct(),
            service: direct("by-return", DIRECT, "80").to_all(rig.direct()),
        },
        Published {
            name: "by-nat",
            mode: "nat",
            address: TRANSLATED,
            servers: rig.translated(),
            service: rig
                .translated()
                .iter()
                .fold(nat("by-nat", TRANSLATED, "80"), |service, server| {
                    service.to_with(server, serde_json::json!({ "port": 8080 }))
                }),
        },
        Published {
            name: "by-tunnel",
            mode: "tun",
            address: TUNNELLED,
            servers: rig.tunnelled(),
            service: tunnel("by-tunnel", TUNNELLED, "80").to_all(rig.tunnelled()),
        },
    ];
    for Published { name, service, .. } in &services {
        let body = service.json().to_string();
        let post = ["-X", "POST", "-H", "Content-Type: application/json", "-d", &body];
        let made = rig.appliance.https_as_operator(&post, "/api/v1/services");
        assert_eq!(made.status, 201, "POST {name}: {}", made.text());
        println!("  POST /api/v1/services {name}: {} Created", made.status);
    }
    services
}

/// Sends nine requests, from two clients in turn, and judges each answer.
fn show(rig: &Rig, published: &Published) {
    let Published { name, mode, address, servers, .. } = published;
    let mut answered = Vec::new();
    for number in 0..9 {
        let client = &rig.lab.clients[number % 2];
        let answers = client.connect(&at(*address, 80), 1);
        let Answer { server, peer, local } = &answers.0[0];
        let verdict = match peer.ip() == IpAddr::from(client.address) {
            true => "",
            false => "  <- not the client's own address",
        };
        println!(
            "{name:<10} {mode:<4} {:<15} {:<10} {server:<7} {:<12} {local}{verdict}",
            at(*address, 80),
            client.address,
            peer.ip()
        );
        assert!(verdict.is_empty(), "{server} saw {peer} instead of {}", client.address);
        answered.push(server.clone());
    }
    for server in servers.iter() {
        let share = answered.iter().filter(|name| **name == server.name).count();
        assert_eq!(share, 3, "{name}: of 9 requests {} answered {share}, not 3", server.name);
    }
}

fn finish(rig: Rig, keep: bool) {
    let Rig { mut appliance, lab } = rig;
    if !keep {
        appliance.stop();
        drop(lab);
        println!("All three behaved. The laboratory is taken down.");
        return;
    }
    let machine = lab.appliance.name().to_owned();
    let client = lab.clients[0].namespace.name().to_owned();
    println!(
        "All three behaved. The laboratory stays up:

  a request       ip netns exec {client} curl http://10.1.0.100/      (.101 NAT, .102 tunnel)
  the API         ip netns exec {machine} curl -k -H \"Authorization: Bearer $(cat {token})\" \\
                      https://127.0.0.1:9443/api/v1/status
  without TLS     curl --unix-socket {socket} http://localhost/api/v1/status
  ctl             {program} ctl --socket {socket} status
  the wire        ip netns exec {machine} tcpdump -ni wan
  a server        ip netns exec sluice-{NAME}-nat1 tcpdump -ni eth0
  the log         {log}
  take it down    ./dev demo --down",
        token = appliance.state().join("admin.token").display(),
        socket = appliance.socket().display(),
        program = sluice_tests::appliance::program().display(),
        log = appliance.log_file().display(),
    );
    appliance.keep();
    lab.keep();
}
