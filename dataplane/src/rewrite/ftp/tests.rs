use proptest::prelude::*;

use super::*;

fn address(text: &str) -> Option<Address> {
    Some(text.parse().unwrap())
}

/// Kind, address, port, and the text that stands for them.
type Found<'p> = (Kind, Option<Address>, u16, &'p str);

fn found(payload: &str, announcement: Option<Announcement>) -> Option<Found<'_>> {
    let Announcement { kind, address, port, at } = announcement?;
    Some((kind, address, port, &payload[at]))
}

fn command(payload: &str) -> Option<Found<'_>> {
    found(payload, find_command(payload.as_bytes()))
}

fn reply(payload: &str) -> Option<Found<'_>> {
    found(payload, find_reply(payload.as_bytes()))
}

fn written(kind: Kind, text: &str, port: u16) -> Option<String> {
    let mut out = ArrayVec::from([b'x'; 64]);
    write(kind, text.parse().unwrap(), port, &mut out)
        .then(|| String::from_utf8(out.to_vec()).unwrap())
}

#[test]
fn a_client_s_port_is_found() {
    let text = "10,0,0,7,195,80";
    let expected = Some((Kind::Port, address("10.0.0.7"), 50_000, text));
    for payload in [
        "PORT 10,0,0,7,195,80\r\n",
        "port 10,0,0,7,195,80\n",
        "Port  10,0,0,7,195,80 \r\n",
        "TYPE I\r\nPORT 10,0,0,7,195,80\r\nRETR file\r\n",
        "PORT\r\nPORT x\r\nPORT 10,0,0,7,195,80\r\n",
    ] {
        assert_eq!(command(payload), expected, "{payload:?}");
    }
}

#[test]
fn a_client_s_extended_port_is_found() {
    // The examples of RFC 2428 section 2.
    let v4 = "|1|132.235.1.2|6275|";
    let found = command("EPRT |1|132.235.1.2|6275|\r\n");
    assert_eq!(found, Some((Kind::ExtendedPort, address("132.235.1.2"), 6275, v4)));
    let v6 = "|2|1080::8:800:200C:417A|5282|";
    let found = command("EPRT |2|1080::8:800:200C:417A|5282|\r\n");
    assert_eq!(found, Some((Kind::ExtendedPort, address("1080::8:800:200c:417a"), 5282, v6)));
    let other = command("eprt !1!132.235.1.2!6275!\r\n");
    assert_eq!(
        other,
        Some((Kind::ExtendedPort, address("132.235.1.2"), 6275, "!1!132.235.1.2!6275!"))
    );
}

#[test]
fn commands_that_are_not_whole_or_not_right_are_left_alone() {
    for payload in [
        "",
        "\r\n",
        "PORT 10,0,0,7,195,80",
        "PORT 10,0,0,7,195,80\r",
        "PORT10,0,0,7,195,80\r\n",
        "XPORT 10,0,0,7,195,80\r\n",
        " PORT 10,0,0,7,195,80\r\n",
        "STOR PORT 10,0,0,7,195,80\r\n",
        "PORT 10,0,0,7,195\r\n",
        "PORT 10,0,0,7,195,80,1\r\n",
        "PORT 10,0,0,7,195,80 x\r\n",
        "PORT 10,0,0,7,195,\r\n",
        "PORT 10,,0,7,195,80\r\n",
        "PORT 10.0.0.7.195.80\r\n",
        "PORT 256,0,0,7,195,80\r\n",
        "PORT 10,0,0,7,195,256\r\n",
        "PORT 0010,0,0,7,195,80\r\n",
        "PORT -1,0,0,7,195,80\r\n",
        "PORT 10,0,0,7,0,0\r\n",
        "PORT 4294967306,0,0,7,195,80\r\n",
        "EPRT |1|10.0.0.7|0|\r\n",
        "EPRT |1|10.0.0.7|65536|\r\n",
        "EPRT |1|10.0.0.7|4294967297|\r\n",
        "EPRT |1|10.0.0.7|50000\r\n",
        "EPRT |1|10.0.0.7!50000|\r\n",
        "EPRT |1|10.0.0|50000|\r\n",
        "EPRT |1|2001:db8::7|50000|\r\n",
        "EPRT |2|10.0.0.7|50000|\r\n",
        "EPRT |2|::ffff:10.0.0.7|50000|\r\n",
        "EPRT |3|10.0.0.7|50000|\r\n",
        "EPRT ||10.0.0.7|50000|\r\n",
        "EPRT |||50000|\r\n",
        "EPRT |1|10.0.0.7|50000||\r\n",
        "EPRT \r\n",
        "227 Entering Passive Mode (10,0,0,7,195,80)\r\n",
    ] {
        assert_eq!(command(payload), None, "{payload:?}");
    }
}

