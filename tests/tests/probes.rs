//! Each kind of question, put to real servers of that kind as Debian has them. They are children of the test, with
//! a folder and ports of their own.

use std::fs;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream as Plain};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use controlplane::config::Config;
use controlplane::health::probe::{Target, Tools, ask};
use controlplane::net::{Datagrams, Net, Way};
use nix::unistd::User;
use serde_json::{Value, json};
use sluice_tests::process::{self, Background, eventually, say_to};
use tempfile::TempDir;
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Builder;

/// The kernel's sockets.
#[derive(Clone)]
struct Sockets;

struct Socket(UdpSocket);

impl Net for Sockets {
    type Stream = TcpStream;
    type Datagrams = Socket;

    async fn connect(&self, to: SocketAddr, _: Way) -> io::Result<TcpStream> {
        TcpStream::connect(to).await
    }

    async fn datagrams(&self, to: SocketAddr, _: Way) -> io::Result<Socket> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(to).await?;
        Ok(Socket(socket))
    }

    fn ping(&self, _: IpAddr, _: Way) -> impl Future<Output = io::Result<Duration>> + Send {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl Datagrams for Socket {
    async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.0.send(datagram).await.map(drop)
    }

    async fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        self.0.recv(into).await
    }
}

/// A real server: its folder, and the program.
struct Server {
    folder: TempDir,
    program: Option<Background>,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("probe").tempdir().expect("there is room");
        // Servers that give up root's rights still come here.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("the folder is ours");
        Self { folder, program: None }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> String {
        self.path().join(name).to_str().expect("a plain path").into()
    }

    /// A file with this text, in which `DIR` is the folder.
    fn write(&self, name: &str, text: &str) -> String {
        let text = text.replace("DIR", self.path().to_str().expect("a plain path"));
        fs::write(self.path().join(name), text).expect("there is room");
        self.file(name)
    }

    /// A folder that belongs to a user of the system.
    fn folder_of(&self, user: &str, name: &str) -> String {
        fs::create_dir(self.path().join(name)).expect("there is room");
        let found = User::from_name(user).expect("users can be looked up").expect(user);
        let ids = (Some(found.uid.as_raw()), Some(found.gid.as_raw()));
        chown(self.path().join(name), ids.0, ids.1).expect("tests run as root");
        self.file(name)
    }

    /// Starts the program, and waits until it listens on `port`.
    fn start(&mut self, command: &mut Command, port: u16) {
        let log = self.path().join("output");
        say_to(command, &log);
        let program = self.program.insert(Background::start(command));
        let listens = eventually(Duration::from_secs(40), || {
            assert!(program.ended().is_none(), "{}", fs::read_to_string(&log).unwrap_or_default());
            Plain::connect(("127.0.0.1", port)).ok()
        });
        assert!(listens.is_some(), "{}", fs::read_to_string(&log).unwrap_or_default());
    }

    fn stop(&mut self) {
        self.program = None;
    }
}

/// A port on which nobody listens.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it has an address").port()
}

fn outcome(port: u16, written: &Value) -> Result<(), String> {
    let document = json!({
        "interface": [{ "name": "lan", "device": "kernel:lan", "addresses": ["10.0.0.2/24"] }],
        "service": [{ "name": "s", "address": "10.0.0.100", "ports": "80", "check": written }],
    });
    let config = Config::read(&document).unwrap_or_else(|why| panic!("{why:?}"));
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let target = Target { at, way: Way::Routed, service: ("s".into(), None) };
    let runtime = Builder::new_current_thread().enable_all().build().expect("it can be made");
    let check = &config.services[0].check;
    let tools = Tools::default();
    let asked = ask(&Sockets, &tools, &target, check, 0);
    runtime.block_on(asked).map_err(|failure| failure.to_string())
}

#[track_caller]
fn good(port: u16, written: Value) {
    assert_eq!(outcome(port, &written), Ok(()), "{written}");
}

