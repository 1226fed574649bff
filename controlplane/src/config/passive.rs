//! `passive`: servers are judged by their connections.

use super::address::{duration, seconds};
use crate::document;
use crate::field::{Field, Invalid, Refusals, Shape};

/// An hour, in seconds.
const HOUR: u32 = 3600;
/// The most connections that can be asked for.
const MOST_UNANSWERED: u32 = 1_000_000;
/// The most servers that can be asked for.
const MOST_SERVERS: u32 = 65_536;

/// When a server is left out because of what its connections tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passive {
    /// Whether any is.
    pub eject: bool,
    /// After so many connections in a row without an answer.
    pub unanswered: u32,
    /// How long one of those counts, in seconds.
    pub window: u32,
    /// How long it is left out, in seconds.
    pub eject_for: u32,
    /// How many may be left out at once.
    pub max_ejected: MostEjected,
}

/// How many servers may be left out at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MostEjected {
    /// So many.
    Servers(u32),
    /// So many in a hundred of all, rounded down, but at least one.
    Percent(u32),
}

impl MostEjected {
    /// How many of so many servers that is; never all of them.
    pub fn of(self, servers: usize) -> usize {
        let most = match self {
            Self::Servers(most) => most as usize,
            Self::Percent(percent) => (servers * percent as usize / 100).max(1),
        };
        most.min(servers.saturating_sub(1))
    }
}

const PASSIVE: Shape =
    Shape { known: &["eject", "unanswered", "window", "eject_for", "max_ejected"], later: &[] };

/// `None` if anything was refused; none of it is there if nothing was written.
#[allow(clippy::option_option)] // was it read, and is there one
pub(super) fn passive(field: &Field<'_>, refusals: &mut Refusals) -> Option<Option<Passive>> {
    if !field.is_given() {
        return Some(None);
    }
    let table = field.table(&PASSIVE, refusals)?;
    let eject = refusals.keep(table.at("eject").or(true, Field::truth));
    let unanswered = table.at("unanswered").or(5, |field| field.number(1..=MOST_UNANSWERED));
    let unanswered = refusals.keep(unanswered);
    let window = refusals.keep(table.at("window").or(10, |field| duration(field, 1, HOUR)));
    let eject_for = table.at("eject_for").or(30, |field| duration(field, 1, 24 * HOUR));
    let eject_for = refusals.keep(eject_for);
    let max_ejected = table.at("max_ejected").or(MostEjected::Servers(1), most_ejected);
    let max_ejected = refusals.keep(max_ejected);
    Some(Some(Passive {
        eject: eject?,
        unanswered: unanswered?,
        window: window?,
        eject_for: eject_for?,
        max_ejected: max_ejected?,
    }))
}

fn most_ejected(field: &Field<'_>) -> Result<MostEjected, Invalid> {
    let expected = "a number of servers, 1 to 65536, or a share of them, \"1%\" to \"100%\"";
    if let Ok(number) = field.number(1..=MOST_SERVERS) {
        return Ok(MostEjected::Servers(number));
    }
    let percent = field.parsed(expected, |text| {
        let digits = text.strip_suffix('%')?;
        let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse().ok().filter(|percent| plain && (1..=100).contains(percent))
    });
    percent.map(MostEjected::Percent)
}

impl Passive {
    pub(super) fn document(self) -> document::Passive {
        document::Passive {
            eject: self.eject,
            unanswered: self.unanswered,
            window: seconds(self.window),
            eject_for: seconds(self.eject_for),
            max_ejected: match self.max_ejected {
                MostEjected::Servers(number) => document::MostEjected::Servers(number),
                MostEjected::Percent(percent) => {
                    document::MostEjected::Share(format!("{percent}%"))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(written: &Value) -> Result<Option<Passive>, Vec<String>> {
        let mut refusals = Refusals::default();
        let read = passive(&Field::root(written), &mut refusals);
        match refusals.is_empty() {
            true => Ok(read.expect("nothing was refused")),
            false => Err(refusals.into_told().iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn every_setting_is_read_and_shown_again_and_has_a_default() {
        let written = json!({
            "eject": false, "unanswered": 7, "window": "1m", "eject_for": "2h", "max_ejected": "40%",
        });
        let passive = read(&written).unwrap().unwrap();
        assert_eq!(passive.max_ejected, MostEjected::Percent(40));
        assert_eq!(serde_json::to_value(passive.document()).unwrap(), written);
        let usual = read(&json!({})).unwrap().unwrap();
        assert_eq!(usual.document(), document::Passive::default());
        assert!(usual.eject);
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        for (name, wrong) in [
            ("eject", json!("yes")),
            ("unanswered", json!(0)),
            ("unanswered", json!(1_000_001)),
            ("window", json!("0s")),
            ("window", json!("2h")),
            ("eject_for", json!("25h")),
            ("max_ejected", json!(0)),
            ("max_ejected", json!("0%")),
            ("max_ejected", json!("101%")),
            ("max_ejected", json!("+5%")),
            ("max_ejected", json!("half")),
            ("ejekt", json!(true)),
        ] {
            let refused = read(&json!({ name: wrong })).unwrap_err();
            assert!(refused[0].starts_with(name), "{refused:?}");
        }
    }

    #[test]
    fn a_share_is_at_least_one_server_and_never_all() {
        let of = |most: MostEjected, servers| most.of(servers);
        assert_eq!([0, 1, 2, 10].map(|n| of(MostEjected::Percent(30), n)), [0, 0, 1, 3]);
        assert_eq!([0, 1, 2, 10].map(|n| of(MostEjected::Servers(4), n)), [0, 0, 1, 4]);
        assert_eq!(of(MostEjected::Percent(100), 10), 9);
    }
}
