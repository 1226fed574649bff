//! Text over telnet (RFC 854): every option that the server wants is declined.

use super::chat::Chat;
use super::{Asking, Failure, LONGEST_ANSWER};
use crate::config::Expect;
use crate::net::Net;

const END_OF_SUBNEGOTIATION: u8 = 240;
const SUBNEGOTIATION: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const INTERPRET_AS_COMMAND: u8 = 255;

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    expect: Option<&Expect>,
) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "telnet", None).await?;
    let mut reader = Reader::default();
    loop {
        for byte in chat.some().await? {
            reader.take(byte);
        }
        let declined = std::mem::take(&mut reader.declined);
        if !declined.is_empty() {
            chat.say(&declined).await?;
        }
        let enough = match expect {
            None => !reader.text.is_empty(),
            Some(expect) => expect.is_in(&reader.text),
        };
        if enough {
            return Ok(());
        }
        if reader.heard > LONGEST_ANSWER {
            let missing = expect.map_or("text".into(), ToString::to_string);
            return Err(chat.failure(format_args!("answered without {missing}")));
        }
        chat.rest().await;
    }
}

/// Parts text from commands.
#[derive(Default)]
struct Reader {
    at: At,
    heard: usize,
    text: Vec<u8>,
    declined: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum At {
    #[default]
    Text,
    Command,
    /// The option of this command.
    Option(u8),
    Subnegotiation,
    SubnegotiationCommand,
}

impl Reader {
    fn take(&mut self, byte: u8) {
        self.heard += 1;
        self.at = match (self.at, byte) {
            (At::Text, INTERPRET_AS_COMMAND) => At::Command,
            (At::Text, _) => {
                self.text.push(byte);
                At::Text
            }
            (At::Command, WILL..=DONT) => At::Option(byte),
            (At::Command, SUBNEGOTIATION) => At::Subnegotiation,
            (At::Command, INTERPRET_AS_COMMAND) => {
                self.text.push(byte);
                At::Text
            }
            (At::Command, _) => At::Text,
            (At::Option(command), option) => {
                let answer = match command {
                    DO => Some(WONT),
                    WILL => Some(DONT),
                    _ => None,
                };
                let declined = answer.map(|answer| [INTERPRET_AS_COMMAND, answer, option]);
                self.declined.extend(declined.into_iter().flatten());
                At::Text
            }
            (At::Subnegotiation, INTERPRET_AS_COMMAND) => At::SubnegotiationCommand,
            (At::SubnegotiationCommand, END_OF_SUBNEGOTIATION) => At::Text,
            (At::Subnegotiation | At::SubnegotiationCommand, _) => At::Subnegotiation,
        };
    }
}