#[test]
fn the_passive_replies_of_real_servers_are_found() {
    let text = "10,0,0,7,195,80";
    let expected = Some((Kind::Passive, address("10.0.0.7"), 50_000, text));
    for payload in [
        "227 Entering Passive Mode (10,0,0,7,195,80).\r\n", // vsftpd, ProFTPD, IIS
        "227 Entering Passive Mode (10,0,0,7,195,80)\r\n",  // Pure-FTPd, BusyBox
        "227 Entering passive mode. 10,0,0,7,195,80\r\n",
        "227 Data transfer will passively listen to 10,0,0,7,195,80\r\n",
        "227 10,0,0,7,195,80\r\n",  // sys-ftpd, B4X
        "227 =10,0,0,7,195,80\r\n", // publicfile
        "227 Entering Passive Mode(10,0,0,7,195,80)\r\n",
        "227-listen socket created\r\n227 (10,0,0,7,195,80)\r\n", // aioftp
        "227-Entering Passive Mode (10,0,0,7,195,80)\r\n227 done\r\n",
        "227-Passive\r\n (10,0,0,7,195,80)\r\n227 done\r\n",
        "200 Type set to I\r\n227 Entering Passive Mode (10,0,0,7,195,80).\r\n",
        "230-Welcome\r\n230 in\r\n227 Entering Passive Mode (10,0,0,7,195,80).\r\n",
        "227 Entering Passive Mode (10,0,0,7,195,80)\n",
    ] {
        assert_eq!(reply(payload), expected, "{payload:?}");
    }
    let spaced = reply("227 Entering Passive Mode( 10, 0, 0, 7, 195, 080 )\r\n");
    assert_eq!(spaced, Some((Kind::Passive, address("10.0.0.7"), 50_000, "10, 0, 0, 7, 195, 080")));
}

#[test]
fn the_extended_passive_replies_of_real_servers_are_found() {
    for payload in [
        "229 Entering Extended Passive Mode (|||50000|)\r\n", // vsftpd 3, ProFTPD, IIS
        "229 Entering Extended Passive Mode (|||50000|).\r\n", // vsftpd 2, Serv-U
        "229 Extended Passive mode OK (|||50000|)\r\n",       // Pure-FTPd
        "229-Entering\r\n229 Extended Passive Mode (|||50000|)\r\n",
        "229 (experimental) Entering Extended Passive Mode (|||50000|\r\n",
    ] {
        let expected = Some((Kind::ExtendedPassive, None, 50_000, "|||50000|"));
        assert_eq!(reply(payload), expected, "{payload:?}");
    }
    let other = reply("229 Entering Extended Passive Mode (!!!50000!)\r\n");
    assert_eq!(other, Some((Kind::ExtendedPassive, None, 50_000, "!!!50000!")));
}

#[test]
fn replies_that_are_not_whole_or_not_right_are_left_alone() {
    for payload in [
        "",
        "227",
        "227\r\n",
        "227 \r\n",
        "227 Entering Passive Mode (10,0,0,7,195,80)",
        "227 Entering Passive Mode (10,0,0,7,195,80\r",
        "2270 (10,0,0,7,195,80)\r\n",
        "227(10,0,0,7,195,80)\r\n",
        " 227 (10,0,0,7,195,80)\r\n",
        "226 (10,0,0,7,195,80)\r\n",
        "227 (10,0,0,7,195)\r\n",
        "227 (10,0,0,7,195,80,81)\r\n",
        "227 (300,0,0,7,195,80)\r\n",
        "227 (1,300,10,0,0,7,195,80)\r\n",
        "227 (10,0,0,7,0,0)\r\n",
        "229 Entering Extended Passive Mode (|||0|)\r\n",
        "229 Entering Extended Passive Mode (|||65536|)\r\n",
        "229 Entering Extended Passive Mode (||50000|)\r\n",
        "229 Entering Extended Passive Mode (|||50000)\r\n",
        "229 Entering Extended Passive Mode (||!50000|)\r\n",
        "229 Entering Extended Passive Mode (111500001)\r\n",
        "229 Entering Extended Passive Mode |||50000|\r\n",
        "230-The text of another reply:\r\n227 Entering Passive Mode (10,0,0,7,195,80)\r\n230 done\r\n",
        "PORT 10,0,0,7,195,80\r\n",
    ] {
        assert_eq!(reply(payload), None, "{payload:?}");
    }
}