/// A failure, for a reason that holds `part`.
#[track_caller]
fn bad(port: u16, written: Value, part: &str) {
    let reason = outcome(port, &written).expect_err("the server is not well");
    assert!(reason.contains(part), "{written}: {reason}");
}

#[test]
fn nginx_is_asked_for_pages_over_http_https_and_http2() {
    let mut server = Server::new();
    let [plain, inside, two] = [port(), port(), port()];
    let made = rcgen::generate_simple_self_signed(vec!["a.test".into()]).expect("it can be made");
    let certificate = server.write("a.pem", &made.cert.pem());
    server.write("a.key", &made.signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(vec!["a.test".into()]).expect("it can be made");
    let other = server.write("other.pem", &other.cert.pem());
    let text = format!(
        "daemon off; pid DIR/pid; error_log DIR/errors; events {{}}
         http {{
             access_log off; client_body_temp_path DIR/a; proxy_temp_path DIR/b;
             fastcgi_temp_path DIR/c; uwsgi_temp_path DIR/d; scgi_temp_path DIR/e;
             ssl_certificate DIR/a.pem; ssl_certificate_key DIR/a.key;
             server {{
                 listen 127.0.0.1:{plain} default_server;
                 listen 127.0.0.1:{inside} ssl http2 default_server;
                 listen 127.0.0.1:{two} http2 default_server;
                 location / {{ return 200 'NO'; }}
             }}
             server {{
                 listen 127.0.0.1:{plain}; listen 127.0.0.1:{inside} ssl http2;
                 listen 127.0.0.1:{two} http2; server_name a.test;
                 location = /check.txt {{ return 200 'it is OKkk'; }}
                 location = /moved {{ return 302 /elsewhere; }}
                 location / {{ return 503; }}
             }}
         }}"
    );
    let file = server.write("nginx.conf", &text);
    server.start(Command::new("nginx").args(["-c", &file, "-e", "stderr"]), plain);

    for (port, kind, more) in [
        (plain, "http", json!({})),
        (inside, "https", json!({})),
        (inside, "http2", json!({ "tls": true })),
        (two, "http2", json!({})),
    ] {
        let check = |more_still: Value| {
            let mut written = json!({ "type": kind, "host": "a.test" });
            for part in [&more, &more_still] {
                for (name, value) in part.as_object().expect("a table") {
                    written[name] = value.clone();
                }
            }
            written
        };
        good(port, check(json!({ "path": "/check.txt", "expect": "OK" })));
        good(port, check(json!({ "path": "/check.txt", "expect_regex": "O[kK]+$" })));
        good(port, check(json!({ "path": "/moved", "status": "200-399" })));
        good(port, check(json!({ "path": "/check.txt", "method": "HEAD" })));
        bad(port, check(json!({ "path": "/moved" })), "/moved answered 302, expected 200");
        bad(port, check(json!({})), "/ answered 503, expected 200");
        let elsewhere = check(json!({ "host": "b.test", "path": "/check.txt", "expect": "OK" }));
        bad(port, elsewhere, "/check.txt answered without \"OK\"");
    }

    // HTTPS with verification: by its own authority, under its own name.
    let verified = |ca: &str, host: &str| json!({ "type": "https", "host": host, "path": "/", "status": "200-599", "ca": ca });
    good(inside, verified(&certificate, "a.test"));
    bad(inside, verified(&other, "a.test"), "invalid peer certificate");
    bad(inside, verified(&certificate, "b.test"), "invalid peer certificate");
    let by_system = json!({ "type": "https", "host": "a.test", "verify": true });
    bad(inside, by_system, "certificate");
    let named = json!({ "type": "https", "sni": "a.test", "ca": certificate, "path": "/" });
    good(inside, named); // the default server's page, by a.test's certificate
    bad(plain, json!({ "type": "https" }), "TLS with 127.0.0.1");
    bad(inside, json!({ "type": "http" }), "answered 400, expected 200");
    bad(plain, json!({ "type": "grpc" }), "gave no answer");
    bad(two, json!({ "type": "grpc" }), "answered with something that is no status");

    server.stop();
    bad(plain, json!({ "type": "http" }), "refused");
}

#[test]
fn vsftpd_is_asked_for_a_login_and_a_file() {
    let mut server = Server::new();
    let port = port();
    fs::create_dir(server.path().join("files")).expect("there is room");
    server.write("files/check.txt", "all is OK\n");
    let text = format!(
        "listen=YES\nlisten_port={port}\nlisten_address=127.0.0.1\nbackground=NO\n\
         anonymous_enable=YES\nlocal_enable=YES\nanon_root=DIR/files\nxferlog_enable=NO\n\
         secure_chroot_dir=DIR/empty\nseccomp_sandbox=NO\n"
    );
    fs::create_dir(server.path().join("empty")).expect("there is room");
    let file = server.write("vsftpd.conf", &text);
    server.start(Command::new("vsftpd").arg(file), port);
    good(port, json!({ "type": "ftp" }));
    good(port, json!({ "type": "ftp", "path": "check.txt" }));
    good(port, json!({ "type": "ftp", "path": "check.txt", "expect": "OK" }));
    let other = json!({ "type": "ftp", "path": "check.txt", "expect": "fine" });
    bad(port, other, "/check.txt is without \"fine\"");
    bad(port, json!({ "type": "ftp", "path": "none.txt" }), "answered \"550");
    let stranger = json!({
        "type": "ftp", "user": "nobody", "password": "wrong", "negotiate_timeout": "20s",
    });
    bad(port, stranger, "answered \"530");
}

#[test]
fn dovecot_is_asked_for_logins_over_imap_and_pop() {
    let mut server = Server::new();
    let [imap, pop] = [port(), port()];
    server.folder_of("nobody", "mail");
    let listener = |name: &str, inner: &str, port: u16| {
        format!(
            "service {name}-login {{\n chroot =\n\
             inet_listener {inner} {{\n port = {port}\n }}\n\
             inet_listener {inner}s {{\n port = 0\n }}\n}}\n"
        )
    };
    let text = format!(
        "base_dir = DIR/run\nstate_dir = DIR/run\nlog_path = DIR/log\n\
         protocols = imap pop3\nlisten = 127.0.0.1\nssl = no\ndisable_plaintext_auth = no\n\
         auth_failure_delay = 0\n\
         default_internal_user = nobody\ndefault_internal_group = nogroup\n\
         default_login_user = nobody\nmail_location = maildir:DIR/mail\nfirst_valid_uid = 1\n\
         service anvil {{\n chroot =\n}}\n\
         passdb {{\n driver = static\n args = user=sluice password=secret\n}}\n\
         userdb {{\n driver = static\n args = uid=nobody gid=nogroup home=DIR/mail\n}}\n{}{}",
        listener("imap", "imap", imap),
        listener("pop3", "pop3", pop),
    );
    let file = server.write("dovecot.conf", &text);
    server.start(Command::new("dovecot").args(["-F", "-c", &file]), imap);
    for (port, kind, reason) in [
        (imap, "imap", "answered \"1 NO [AUTHENTICATIONFAILED]"),
        (pop, "pop", "answered \"-ERR [AUTH]"),
    ] {
        let login = |password| json!({ "type": kind, "user": "sluice", "password": password });
        good(port, json!({ "type": kind }));
        good(port, login("secret"));
        bad(port, login("wrong"), reason);
    }
    bad(pop, json!({ "type": "imap" }), "answered \"+OK");
    bad(imap, json!({ "type": "smtp" }), "expected a reply with a code");
}

#[test]
fn exim_is_asked_for_its_greeting_over_smtp() {
    let mut server = Server::new();
    let port = port();
    let spool = server.folder_of("Debian-exim", "spool");
    let text = format!(
        "primary_hostname = mail.test\nspool_directory = {spool}\n\
         log_file_path = {spool}/log-%slog\npid_file_path = {spool}/pid\n\
         host_lookup =\nrfc1413_hosts =\nkeep_environment =\n"
    );
    let file = server.write("exim.conf", &text);
    let listen = format!("127.0.0.1.{port}");
    server.start(Command::new("exim4").args(["-bdf", "-C", &file, "-oX", &listen]), port);
    good(port, json!({ "type": "smtp" }));
    good(port, json!({ "type": "smtp", "expect": "SIZE" }));
    bad(port, json!({ "type": "smtp", "expect": "NOSUCHTHING" }), "expected \"NOSUCHTHING\"");
    good(port, json!({ "type": "tcp", "expect": "220 mail.test" }));
    bad(port, json!({ "type": "nntp" }), "answered \"220 mail.test");
}

#[test]
fn slapd_is_asked_for_a_description_of_itself() {
    let mut server = Server::new();
    let port = port();
    fs::create_dir(server.path().join("db")).expect("there is room");
    let text = "include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\n\
                moduleload back_mdb\ndatabase mdb\nsuffix \"dc=test\"\n\
                rootdn \"cn=admin,dc=test\"\nrootpw secret\ndirectory DIR/db\n";
    let file = server.write("slapd.conf", text);
    let listen = format!("ldap://127.0.0.1:{port}");
    server.start(Command::new("slapd").args(["-f", &file, "-h", &listen, "-d", "0"]), port);
    let bound =
        |password| json!({ "type": "ldap", "user": "cn=admin,dc=test", "password": password });
    good(port, json!({ "type": "ldap" }));
    good(port, json!({ "type": "ldap", "expect": "dc=test" }));
    bad(port, json!({ "type": "ldap", "expect": "dc=elsewhere" }), "without \"dc=elsewhere\"");
    good(port, bound("secret"));
    bad(port, bound("wrong"), "answered the bind with invalid credentials");
}

#[test]
fn dnsmasq_is_asked_for_a_name() {
    let mut server = Server::new();
    let port = port();
    let listen = format!("--port={port}");
    let dnsmasq = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--listen-address=127.0.0.1",
        "--user=nobody",
        "--pid-file=",
        "--address=/www.test/192.0.2.7",
        "--address=/www.test/2001:db8::7",
        &listen,
    ];
    server.start(Command::new("dnsmasq").args(dnsmasq), port);
    let asked = |name, more: Value| {
        let mut written = json!({ "type": "dns", "query": name });
        for (name, value) in more.as_object().expect("a table") {
            written[name] = value.clone();
        }
        written
    };
    good(port, asked("www.test", json!({})));
    good(port, asked("WWW.test.", json!({ "expect": "192.0.2.7" })));
    good(port, asked("www.test", json!({ "query_type": "AAAA", "expect": "2001:db8::7" })));
    let reason = "answered 192.0.2.7, expected 192.0.2.8 for www.test";
    bad(port, asked("www.test", json!({ "expect": "192.0.2.8" })), reason);
    bad(port, asked("other.test", json!({})), "answered REFUSED for other.test");
    bad(port, asked("www.test", json!({ "query_type": "MX" })), "answered REFUSED for www.test");
    server.stop();
    bad(port, asked("www.test", json!({})), "refused");
}

