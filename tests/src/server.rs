//! A real server: one machine with one leg, real nginx, and the means that direct return and
//! tunnels ask of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::client::Frames;
use crate::decode;
use crate::lab;
use crate::namespace::Namespace;
use crate::process::{self, Background, eventually};

pub mod broker;

mod ftp;

pub mod names;

mod redirect;

pub mod shell;

/// The ports that nginx listens on; 443 speaks plain HTTP too, since no test asks for its TLS.
pub const PORTS: [u16; 3] = [80, 443, 8080];

/// The length of what nginx answers to `GET /large`, in bytes.
pub const LARGE: usize = 2 << 20;

/// How many programs take outer headers of bare IP off: the first that a tunnelled server starts.
const DECAPSULATORS: usize = 4;

/// How the servers on a wire are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On the clients' wire, with the virtual addresses on its loopback interface.
    Direct,
    /// Behind the appliance, which is its default gateway.
    Translated,
    /// Behind a router, with a decapsulator and the virtual addresses on its loopback interface.
    Tunnelled,
}

/// A real server.
pub struct Server {
    /// What it calls itself in its answers, such as `dr1`.
    pub name: String,
    /// Its own address.
    pub address: Ipv4Addr,
    /// The machine.
    pub namespace: Namespace,
    kind: Kind,
    /// Files that it serves, and those that it was given by `PUT`.
    files: PathBuf,
    programs: Vec<Background>,
    ftp: Option<tempfile::TempDir>,
}

impl Server {
    /// The interface that its one leg is.
    pub const LEG: &str = "eth0";

    /// Prepares the machine as its kind asks for and starts nginx on it.
    pub fn start(
        name: &str,
        address: Ipv4Addr,
        kind: Kind,
        virtual_addresses: &[Ipv4Addr],
        namespace: Namespace,
        directory: &Path,
    ) -> Self {
        let files = directory.join(name);
        fs::create_dir_all(&files).expect("the laboratory's directory can be written to");
        let mut server = Self {
            name: name.into(),
            address,
            namespace,
            kind,
            files,
            programs: Vec::new(),
            ftp: None,
        };
        if kind != Kind::Translated {
            server.stop_answering_arp_for_virtual_addresses();
            for &address in virtual_addresses {
                server.publish_here(address);
            }
        }
        if kind == Kind::Tunnelled {
            server.decapsulate();
        }
        server.serve();
        server
    }

    /// Its own IPv6 address.
    pub fn ipv6(&self) -> Ipv6Addr {
        lab::ipv6(self.address)
    }

    /// Gives it a virtual address and the IPv6 one beside that, as direct return and tunnels ask.
    pub fn publish_here(&self, address: Ipv4Addr) {
        let beside = lab::ipv6(address);
        self.namespace
            .ip(&format!("addr add dev lo {address}/32\naddr add dev lo {beside}/128 nodad\n"));
    }

    /// The lines of Linux's first method (FEATURES AR-02), as an operator types them.
    pub fn stop_answering_arp_for_virtual_addresses(&self) {
        self.set_arp(1, 2);
    }

    /// What a server does that was not prepared: it answers for every address it has.
    pub fn answer_arp_for_virtual_addresses(&self) {
        self.set_arp(0, 0);
    }

    fn set_arp(&self, ignore: u8, announce: u8) {
        self.namespace.shell(&format!(
            "sysctl -qw net.ipv4.conf.all.arp_ignore={ignore}
             sysctl -qw net.ipv4.conf.eth0.arp_ignore={ignore}
             sysctl -qw net.ipv4.conf.all.arp_announce={announce}
             sysctl -qw net.ipv4.conf.eth0.arp_announce={announce}"
        ));
    }

