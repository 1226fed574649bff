//! Each kind of question, put to real servers of that kind as Debian has them. They are children of the test, with
//! a folder and ports of their own.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use controlplane::config::Config;
use controlplane::health::probe::{Target, Tools, ask};
use controlplane::net::Way;
use controlplane::net::kernel::Kernel;
use nix::unistd::User;
use serde_json::{Value, json};
use sluice_tests::process::{self, Background, eventually, say_to};
use tempfile::TempDir;
use tokio::runtime::Builder;

/// A real server: its folder, and the program.
struct Server {
    program: Option<Background>, // ended before its folder goes
    folder: TempDir,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("probe").tempdir().expect("there is room");
        // Servers that give up root's rights still come here.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("the folder is ours");
        Self { program: None, folder }
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
            TcpStream::connect(("127.0.0.1", port)).ok()
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
    let asked = ask(&Kernel, &tools, &target, check, 0);
    runtime.block_on(asked).map_err(|failure| failure.to_string())
}

/// A check, and more of it.
fn with(mut written: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().expect("a table") {
        written[name] = value.clone();
    }
    written
}

/// A question for a name.
fn name(name: &str, more: &Value) -> Value {
    with(json!({ "type": "dns", "query": name }), more)
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
        let check =
            |still: Value| with(with(json!({ "type": kind, "host": "a.test" }), &more), &still);
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

/// What a server of names is expected to know: two addresses of www.test, and nothing of other.test.
#[track_caller]
fn knows_names(mut server: Server, port: u16, unknown: &str) {
    good(port, name("www.test", &json!({})));
    good(port, name("WWW.test.", &json!({ "expect": "192.0.2.7" })));
    good(port, name("www.test", &json!({ "query_type": "AAAA", "expect": "2001:db8::7" })));
    let reason = "answered 192.0.2.7, expected 192.0.2.8 for www.test";
    bad(port, name("www.test", &json!({ "expect": "192.0.2.8" })), reason);
    bad(port, name("other.test", &json!({})), &format!("answered {unknown} for other.test"));
    server.stop();
    bad(port, name("www.test", &json!({})), "refused");
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
    let about_mail = name("www.test", &json!({ "query_type": "MX" }));
    bad(port, about_mail, "answered REFUSED for www.test");
    knows_names(server, port, "REFUSED");
}

#[test]
fn unbound_is_asked_for_a_name() {
    let mut server = Server::new();
    let port = port();
    let text = format!(
        "server:\n directory: DIR\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n use-syslog: no\n\
         interface: 127.0.0.1\n port: {port}\n module-config: iterator\n\
         local-zone: test. static\n\
         local-data: \"www.test. A 192.0.2.7\"\n local-data: \"www.test. AAAA 2001:db8::7\"\n\
         remote-control:\n control-enable: no\n"
    );
    let file = server.write("unbound.conf", &text);
    server.start(Command::new("unbound").args(["-d", "-c", &file]), port);
    let about_mail = name("www.test", &json!({ "query_type": "MX" }));
    bad(port, about_mail, "answered without a record for www.test");
    knows_names(server, port, "NXDOMAIN");
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

/// It listens on all addresses, and answers this machine alone.
#[test]
fn jamnntpd_is_asked_for_its_greeting_and_a_login_over_nntp() {
    let mut server = Server::new();
    let port = port();
    let [allow, users, groups] = [
        server.write("allow", "127.0.0.1 - -\n"),
        server.write("users", "sluice secret - -\n"),
        server.write("groups", "a.test A 1:2/3 DIR/messages\n"),
    ];
    let mut news = Command::new("jamnntpd");
    news.args(["-port", &port.to_string(), "-allow", &allow, "-users", &users]);
    news.args(["-groups", &groups, "-logfile", &server.file("log")]);
    server.start(&mut news, port);
    let login = |user, password| json!({ "type": "nntp", "user": user, "password": password });
    good(port, json!({ "type": "nntp" }));
    good(port, login("sluice", "secret"));
    let reason = "answered \"481 Authentication rejected\", expected 281";
    bad(port, login("sluice", "wrong"), reason);
    bad(port, login("stranger", "secret"), reason);
    bad(port, json!({ "type": "smtp" }), "answered \"200 Welcome to JamNNTPd");

    // It reads its files again for every client.
    fs::remove_file(&groups).expect("it is there");
    bad(
        port,
        json!({ "type": "nntp" }),
        "answered \"503 Failed to read group configuration file\"",
    );
    server.write("allow", "192.0.2.1 - -\n");
    bad(port, json!({ "type": "nntp" }), "answered \"502 Access denied.\"");
    server.stop();
    bad(port, json!({ "type": "nntp" }), "refused");
}

/// It wants many options, and says nothing until each of them has been declined.
#[test]
fn telnetd_is_asked_for_text_behind_its_options() {
    use std::os::unix::fs::PermissionsExt;
    let mut server = Server::new();
    let port = port();
    let login = server.write("login", "#!/bin/sh\nprintf 'mail.test login: '\nread name\n");
    fs::set_permissions(&login, PermissionsExt::from_mode(0o755)).expect("the file is ours");
    let mut socat = Command::new("socat");
    socat.arg(format!("TCP4-LISTEN:{port},bind=127.0.0.1,fork"));
    socat.arg(format!("EXEC:telnetd --no-hostinfo --exec-login={login},nofork"));
    server.start(&mut socat, port);
    let telnet = |more| with(json!({ "type": "telnet" }), &more);
    good(port, telnet(json!({})));
    good(port, telnet(json!({ "expect": "mail.test login: " })));
    good(port, telnet(json!({ "expect_regex": "^\\s*mail\\.test login: $" })));
    let other = telnet(json!({ "expect": "Password:", "negotiate_timeout": "1s" }));
    bad(port, other, "no answer from 127.0.0.1:");
    server.write("login", "#!/bin/sh\necho 'too many users'\n");
    bad(port, telnet(json!({ "expect": "login:" })), "closed the connection");
    server.stop();
    bad(port, telnet(json!({})), "refused");
}

#[test]
fn etcd_is_asked_for_its_health_over_grpc() {
    let mut server = Server::new();
    let [plain, inside, peers] = [port(), port(), port()];
    let made = rcgen::generate_simple_self_signed(vec!["a.test".into()]).expect("it can be made");
    let certificate = server.write("a.pem", &made.cert.pem());
    let key = server.write("a.key", &made.signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(vec!["a.test".into()]).expect("it can be made");
    let other = server.write("other.pem", &other.cert.pem());
    let clients = format!("http://127.0.0.1:{plain},https://127.0.0.1:{inside}");
    let peers = format!("http://127.0.0.1:{peers}");
    let mut etcd = Command::new("etcd");
    etcd.args(["--data-dir", &server.file("data"), "--name", "a"]);
    etcd.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    etcd.args(["--initial-cluster", &format!("a={peers}")]);
    etcd.args(["--cert-file", &certificate, "--key-file", &key]);
    server.start(&mut etcd, plain);

    let unknown = "answered that it does not know the service";
    good(plain, json!({ "type": "grpc" }));
    bad(plain, json!({ "type": "grpc", "service": "shop.Cart" }), unknown);
    let verified =
        |ca: &str, host: &str| json!({ "type": "grpc", "tls": true, "host": host, "ca": ca });
    good(inside, json!({ "type": "grpc", "tls": true }));
    good(inside, verified(&certificate, "a.test"));
    bad(inside, json!({ "type": "grpc", "tls": true, "service": "shop.Cart" }), unknown);
    bad(inside, verified(&other, "a.test"), "invalid peer certificate");
    bad(inside, verified(&certificate, "b.test"), "invalid peer certificate");
    bad(plain, json!({ "type": "grpc", "tls": true }), "TLS with 127.0.0.1");
    bad(inside, json!({ "type": "grpc" }), "gave no answer");
    server.stop();
    bad(plain, json!({ "type": "grpc" }), "refused");
}