#[test]
fn mariadb_is_asked_for_a_login() {
    let mut server = Server::new();
    let port = port();
    server.folder_of("nobody", "run");
    let data = format!("--datadir={}", server.file("run/data"));
    let mut install = Command::new("mariadb-install-db");
    install.args(["--no-defaults", "--user=nobody", "--skip-test-db", &data]);
    process::run(install.arg("--auth-root-authentication-method=normal"));
    let users = server.write(
        "users.sql",
        "CREATE USER 'sluice'@'127.0.0.1' IDENTIFIED BY 'secret';\n\
         CREATE USER 'open'@'127.0.0.1';\n\
         CREATE USER 'key'@'127.0.0.1' IDENTIFIED VIA unix_socket;\n",
    );
    let [init, socket, pid, listen] = [
        format!("--init-file={users}"),
        format!("--socket={}", server.file("run/socket")),
        format!("--pid-file={}", server.file("run/pid")),
        format!("--port={port}"),
    ];
    let mut mariadb = Command::new("mariadbd");
    mariadb.args(["--no-defaults", "--user=nobody", "--bind-address=127.0.0.1"]);
    mariadb.args(["--skip-name-resolve", &data, &init, &socket, &pid, &listen]);
    server.start(&mut mariadb, port);
    let login = |user, password| json!({ "type": "mysql", "user": user, "password": password });
    good(port, json!({ "type": "mysql" }));
    good(port, login("sluice", "secret"));
    good(port, login("open", ""));
    bad(port, login("sluice", "wrong"), "answered \"Access denied for user 'sluice'");
    bad(port, login("stranger", "secret"), "answered \"Access denied for user 'stranger'");
}

