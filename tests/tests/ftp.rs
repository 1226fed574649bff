//! FTP, whose data connections are announced inside the control connection: real vsftpd, real curl.

use std::fs;
use std::net::IpAddr;

use serde_json::json;
use sluice_tests::capture::Capture;
use sluice_tests::client::Client;
use sluice_tests::decode::packets;
use sluice_tests::lab::{APPLIANCE, DIRECT, PROXIED, TRANSLATED, both};
use sluice_tests::process::eventually;
use sluice_tests::rig::Rig;
use sluice_tests::server::{Server, large};
use sluice_tests::service::{direct, nat, snat};

sluice_tests::cases! {
    on boot;
    by_nat_every_kind_of_data_connection_works_and_is_announced_at_the_virtual_address,
    by_snat_every_kind_of_data_connection_works_and_comes_from_us,
    by_nat_active_data_comes_from_the_virtual_address,
    without_the_helper_data_connections_do_not_come_about,
    one_service_for_all_ports_works_by_direct_return,
    with_the_control_port_alone_active_data_comes_straight_from_the_server,
    many_transfers_at_once_are_told_apart,
}

/// The third direct server sends active data from its own address, whichever it is asked on.
fn boot() -> Rig {
    let mut rig = Rig::boot();
    let lab = &mut rig.lab;
    lab.translated.iter_mut().for_each(Server::serve_ftp);
    lab.direct[..2].iter_mut().for_each(Server::serve_ftp);
    lab.direct[2].serve_ftp_from_own_address(DIRECT);
    lab.tunnelled[0].serve_ftp();
    rig
}

/// curl's words for a kind of data connection, and how the server or the client announces it.
type Kind = (&'static [&'static str], &'static str);

const PASV: Kind = (&["--ftp-pasv", "--disable-epsv", "--no-ftp-skip-pasv-ip"], "< 227 ");
const EPSV: Kind = (&["--ftp-pasv"], "< 229 ");
const PORT: Kind = (&["--ftp-port", "-", "--disable-eprt"], "> PORT ");
const EPRT: Kind = (&["--ftp-port", "-"], "> EPRT ");

fn kinds(address: IpAddr) -> &'static [Kind] {
    match address {
        IpAddr::V4(_) => &[PASV, EPSV, PORT, EPRT],
        IpAddr::V6(_) => &[EPSV, EPRT], // RFC 2428: the others have no room for its addresses
    }
}

fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Lists, downloads and uploads by `kind`; what curl told about it.
fn transfers(client: &Client, to: IpAddr, kind: Kind, servers: &[&Server], name: &str) -> String {
    let (host, (arguments, announcement)) = (host(to), kind);
    let list = client.curl(&[arguments, &[&format!("ftp://{host}/")]].concat());
    let listed = String::from_utf8_lossy(&list.stdout);
    let told = String::from_utf8_lossy(&list.stderr);
    assert!(listed.contains("large") && listed.contains("upload"), "{name}: {listed}{told}");

    let down = client.curl(&[arguments, &["-v", &format!("ftp://{host}/large")]].concat());
    let told = String::from_utf8_lossy(&down.stderr).into_owned();
    assert!(down.status.success(), "{name}: {told}");
    assert!(down.stdout == large(), "{name}: it arrives byte for byte");
    assert!(told.contains(announcement), "{name}: {told}");

    let file = tempfile::NamedTempFile::new().expect("temporary files can be written");
    fs::write(file.path(), large()).expect("as above");
    let path = file.path().to_str().expect("a plain path");
    let there = format!("ftp://{host}/upload/{name}");
    let up = client.curl(&[arguments, &["-T", path, &there]].concat());
    assert!(up.status.success(), "{name}: {}", String::from_utf8_lossy(&up.stderr));
    let arrived = servers.iter().find_map(|server| server.uploaded_by_ftp(name));
    assert!(arrived == Some(large()), "{name}: it arrives byte for byte");
    told
}

/// VS-06, NAT-05.
fn by_nat_every_kind_of_data_connection_works_and_is_announced_at_the_virtual_address(
    rig: &mut Rig,
) {
    for address in both(TRANSLATED) {
        let server = &rig.translated()[0];
        rig.serve([&nat("ftp", address, "21").to(server)]);
        for kind in kinds(address) {
            let family = if address.is_ipv4() { "four" } else { "six" };
            let name = format!("nat-{family}-{}", kind.1.trim_matches(['<', '>', ' ']));
            let told = transfers(rig.client(), address, *kind, &[server], &name);
            if *kind == PASV {
                assert!(told.contains("(10,1,0,101,"), "it names the virtual address: {told}");
            }
        }
    }
    assert_eq!(rig.books().dropped("no_flow"), 0);
}