#[test]
fn a_line_that_is_too_long_is_left_out_and_the_next_is_not() {
    let long = "x".repeat(65_000);
    assert_eq!(reply(&format!("227 {long} (10,0,0,7,195,80)\r\n")), None);
    assert!(reply(&format!("220 {long}\r\n227 (10,0,0,7,195,80)\r\n")).is_some());
    let digits = "1,".repeat(32_000);
    assert_eq!(reply(&format!("227 {digits}\r\n")), None);
}

#[test]
fn what_takes_its_place_is_written_as_it_was_said() {
    let written = |kind, text| written(kind, text, 50_000);
    assert_eq!(written(Kind::Port, "192.0.2.1").unwrap(), "192,0,2,1,195,80");
    assert_eq!(written(Kind::Passive, "192.0.2.1").unwrap(), "192,0,2,1,195,80");
    assert_eq!(written(Kind::ExtendedPort, "192.0.2.1").unwrap(), "|1|192.0.2.1|50000|");
    assert_eq!(written(Kind::ExtendedPort, "2001:db8::1").unwrap(), "|2|2001:db8::1|50000|");
    assert_eq!(written(Kind::ExtendedPassive, "192.0.2.1").unwrap(), "|||50000|");
    assert_eq!(written(Kind::ExtendedPassive, "2001:db8::1").unwrap(), "|||50000|");
    assert_eq!(written(Kind::Port, "2001:db8::1"), None);
    assert_eq!(written(Kind::Passive, "2001:db8::1"), None);
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Port, Kind::ExtendedPort, Kind::Passive, Kind::ExtendedPassive])
}

fn any_address() -> impl Strategy<Value = Address> {
    let v4 = any::<u32>().prop_map(|bits| Address::from(Ipv4Addr::from_bits(bits)));
    prop_oneof![v4, any::<u128>().prop_map(Address::from_bits)]
}

/// Lines that are nearly right.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        "PORT ",
        "EPRT ",
        "227 ",
        "227-",
        "229 ",
        "229-",
        "230-",
        "230 ",
        "(",
        ")",
        "|",
        "|||",
        "1",
        "2",
        "10",
        "255",
        "256",
        "99999",
        ",",
        ", ",
        ".",
        ":",
        "::",
        "\r\n",
        "\n",
        "10,0,0,7,195,80",
        "|1|10.0.0.7|80|",
        "(|||80|)",
        "\r",
        "\u{ff}",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #[test]
    fn what_is_written_is_found_again(kind in any_kind(), address in any_address(), port in 1u16.., before in "([a-z ]{0,9}\r\n){0,3}") {
        let mut text = ArrayVec::new();
        if !write(kind, address, port, &mut text) {
            prop_assert!(matches!(kind, Kind::Port | Kind::Passive) && !address.is_v4());
            return Ok(());
        }
        let text = str::from_utf8(&text).unwrap();
        let (payload, find): (_, fn(&[u8]) -> _) = match kind {
            Kind::Port => (format!("{before}PORT {text}\r\n"), find_command),
            Kind::ExtendedPort => (format!("{before}EPRT {text}\r\n"), find_command),
            Kind::Passive => (format!("{before}227 Passive ({text}).\r\n"), find_reply),
            Kind::ExtendedPassive => (format!("{before}229 Passive ({text})\r\n"), find_reply),
        };
        let address = (kind != Kind::ExtendedPassive).then_some(address);
        prop_assert_eq!(found(&payload, find(payload.as_bytes())), Some((kind, address, port, text)));
    }

    #[test]
    fn in_any_bytes_what_is_found_can_be_written_anew(payload in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), nearly()]) {
        for (find, end) in [(find_command as fn(&[u8]) -> _, &b" "[..]), (find_reply, b"")] {
            let Some(Announcement { kind, address, port, at }) = find(&payload) else {
                continue;
            };
            prop_assert!(port > 0 && at.start < at.end);
            let mut text = ArrayVec::new();
            prop_assert!(write(kind, address.unwrap_or_default(), port, &mut text));
            let mut anew = payload.clone();
            anew.splice(at.clone(), text.iter().copied());
            let at = at.start..at.start + text.len();
            prop_assert_eq!(find(&anew), Some(Announcement { kind, address, port, at: at.clone() }));
            prop_assert!(anew[at.end..].contains(&b'\n'));
            prop_assert!(end.is_empty() || anew[..at.start].ends_with(end));
        }
    }
}
