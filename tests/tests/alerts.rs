//! Who is told of a server that fails: a real mail server puts the mails into files, and a receiver gets the
//! events, through the data ports and through the kernel.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::unistd::User;
use serde_json::{Value, json};
use sluice_tests::lab::{APPLIANCE, TRANSLATED, ipv6};
use sluice_tests::namespace::Namespace;
use sluice_tests::process::{self, Background, eventually};
use sluice_tests::rig::{Rig, at};
use sluice_tests::service::nat;
use tempfile::TempDir;

sluice_tests::cases! {
    each_change_is_one_mail_to_those_who_read_of_its_service_and_one_event_for_receivers,
}

const PATIENCE: Duration = Duration::from_secs(30);
/// Where the servers are asked whether they are well.
const CHECKED: u16 = 8099;

/// Exim, and the mailboxes of two people.
struct Exim {
    folder: TempDir,
    _program: Background,
}

impl Exim {
    fn start(machine: &Namespace) -> Self {
        let folder = tempfile::Builder::new().prefix("exim").tempdir().expect("there is room");
        // It gives up root's rights, and still comes here.
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        let spool = folder.path().join("spool");
        fs::create_dir(&spool).expect("there is room");
        let user = User::from_name("Debian-exim").expect("users can be looked up");
        let user = user.expect("exim is installed");
        chown(&spool, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("we are root");
        let spool = spool.display();
        let router = |name| {
            format!("{name}:\n driver = accept\n local_parts = {name}\n transport = {name}\n")
        };
        let transport = |name| {
            format!("{name}:\n driver = appendfile\n file = {spool}/{name}\n user = Debian-exim\n")
        };
        let text = format!(
            "primary_hostname = mail.test\nspool_directory = {spool}\n\
             log_file_path = {spool}/log-%slog\npid_file_path = {spool}/pid\n\
             host_lookup =\nrfc1413_hosts =\nkeep_environment =\nacl_smtp_rcpt = rcpt\n\
             begin acl\nrcpt:\n accept domains = example.org\n deny\n\
             begin routers\n{}{}begin transports\n{}{}",
            router("admin"),
            router("shop"),
            transport("admin"),
            transport("shop"),
        );
        let file = folder.path().join("exim.conf");
        fs::write(&file, text).expect("there is room");
        let mut exim = machine.command("exim4");
        exim.arg("-bdf").arg("-C").arg(&file).args(["-oX", "25"]);
        process::say_to(&mut exim, &folder.path().join("output"));
        let program = Background::start(&mut exim);
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 25));
        let listens = || machine.enter(|| TcpStream::connect(to)).ok();
        assert!(eventually(PATIENCE, listens).is_some(), "{}", said(folder.path()));
        Self { folder, _program: program }
    }

    /// The mails in somebody's mailbox that have this subject.
    fn mails(&self, reader: &str, subject: &str) -> Vec<String> {
        let all = fs::read_to_string(self.folder.path().join("spool").join(reader));
        let all = all.unwrap_or_default().replace("=\n", ""); // long lines are folded
        let has = |mail: &&str| mail.lines().any(|line| line == format!("Subject: {subject}"));
        all.split("\nFrom ").filter(has).map(str::to_owned).collect()
    }

    fn waits_for(&self, reader: &str, subject: &str) -> String {
        let came = eventually(PATIENCE, || self.mails(reader, subject).pop());
        came.unwrap_or_else(|| panic!("no {subject:?}: {}", said(self.folder.path())))
    }
}

fn said(folder: &Path) -> String {
    let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
    read("output") + &read("spool/log-mainlog")
}

/// Takes every event that is sent to this port.
fn receiver(machine: &Namespace, port: u16) -> Receiver<Value> {
    let (sender, events) = mpsc::channel();
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)); // IPv4 comes there too
    let listener = machine.enter(|| TcpListener::bind(any)).expect("the port is free");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                let (name, value) = line.split_once(": ").unwrap_or_default();
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim_end().parse().expect("a length");
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("the whole body comes");
            let _ = stream.get_mut().write_all(b"HTTP/1.1 204 Taken\r\n\r\n");
            if sender.send(serde_json::from_slice(&body).expect("it is JSON")).is_err() {
                return; // the test is over
            }
        }
    });
    events
}