#[test]
fn redis_is_asked_for_a_pong_after_a_login() {
    let mut server = Server::new();
    let port = port();
    let text = format!(
        "bind 127.0.0.1\nport {port}\nsave \"\"\ndir DIR\nrequirepass secret\n\
         user checker on >other ~* +ping\n"
    );
    let mut redis = Command::new("redis-server");
    redis.arg(server.write("redis.conf", &text));
    server.start(&mut redis, port);
    good(port, json!({ "type": "redis", "password": "secret" }));
    good(port, json!({ "type": "redis", "user": "checker", "password": "other" }));
    bad(port, json!({ "type": "redis" }), "answered \"-NOAUTH");
    bad(port, json!({ "type": "redis", "password": "wrong" }), "answered \"-WRONGPASS");
    let pong = json!({
        "type": "tcp", "send": "AUTH secret\r\nPING\r\n", "expect": "+OK\r\n+PONG\r\n",
    });
    good(port, pong);
}

#[test]
fn rabbitmq_is_asked_for_its_greeting_over_amqp() {
    let mut server = Server::new();
    let [port, names, nodes] = [port(), port(), port()];
    let text = names.to_string();
    let mut epmd = Command::new("epmd");
    epmd.args(["-port", &text, "-address", "127.0.0.1"]);
    say_to(&mut epmd, &server.path().join("names"));
    let _names = Background::start(&mut epmd); // else the broker leaves one behind
    let mut rabbit = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    rabbit
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .env("HOME", server.path())
        .env("ERL_EPMD_PORT", names.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", format!("probe{port}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", nodes.to_string())
        .env("RABBITMQ_MNESIA_BASE", server.path().join("mnesia"))
        .env("RABBITMQ_LOG_BASE", server.path().join("log"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", server.path().join("plugins"))
        .env("RABBITMQ_PLUGINS_EXPAND_DIR", server.path().join("expanded"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
    server.start(&mut rabbit, port);
    good(port, json!({ "type": "amqp" }));
    bad(port, json!({ "type": "redis" }), "redis://127.0.0.1:"); // it may close before it is read
    server.stop();
}

#[test]
fn kamailio_is_asked_for_options_over_udp_and_tcp() {
    let mut server = Server::new();
    let port = port();
    let text = format!(
        "#!KAMAILIO\ndebug=0\nlog_stderror=yes\nfork=yes\nchildren=1\nauto_aliases=no\n\
         listen=udp:127.0.0.1:{port}\nlisten=tcp:127.0.0.1:{port}\n\
         loadmodule \"sl.so\"\nloadmodule \"pv.so\"\nloadmodule \"textops.so\"\n\
         request_route {{\n\
         if (is_method(\"OPTIONS\") && $rU == \"alice\") {{ sl_send_reply(\"200\", \"OK\"); exit; }}\n\
         sl_send_reply(\"404\", \"Not Found\");\n}}\n"
    );
    let file = server.write("kamailio.cfg", &text);
    let run = server.file("");
    let mut kamailio = Command::new("kamailio");
    kamailio.args(["-DD", "-E", "-m", "16", "-M", "4", "-f", &file, "-Y", &run]);
    server.start(&mut kamailio, port);
    for transport in ["udp", "tcp"] {
        let about = |user| json!({ "type": "sip", "transport": transport, "user": user });
        good(port, about("alice"));
        bad(port, about("bob"), "answered 404, expected 200");
    }
}