    /// Takes outer headers off in user space, because not every kernel has a driver for it, and
    /// independently of the code under test: socat reads an IP protocol from a raw socket (the
    /// kernel has put outer fragments together by then) and hands the inner packets to a tunnel
    /// device. One for each pair of an outer and an inner IP; Generic UDP Encapsulation besides.
    fn decapsulate(&mut self) {
        // Clients are not reached by the tunnels, so a check of the reverse path would drop all.
        self.namespace.sysctl("net.ipv4.conf.all.rp_filter", "0");
        self.namespace.sysctl("net.ipv4.conf.default.rp_filter", "0");
        self.namespace.sysctl("net.ipv6.conf.default.accept_dad", "0");
        self.namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "0");
        let tunnels = [
            ("IP4", 4, "tunl0"),
            ("IP4", 41, "sit0"),
            ("IP6", 41, "ip6tnl0"),
            ("IP6", 4, "ip4ip6"),
        ];
        for (outer, protocol, device) in tunnels {
            let mut socat = self.namespace.command("socat");
            // Room for a burst while socat is not running, as far as the kernel grants it.
            socat.args(["-u", "-b", "65536", &format!("{outer}-RECV:{protocol},rcvbuf=4194304")]);
            socat.arg(format!("TUN,tun-name={device},iff-no-pi,up"));
            self.start_program(&mut socat);
        }
        for (.., device) in tunnels {
            let there = || {
                let shown = process::output(
                    self.namespace.command("ip").args(["link", "show", "dev", device, "up"]),
                );
                (!shown.stdout.is_empty()).then_some(())
            };
            eventually(Duration::from_secs(5), there)
                .unwrap_or_else(|| panic!("{}: socat made no {device} in 5 s", self.name));
        }
        self.decapsulate_gue();
    }

    /// Until this process ends. The inner packets come in by an interface of their own, as they would
    /// from the kernel's driver.
    fn decapsulate_gue(&self) {
        self.namespace.ip("link add gue0 mtu 9000 type veth peer name gue1 mtu 9000
             link set gue1 up
             link set gue0 up\n");
        let own = self.namespace.mac("gue0");
        let device = Frames::on(&self.namespace, "gue1");
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 6080)); // IPv4 comes there too
        let socket = self.namespace.enter(|| UdpSocket::bind(any)).expect("the port is free");
        thread::spawn(move || {
            let mut datagram = [0; 65_536];
            while let Ok(length) = socket.recv(&mut datagram) {
                // What is not in order is for the case that sent it to notice.
                let Ok(packet) = decode::unwrap_gue(&datagram[..length]) else { continue };
                let kind = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
                device.send(&[&own[..], &[2; 6], &kind, packet].concat());
            }
        });
    }

    /// Ends the programs that take outer headers of bare IP off, so that another has to.
    ///
    /// # Panics
    /// If there are none.
    pub fn stop_decapsulating(&mut self) {
        assert_eq!(self.kind, Kind::Tunnelled, "{} has none", self.name);
        self.programs.drain(..DECAPSULATORS).for_each(drop);
    }

    /// Ends its nginx; how another would be started.
    ///
    /// # Panics
    /// If it has started anything since.
    pub fn stop_serving(&mut self) -> String {
        let nginx = self.programs.pop().expect("nginx is the last that it starts");
        drop(nginx);
        let [configuration, log] = ["nginx.conf", "log"].map(|name| self.files.join(name));
        format!("/usr/sbin/nginx -c {} -e {}", configuration.display(), log.display())
    }

    fn start_program(&mut self, program: &mut Command) {
        process::say_to(program, &self.files.join("log"));
        self.programs.push(Background::start(program));
    }

    /// Starts nginx.
    ///
    /// # Panics
    /// If it does not answer in time.
    pub fn serve(&mut self) {
        fs::write(self.files.join("large"), large()).expect("the server's files can be written");
        let configuration = self.files.join("nginx.conf");
        fs::write(&configuration, self.nginx_configuration()).expect("as above");
        let mut nginx = self.namespace.command("nginx");
        nginx.arg("-c").arg(&configuration).arg("-e").arg(self.files.join("log"));
        self.start_program(&mut nginx);
        let answers = || {
            let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORTS[0]);
            self.namespace.enter(|| std::net::TcpStream::connect(to)).ok()
        };
        eventually(Duration::from_secs(10), answers).unwrap_or_else(|| {
            let log = fs::read_to_string(self.files.join("log")).unwrap_or_default();
            panic!("{}: nginx did not answer in 10 s: {log}", self.name)
        });
    }

    fn nginx_configuration(&self) -> String {
        let files = self.files.display();
        let listen = PORTS.map(|port| format!("listen {port}; listen [::]:{port}; ")).concat();
        let answer = format!(
            r#"{{"server":"{}","peer":"$remote_addr","peer_port":$remote_port,"local":"$server_addr","local_port":$server_port}}"#,
            self.name
        );
        format!(
            "daemon off;
             master_process off;
             user root;
             pid {files}/nginx.pid;
             error_log {files}/log;
             events {{ worker_connections 4096; }}
             http {{
                 access_log off;
                 client_body_temp_path {files}/body;
                 client_max_body_size 64m;
                 default_type application/json;
                 server {{
                     {listen}
                     root {files};
                     location / {{ return 200 '{answer}'; }}
                     location = /large {{ }}
                     location = /slow {{ alias {files}/large; limit_rate 1m; }}
                     location = /gigabyte {{ }}
                     location /uploads/ {{ dav_methods PUT; create_full_put_path on; }}
                 }}
             }}
            "
        )
    }

    /// The kind of server that it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What a client left under `/uploads/name`, if anything arrived.
    pub fn uploaded(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.files.join("uploads").join(name)).ok()
    }

    /// Offers `/name` of `length` bytes, in which every 64 KiB tell their place; its MD5 sum. What lies
    /// between takes no room.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn offer_marked(&self, name: &str, length: u64) -> String {
        use std::os::unix::fs::FileExt;
        let path = self.files.join(name);
        let file = fs::File::create(&path).expect("the server's files can be written");
        file.set_len(length).expect("as above");
        for place in (0..length).step_by(1 << 16) {
            file.write_all_at(&place.to_be_bytes(), place).expect("as above");
        }
        let sum = process::run(Command::new("md5sum").arg(&path));
        sum.split(' ').next().expect("md5sum prints a sum").to_owned()
    }

    /// Answers every datagram to `port` with the same bytes, until this process ends. The answer
    /// leaves from the address that was asked.
    pub fn echo_datagrams(&self, at: impl Into<SocketAddr>) {
        let at = at.into();
        let socket = self.namespace.enter(|| UdpSocket::bind(at)).expect("the port is free");
        thread::spawn(move || {
            let mut datagram = [0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(&datagram[..length], from); // like any UDP server
            }
        });
    }

    /// Answers every datagram to `port` by saying who it is and whom it sees, as nginx does, until this
    /// process ends.
    pub fn introduce_by_datagram(&self, at: impl Into<SocketAddr>) {
        let at = at.into();
        let socket = self.namespace.enter(|| UdpSocket::bind(at)).expect("the port is free");
        let name = self.name.clone();
        thread::spawn(move || {
            let mut datagram = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut datagram) {
                let said = serde_json::json!({
                    "server": name, "peer": from.ip(), "peer_port": from.port(),
                    "local": at.ip(), "local_port": at.port(),
                });
                let _ = socket.send_to(said.to_string().as_bytes(), from); // like any UDP server
            }
        });
    }

    /// Sends back on each connection whatever comes in on it, until this process ends.
    pub fn echo_streams(&self, at: impl Into<SocketAddr>) {
        let at = at.into();
        let listener = self.namespace.enter(|| TcpListener::bind(at)).expect("the port is free");
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let mut bytes = [0; 65_536];
                    while let Ok(length @ 1..) = stream.read(&mut bytes) {
                        if stream.write_all(&bytes[..length]).is_err() {
                            return; // the client has gone
                        }
                    }
                });
            }
        });
    }

    /// Answers datagrams like [`Self::echo_datagrams`], but without a UDP checksum.
    pub fn echo_datagrams_without_checksum(&mut self, port: u16) {
        let mut socat = self.namespace.command("socat");
        socat.args([&format!("UDP4-RECVFROM:{port},fork,so-no-check=1"), "EXEC:cat"]);
        self.start_program(&mut socat);
        let listening = || {
            let sockets = self.namespace.enter(|| fs::read_to_string("/proc/thread-self/net/udp"));
            sockets.is_ok_and(|text| text.contains(&format!(":{port:04X} "))).then_some(())
        };
        eventually(Duration::from_secs(5), listening)
            .unwrap_or_else(|| panic!("{}: socat does not listen on {port}", self.name));
    }

    /// Leaves the machine and its programs up when this value goes out of scope.
    pub fn keep(mut self) {
        self.namespace.keep();
        std::mem::forget(self.programs); // they go on serving; whoever takes the lab down ends them
    }
}

/// What `/large` holds: every byte tells its place, so that a swap would be seen.
pub fn large() -> Vec<u8> {
    (0..LARGE / 8).flat_map(|place| (place as u64).to_be_bytes()).collect()
}

/// The directory listing of a machine's interfaces, for messages.
pub fn interfaces(namespace: &Namespace) -> String {
    process::run(Command::new("ip").args(["-n", namespace.name(), "-br", "addr"]))
}