/// Whom to tell: all that listen at this address.
fn alerts(via: &str, address: IpAddr, port: u16) -> Value {
    json!({
        "via": via,
        "mail": {
            "server": at(address, 25), "tls": "starttls", "verify": false, "rate": 600,
            "from": "lb1@example.org", "to": ["admin@example.org"], "about": ["server"],
        },
        "webhook": [{ "url": format!("http://{}/", at(address, port)), "about": ["server"] }],
    })
}

/// EM-01, HC-16.
fn each_change_is_one_mail_to_those_who_read_of_its_service_and_one_event_for_receivers(
    rig: &mut Rig,
) {
    let check = json!({
        "type": "connect", "port": CHECKED, "interval": "1s", "timeout": "900ms", "rise": 1, "fall": 2,
    });
    let [server, ..] = rig.translated();
    // Connections wait in the backlog, and nobody takes them: that is enough for a check.
    let listen = || {
        let at = SocketAddr::from((server.address, CHECKED));
        server.namespace.enter(|| TcpListener::bind(at)).expect("the port is free")
    };
    let web = nat("web", TRANSLATED, "80").to(server).with("check", check.clone());
    let shop = nat("shop", TRANSLATED, "8080").to(server).with("check", check);
    let shop = shop.with("alerts", json!({ "to": ["shop@example.org"] }));
    let client = rig.client();
    // By which network, to which machine, its address, and ours.
    let ways: [(&str, &Namespace, IpAddr, IpAddr); 3] = [
        ("in_band", &client.namespace, client.address.into(), APPLIANCE.into()),
        ("in_band", &client.namespace, client.ipv6().into(), ipv6(APPLIANCE).into()),
        ("kernel", &rig.lab.appliance, Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
    ];
    for (port, (via, machine, address, own)) in (8090..).zip(ways) {
        let exim = Exim::start(machine);
        let events = receiver(machine, port);
        let listener = listen();
        rig.appliance.change(|config| {
            config["service"] = json!([web.json(), shop.json()]);
            config["alerts"] = alerts(via, address, port);
        });
        rig.appliance.wait_until("/status", "all is well", |status| {
            let all = status["services"].as_array().expect("a list");
            all.iter().all(|service| service["state"] == "up")
        });
        let down = "[lb1] server web/nat1 is down";
        drop(listener);
        let mail = exim.waits_for("admin", down);
        let shops = exim.waits_for("shop", &down.replace("web", "shop"));
        for (mail, name) in [(&mail, "web"), (&shops, "shop")] {
            let server = server.address.to_string();
            let reason = format!("connect to {server}:{CHECKED} refused");
            for part in [&TRANSLATED.to_string(), "nat1", &server, name, &reason, "with esmtps"] {
                assert!(mail.contains(part), "{part} in {mail}");
            }
            // It notes what a client calls itself only if that is anything but its address.
            let is_known = mail.contains(&format!("from [{own}]")) && !mail.contains("helo=");
            assert!(is_known, "{mail}");
        }
        let again = listen();
        exim.waits_for("admin", &down.replace("down", "up"));
        exim.waits_for("shop", &down.replace("down", "up").replace("web", "shop"));
        assert_eq!(exim.mails("admin", down).len(), 1, "one for each change");
        assert!(
            exim.mails("admin", &down.replace("web", "shop")).is_empty(),
            "another reads of it"
        );
        let told: Vec<_> = std::iter::from_fn(|| events.recv_timeout(Duration::from_secs(5)).ok())
            .take_while(|event| event["service"] != "shop" || event["old"] != "down")
            .filter(|event| event["service"] == "web" && event["new"] == "down")
            .collect();
        assert_eq!(told.len(), 1, "{via} {address}: {told:?}");
        assert_eq!((&told[0]["node"], &told[0]["server"]), (&json!("lb1"), &json!("nat1")));
        rig.appliance.change(|config| config["service"] = json!([]));
        drop(again);
    }
    rig.appliance.change(|config| config["alerts"] = json!({}));
}
