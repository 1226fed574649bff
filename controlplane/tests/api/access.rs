//! Who is let in: the token, the certificate, root's socket, and what is left on the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::rig::{CONFIGURATION, Rig, mode};

#[test]
fn a_stranger_is_asked_for_a_token() {
    let rig = Rig::start();
    let token = rig.token();
    let longer = format!("{token}0");
    for shown in [
        None,
        Some("Bearer"),
        Some("Bearer "),
        Some("Bearer wrong"),
        Some(&*format!("Bearer {}", &token[1..])),
        Some(&*format!("Bearer {longer}")),
        Some(&*format!("Basic {token}")),
        Some(&*token),
    ] {
        let header = shown.map(|shown| ("authorization", shown));
        for (method, path) in [
            ("GET", "/api/v1/config"),
            ("GET", "/metrics"),
            ("DELETE", "/api/v1/services/web"),
            ("GET", "/api/v1/nothing"),
            ("GET", "/api/docsandmore"),
        ] {
            let refused = rig.send_tls(method, path, header.as_slice(), b"");
            refused.problem(401);
            assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"sluice\""));
            assert!(!refused.text().contains(&token));
        }
    }
}

#[test]
fn the_token_lets_its_holder_in() {
    let rig = Rig::start();
    let shown = format!("bearer {}", rig.token());
    let answer = rig.send_tls("GET", "/api/v1/services", &[("authorization", &shown)], b"");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()[0]["name"], "web");
}

#[test]
fn health_and_the_description_need_no_token() {
    let rig = Rig::start();
    for path in ["/healthz", "/api/openapi.json", "/api/docs/"] {
        assert_eq!(rig.send_tls("GET", path, &[], b"").status, 200, "{path}");
    }
    assert_eq!(rig.send_tls("GET", "/readyz", &[], b"").status, 503);
}

#[test]
fn secrets_are_for_their_owner_alone_and_last() {
    let rig = Rig::start();
    let state = rig.state();
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("admin.token")), 0o600);
    assert_eq!(mode(&state.join("admin-key.pem")), 0o600);
    assert_eq!(mode(&rig.socket()), 0o600);
    let token = rig.token();
    assert_eq!(token.len(), 64, "256 bits in hexadecimal digits");
    let certificate = fs::read(state.join("admin-cert.pem")).unwrap();
    let (directory, port) = rig.stop();

    let rig = Rig::restarted(directory, port);
    assert_eq!(rig.token(), token);
    assert_eq!(fs::read(state.join("admin-cert.pem")).unwrap(), certificate);
    assert_eq!(rig.send_tls("GET", "/healthz", &[], b"").status, 200);
    assert_ne!(Rig::start().token(), token, "every node has its own");
}

#[test]
fn a_certificate_without_its_key_is_made_anew() {
    let rig = Rig::start();
    let key = rig.state().join("admin-key.pem");
    let (directory, port) = rig.stop();
    fs::write(&key, "-----BEGIN").unwrap();
    let rig = Rig::restarted(directory, port);
    assert_eq!(rig.send_tls("GET", "/healthz", &[], b"").status, 200);
    let (directory, port) = rig.stop();
    fs::remove_file(&key).unwrap();
    let rig = Rig::restarted(directory, port);
    assert_eq!(rig.send_tls("GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn a_socket_that_a_killed_node_left_is_replaced() {
    let rig = Rig::start();
    let socket = rig.socket();
    let (directory, port) = rig.stop();
    assert!(socket.exists(), "a node that was cut off removes nothing");
    let rig = Rig::restarted(directory, port);
    assert_eq!(rig.ask("GET", "/healthz").status, 200);
}

#[test]
fn a_socket_that_is_answered_and_a_file_that_is_none_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let answered = UnixListener::bind(&path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let refused = controlplane::admin::listen::unix(&path).unwrap_err();
    assert!(refused.to_string().contains("another running instance"), "{refused}");
    drop(answered);
    assert!(controlplane::admin::listen::unix(&path).is_ok());

    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    let refused = controlplane::admin::listen::unix(&path).unwrap_err();
    assert!(refused.to_string().contains("not a socket"), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn only_root_needs_no_token_on_the_socket() {
    let rig = Rig::start();
    // The mode keeps others out; where somebody opened it, who connects is looked at.
    for path in [rig.directory.path(), rig.socket().parent().unwrap()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(rig.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let status = |user: &str| {
        let output = std::process::Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups", "curl", "--silent"])
            .args(["--output", "/dev/null", "--write-out", "%{http_code}", "--unix-socket"])
            .arg(rig.socket())
            .arg("http://localhost/api/v1/config")
            .output()
            .expect("setpriv and curl are there");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(status("0"), "200");
    assert_eq!(status("65534"), "401");
}

#[test]
fn http_2_is_spoken_to_who_asks_for_it() {
    let rig = Rig::start();
    let trust = rig.trust(&[b"h2"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = TcpStream::connect(("127.0.0.1", rig.port)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(trust));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        for _ in 0..3 {
            let request = hyper::Request::get("https://localhost/api/v1/config")
                .header("authorization", format!("Bearer {}", rig.token()))
                .body(Empty::<Bytes>::new())
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, rig.ask("GET", "/api/v1/config").body);
        }
    });
}

#[test]
fn the_operators_certificate_is_shown_and_a_wrong_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let [good, other] = ["good", "other"].map(|name| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let (certificate, key) = (directory.path().join(certificate), directory.path().join(key));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (certificate, key)
    });
    use controlplane::admin::certificate::given;
    assert!(given(&good.0, &good.1).is_ok());
    let told = |certificate, key| given(certificate, key).unwrap_err().to_string();
    assert!(told(&good.0, &other.1).contains("other.key"));
    assert!(told(&good.1, &good.1).contains("holds no certificate"));
    assert!(told(&good.0, &good.0).contains("holds no private key"));
    assert!(told(&directory.path().join("gone.pem"), &good.1).contains("gone.pem"));
    drop(Rig::in_directory(directory, CONFIGURATION)); // and the names do not get in each other's way
}