/// The client's own announcement has to name us.
fn by_snat_every_kind_of_data_connection_works_and_comes_from_us(rig: &mut Rig) {
    for address in both(PROXIED) {
        let server = &rig.tunnelled()[0];
        rig.serve([&snat("ftp", address, "21").to(server)]);
        for (number, kind) in kinds(address).iter().enumerate() {
            let family = if address.is_ipv4() { "four" } else { "six" };
            transfers(rig.client(), address, *kind, &[server], &format!("snat-{family}-{number}"));
        }
    }
    let capture = Capture::start(&rig.tunnelled()[0].namespace, Server::LEG, "ip and tcp");
    rig.serve([&snat("ftp", PROXIED, "21").to(&rig.tunnelled()[0])]);
    transfers(rig.client(), PROXIED.into(), PORT, &[&rig.tunnelled()[0]], "snat-seen");
    for packet in packets(&capture.until("some packets", |frames| frames.len() > 100)) {
        let ends = [packet.source_address(), packet.destination_address()];
        assert!(ends.contains(&APPLIANCE.into()), "the server meets us alone: {packet:?}");
    }
}

fn by_nat_active_data_comes_from_the_virtual_address(rig: &mut Rig) {
    let server = &rig.translated()[1];
    rig.serve([&nat("ftp", TRANSLATED, "21").to(server)]);
    let capture = Capture::start(&rig.client().namespace, Client::LEG, "ip and tcp");
    transfers(rig.client(), TRANSLATED.into(), PORT, &[server], "nat-active");
    let frames = capture.until("some packets", |frames| frames.len() > 100);
    let mut opened = 0;
    for packet in packets(&frames) {
        let ends = [packet.source_address(), packet.destination_address()];
        assert!(ends.contains(&TRANSLATED.into()), "the client meets it alone: {packet:?}");
        let header = packet.tcp().expect("only TCP is captured");
        if header.syn && !header.ack && packet.source_address() == TRANSLATED {
            assert_eq!(header.source_port, 20);
            opened += 1;
        }
    }
    assert!(opened >= 3, "a list, a download and an upload");
}

fn without_the_helper_data_connections_do_not_come_about(rig: &mut Rig) {
    let server = &rig.translated()[0];
    rig.serve([&nat("ftp", TRANSLATED, "21").with("helper", "none").to(server)]);
    let url = format!("ftp://{TRANSLATED}/name");
    let arguments = [PASV.0, &["--connect-timeout", "2", &url]].concat();
    assert!(!rig.client().curl(&arguments).status.success());
}

/// VS-05: control and data ports in one service, and clients that return to their server.
fn one_service_for_all_ports_works_by_direct_return(rig: &mut Rig) {
    let servers: Vec<&Server> = rig.direct()[..2].iter().collect();
    for address in both(DIRECT) {
        let service = direct("ftp", address, "20,21,50000:50100")
            .persistent(json!({ "timeout": "15m" }))
            .to_all(servers.iter().copied());
        rig.serve([&service]);
        for (number, kind) in kinds(address).iter().enumerate() {
            for (who, client) in rig.lab.clients.iter().enumerate() {
                let family = if address.is_ipv4() { "four" } else { "six" };
                let name = format!("dr-{family}-{number}-{who}");
                transfers(client, address, *kind, &servers, &name);
            }
        }
    }
}

/// VS-07.
fn with_the_control_port_alone_active_data_comes_straight_from_the_server(rig: &mut Rig) {
    let server = &rig.direct()[2];
    rig.serve([&direct("ftp", DIRECT, "21").to(server)]);
    let filter = format!("tcp and src {}", server.address);
    let capture = Capture::start(&rig.client().namespace, Client::LEG, &filter);
    transfers(rig.client(), DIRECT.into(), PORT, &[server], "dr-active");
    capture.until("data from the server's own address", |frames| frames.len() > 100);
}

fn many_transfers_at_once_are_told_apart(rig: &mut Rig) {
    rig.serve([&nat("ftp", TRANSLATED, "21").to_all(rig.translated())]);
    std::thread::scope(|scope| {
        for client in &rig.lab.clients {
            for number in 0..10 {
                scope.spawn(move || {
                    let kind = [PASV, EPSV, PORT, EPRT][number % 4];
                    let url = format!("ftp://{TRANSLATED}/large");
                    let down = client.curl(&[kind.0, &[&url]].concat());
                    let told = String::from_utf8_lossy(&down.stderr);
                    assert!(down.stdout == large(), "{number}: {told}");
                });
            }
        }
    });
    // Each server had its turn.
    let told = eventually(std::time::Duration::from_secs(1), || {
        let url = format!("ftp://{TRANSLATED}/name");
        let names = [0, 1, 2].map(|_| rig.client().curl(&[&url]).stdout);
        let different: std::collections::BTreeSet<_> = names.into_iter().collect();
        (different.len() == 3).then_some(())
    });
    told.expect("three servers in turn");
}
