//! A MySQL 8 server as we speak to it: a login by `caching_sha2_password`, with a server that knows the password, that
//! remembers it, or that wants it encrypted for its key.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use rcgen::{KeyPair, PKCS_RSA_SHA256};

use super::*;

const SCRAMBLE: &[u8; 20] = b"abcdefghijklmnopqrst";
/// Of a server that greets with another method.
const LATER_SCRAMBLE: &[u8; 20] = b"ABCDEFGHIJKLMNOPQRST";
const PASSWORD: &str = "correct horse battery staple";

/// A key of 512 bits, which anybody can break.
const WEAK_KEY: &[u8] = b"\x01-----BEGIN PUBLIC KEY-----\n\
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAMguRY1sieAZxNbx1e4lQoqiomVAxzUD\n\
Z8Vwq2c3u2dyubW4q8aZt4A/TceiRVme1yYeqXaupid0qfAceff2SO0CAwEAAQ==\n\
-----END PUBLIC KEY-----\n";

/// What kind of server it is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// It has this password in its cache.
    Remembers,
    /// It has not, as after a start.
    Forgets,
    /// The same, and it greets with another method.
    Switches,
    /// It says this instead of its key.
    Says(&'static [u8]),
}

fn greeting(method: &str) -> Vec<u8> {
    let mut greeting = b"\x0a8.4.5\0\x01\0\0\0".to_vec();
    greeting.extend_from_slice(&SCRAMBLE[..8]);
    greeting.extend_from_slice(&[0, 0xff, 0xff, 0xff, 2, 0, 0xff, 0xdf, 21]);
    greeting.extend_from_slice(&[0; 10]);
    greeting.extend_from_slice(&SCRAMBLE[8..]);
    greeting.push(0);
    greeting.extend_from_slice(method.as_bytes());
    greeting.push(0);
    greeting
}

/// The proof of a password (caching_sha2_password's "fast authentication").
fn proof(password: &str, scramble: &[u8]) -> Vec<u8> {
    let once = digest(&SHA256, password.as_bytes());
    let twice = digest(&SHA256, once.as_ref());
    let mask = digest(&SHA256, &[twice.as_ref(), scramble].concat());
    once.as_ref().iter().zip(mask.as_ref()).map(|(one, other)| one ^ other).collect()
}

/// The two sides' packets, by number.
struct Wire(TcpStream);

impl Wire {
    async fn say(&mut self, number: u8, packet: &[u8]) {
        let length = (packet.len() as u32).to_le_bytes();
        let framed = [&length[..3], &[number], packet].concat();
        self.0.write_all(&framed).await.unwrap();
    }

    async fn hear(&mut self, number: u8) -> Vec<u8> {
        let mut header = [0; 4];
        self.0.read_exact(&mut header).await.unwrap();
        assert_eq!(header[3], number, "packets are numbered");
        let length = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let mut packet = vec![0; length as usize];
        self.0.read_exact(&mut packet).await.unwrap();
        packet
    }
}

/// One login. Whoever does not know [`PASSWORD`] is refused as MySQL does it: a proof that is wrong is not the end, since
/// the cache may be. Says whether the password itself was needed.
async fn serve_login(manner: Manner, mut wire: Wire) -> bool {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let (method, scramble) = match manner {
        Manner::Switches => ("sha256_password", LATER_SCRAMBLE),
        _ => ("caching_sha2_password", SCRAMBLE),
    };
    wire.say(0, &greeting(method)).await;
    let mut number = 1;
    let response = wire.hear(number).await;
    let given = if manner == Manner::Switches {
        let switch = [b"\xfecaching_sha2_password\0", &scramble[..], &[0]].concat();
        wire.say(number + 1, &switch).await;
        number += 2;
        wire.hear(number).await
    } else {
        // Behind 32 bytes of capabilities: the user, the proof's length, the proof.
        let (user, rest) = response[32..].split_at(b"check\0".len());
        assert_eq!((user, rest[0]), (&b"check\0"[..], 32));
        rest[1..33].to_vec()
    };
    let mut is_right = given == proof(PASSWORD, scramble);
    let needs_password = !(manner == Manner::Remembers && is_right);
    if !needs_password {
        wire.say(number + 1, &[1, 3]).await;
        number += 2;
    } else {
        wire.say(number + 1, &[1, 4]).await;
        number += 2;
        assert_eq!(wire.hear(number).await, [2], "it asks for the key");
        let key_packet = match manner {
            Manner::Says(packet) => packet.to_vec(),
            _ => [&[1], key.public_key_pem().as_bytes()].concat(),
        };
        wire.say(number + 1, &key_packet).await;
        number += 2;
        if matches!(manner, Manner::Says(_)) {
            sleep(Duration::from_secs(5)).await;
            return needs_password;
        }
        let sealed = wire.hear(number).await;
        let key = PrivateDecryptingKey::from_pkcs8(&key.serialize_der()).unwrap();
        let key = OaepPrivateDecryptingKey::new(key).unwrap();
        let mut plain = vec![0; key.min_output_size()];
        let plain = key.decrypt(&OAEP_SHA1_MGF1SHA1, &sealed, &mut plain, None).unwrap();
        let masked = plain.iter().zip(scramble.iter().cycle());
        let password: Vec<u8> = masked.map(|(byte, mask)| byte ^ mask).collect();
        is_right = password == [PASSWORD.as_bytes(), &[0]].concat();
        number += 1;
    }
    if !is_right {
        wire.say(number, b"\xff\x15\x04#28000Access denied").await;
        return needs_password;
    }
    wire.say(number, &[0, 0, 0, 2, 0, 0, 0]).await;
    assert_eq!(wire.hear(0).await, [14], "a ping");
    wire.say(1, &[0, 0, 0, 2, 0, 0, 0]).await;
    assert_eq!(wire.hear(0).await, [1], "it takes its leave");
    needs_password
}

async fn login(manner: Manner, password: &str) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server =
        tokio::spawn(
            async move { serve_login(manner, Wire(listener.accept().await.unwrap().0)).await },
        );
    let check = check(json!({ "type": "mysql", "user": "check", "password": password }));
    let outcome = ask(&Kernel, &Tools::default(), &target(at), &check, 0).await;
    if outcome.is_ok() {
        let needs_password = server.await.unwrap();
        assert_eq!(needs_password, manner != Manner::Remembers, "a proof is enough: {manner:?}");
    }
    outcome
}

#[test]
fn a_login_succeeds_whether_a_mysql_8_server_remembers_the_password_or_not() {
    runtime().block_on(async {
        for manner in [Manner::Remembers, Manner::Forgets, Manner::Switches] {
            assert_eq!(login(manner, PASSWORD).await, Ok(()), "{manner:?}");
            let Failure(reason) = login(manner, "wrong").await.unwrap_err();
            assert!(reason.ends_with("answered \"Access denied\""), "{manner:?}: {reason}");
        }
    });
}

#[test]
fn a_server_without_a_usable_key_gets_no_password() {
    let keys: [&'static [u8]; 6] = [
        b"\x01",
        b"\x01-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"\x01-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"\x01\x04",
        b"\0\0\0\x02\0\0\0",
        WEAK_KEY,
    ];
    runtime().block_on(async {
        for key in keys {
            let Failure(reason) = login(Manner::Says(key), PASSWORD).await.unwrap_err();
            let expected = "gave no key that a password can be encrypted for";
            assert!(reason.ends_with(expected), "{key:?}: {reason}");
        }
    });
}
